"""From files to a report: what judges images, the measurement, the published row beside it."""

from repa.evaluation.evaluate import Evaluation as Evaluation
from repa.evaluation.evaluate import evaluate_file as evaluate_file
from repa.evaluation.measuring import Measuring as Measuring
from repa.evaluation.measuring import feature_cache as feature_cache
from repa.evaluation.measuring import load_named_network as load_named_network
from repa.evaluation.reference_file import reference_maker as reference_maker
from repa.evaluation.reference_file import write_reference_file as write_reference_file
from repa.evaluation.references import EvaluationPlan as EvaluationPlan
from repa.evaluation.references import Provenance as Provenance
from repa.evaluation.references import open_named_reference as open_named_reference
from repa.evaluation.references import plan_evaluation as plan_evaluation
from repa.evaluation.references import provenance as provenance
from repa.evaluation.self_test import Check as Check
from repa.evaluation.self_test import run_self_test as run_self_test
