"""Metrics of generated images: FID, sFID, Inception Score, precision and recall, from one pass.

Images go in as uint8, NHWC; what is compared are the features of a metric network. The mathematics
(`frechet_distance`, `inception_score`, `precision_recall`) stands alone and takes any features.
Knows nothing of diffusion. What a user's file can cause is an `InputError`.
"""

from metrics.bootstrap import (
    bootstrap_frechet,
    bootstrap_frechet_infinity,
    bootstrap_inception_score,
    bootstrap_precision_recall,
    standard_error,
)
from metrics.errors import CacheError, InputError
from metrics.feature_cache import CacheEntry, FeatureCache
from metrics.features import Features, MetricLabels, MetricNetwork, NetworkName, load_network
from metrics.frechet import FrechetExtrapolation, frechet_distance, frechet_infinity
from metrics.image_source import FirstImages, ImageSource
from metrics.images import ArrayImages, open_images
from metrics.inception_score import RunningInceptionScore, inception_score
from metrics.inspection import ImageFindings, ImageInspector, InspectedImages
from metrics.kernel_distance import KernelDistance, kernel_distance
from metrics.lint import LintWarning, lint_images, lint_sources
from metrics.measurement import Measurement, measure
from metrics.noise_images import NoiseImages
from metrics.precision_recall import PrecisionRecall, manifold_radii, precision_recall
from metrics.processes import Processes, SingleProcess
from metrics.reference import Reference, measure_reference, open_reference, write_reference
from metrics.report import Report, compare, evaluate, evaluate_sets
from metrics.settings import MetricSettings
from metrics.statistics import FeatureStatistics, ReferenceStatistics, RunningStatistics

__all__ = [
    "ArrayImages",
    "CacheEntry",
    "CacheError",
    "FeatureCache",
    "FeatureStatistics",
    "Features",
    "FirstImages",
    "FrechetExtrapolation",
    "ImageFindings",
    "ImageInspector",
    "ImageSource",
    "InputError",
    "InspectedImages",
    "KernelDistance",
    "LintWarning",
    "Measurement",
    "MetricLabels",
    "MetricNetwork",
    "MetricSettings",
    "NetworkName",
    "NoiseImages",
    "PrecisionRecall",
    "Processes",
    "Reference",
    "ReferenceStatistics",
    "Report",
    "RunningInceptionScore",
    "RunningStatistics",
    "SingleProcess",
    "bootstrap_frechet",
    "bootstrap_frechet_infinity",
    "bootstrap_inception_score",
    "bootstrap_precision_recall",
    "compare",
    "evaluate",
    "evaluate_sets",
    "frechet_distance",
    "frechet_infinity",
    "inception_score",
    "kernel_distance",
    "lint_images",
    "lint_sources",
    "load_network",
    "manifold_radii",
    "measure",
    "measure_reference",
    "open_images",
    "open_reference",
    "precision_recall",
    "standard_error",
    "write_reference",
]
