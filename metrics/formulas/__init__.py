"""The mathematics: features to statistics, distances, scores and their standard errors.

Takes arrays from anywhere, and knows neither images nor networks.
"""

from metrics.formulas.bootstrap import (
    bootstrap_frechet,
    bootstrap_frechet_infinity,
    bootstrap_inception_score,
    bootstrap_precision_recall,
    standard_error,
)
from metrics.formulas.frechet import FrechetExtrapolation, frechet_distance, frechet_infinity
from metrics.formulas.inception_score import RunningInceptionScore, inception_score
from metrics.formulas.kernel_distance import KernelDistance, kernel_distance
from metrics.formulas.precision_recall import PrecisionRecall, manifold_radii, precision_recall
from metrics.formulas.statistics import FeatureStatistics, ReferenceStatistics, RunningStatistics

__all__ = [
    "FeatureStatistics",
    "FrechetExtrapolation",
    "KernelDistance",
    "PrecisionRecall",
    "ReferenceStatistics",
    "RunningInceptionScore",
    "RunningStatistics",
    "bootstrap_frechet",
    "bootstrap_frechet_infinity",
    "bootstrap_inception_score",
    "bootstrap_precision_recall",
    "frechet_distance",
    "frechet_infinity",
    "inception_score",
    "kernel_distance",
    "manifold_radii",
    "precision_recall",
    "standard_error",
]
