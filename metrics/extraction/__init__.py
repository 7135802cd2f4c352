"""One pass over images: a network's features to statistics, to the feature cache, and to findings.

Several processes may share the pass. Nothing is compared here.
"""

from metrics.extraction.feature_cache import CacheEntry, FeatureCache
from metrics.extraction.measurement import Measurement, measure
from repa_base.processes import Processes, SingleProcess

__all__ = [
    "CacheEntry",
    "FeatureCache",
    "Measurement",
    "Processes",
    "SingleProcess",
    "measure",
]
