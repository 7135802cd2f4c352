"""Reports as a table: one column a set of images, and what each number was compared with."""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

import typer

from repa_cli.output import print_table

if TYPE_CHECKING:
    from metrics import Report


def print_reports(reports: Mapping[str, "Report"]) -> None:
    """Print the reports of several sets of images against one reference."""
    sets = list(reports.values())
    first = sets[0]
    rows = [
        (label, *(value_text(r.values[label], r.standard_errors.get(label)) for r in sets), other)
        for label, other in first.compared_with.items()
    ]
    counts = ("images", *(str(report.num_samples) for report in sets), "")
    print_table(("metric", *reports, "compared with"), [*rows, counts])
    settings = first.settings
    typer.echo(f"\nreference  {first.reference}")
    typer.echo(f"network    {first.network} ({first.preprocessing})")
    if first.reference_images:
        how = f"{settings['num_neighbors']} neighbours, {settings['distances']} distances"
        typer.echo(f"precision, recall: {how}")
    if settings["num_resamples"]:
        others = "; precision, recall: of their flags" if first.reference_images else ""
        others += "; kernel distance: over its subsets" if settings["kernel_distance"] else ""
        count = settings["num_resamples"]
        typer.echo(f"± standard error, from {count} resamples of the samples{others}")


def value_text(value: float, error: float | None) -> str:
    """Return a value with 4 decimals, or with those that its standard error leaves meaningful.

    An error keeps one digit, or two if the first is 1: 1.42 ± 0.02, 1.423 ± 0.014.
    """
    if error is None:
        return f"{value:z.4f}"  # z: rounding below zero prints no minus
    if not 0 < error < math.inf:
        return f"{value:.4f} ± {error:g}"
    exponent = math.floor(math.log10(error))
    digits = 2 if error / 10.0**exponent < 2 else 1
    decimals = max(0, digits - 1 - exponent)
    return f"{value:.{decimals}f} ± {error:.{decimals}f}"
