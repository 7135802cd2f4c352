"""From files to a report: what judges images, the measurement, the published row beside it."""

from repa.evaluation.cached import feature_cache
from repa.evaluation.evaluate import Evaluation, evaluate_file
from repa.evaluation.networks import load_named_network
from repa.evaluation.plan import EvaluationPlan, plan_evaluation
from repa.evaluation.reference_file import ReferenceFile, write_reference_file
from repa.evaluation.references import Provenance, open_named_reference, provenance
from repa.evaluation.self_test import Check, run_self_test

__all__ = [
    "Check",
    "Evaluation",
    "EvaluationPlan",
    "Provenance",
    "ReferenceFile",
    "evaluate_file",
    "feature_cache",
    "load_named_network",
    "open_named_reference",
    "plan_evaluation",
    "provenance",
    "run_self_test",
    "write_reference_file",
]
