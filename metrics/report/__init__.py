"""Numbers of a set of images against a reference, warnings about both, and what they came from."""

from metrics.report.comparison import Report, compare, evaluate, evaluate_sets
from metrics.report.lint import LintWarning, lint_images, lint_sources
from metrics.report.reference import (
    Reference,
    measure_reference,
    open_reference,
    write_reference,
)

__all__ = [
    "LintWarning",
    "Reference",
    "Report",
    "compare",
    "evaluate",
    "evaluate_sets",
    "lint_images",
    "lint_sources",
    "measure_reference",
    "open_reference",
    "write_reference",
]
