"""A set of images as comparisons need it: statistics, Inception Score, and features.

Memory is a few batches, the running sums, a digest an image (216 bytes with its places) and,
without a cache, the pooled features that precision and recall need: 8 KB an image for Inception.
With a cache, all features are on disk.
"""

from dataclasses import dataclass
from typing import TypedDict

import numpy as np
from jaxtyping import Float32, UInt8

from metrics.extraction.cache_entry import StoredFeatures
from metrics.extraction.feature_cache import FeatureCache
from metrics.extraction.feature_files import FeatureFiles
from metrics.extraction.image_pass import Extraction, stored_features
from metrics.formulas.inception_score import RunningInceptionScore
from metrics.formulas.statistics import FeatureStatistics
from metrics.images.inspection import ImageFindings
from metrics.images.source import ImageSource
from metrics.networks.network import Features, MetricNetwork
from metrics.settings import DEFAULT_BATCH_SIZE, SPLIT_SIZE
from repa_base.processes import Processes
from repa_base.progress import Progress, steps_of


@dataclass(frozen=True, eq=False)
class Measurement:
    """What comparisons need to know of a set of images; None where it is not known.

    Attributes:
        name: Where the images come from.
        count: How many images were measured; None for statistics of an unknown number.
        network: Name of the network that measured them.
        pool: Statistics of the pooled features.
        spatial: Statistics of the spatial features.
        pool_features: Pooled features, in the order of the images; from a cache, a memory map.
        inception_score: Of the class probabilities.
        split_size: Images in a split of it.
        findings: What the pixels told.
        spatial_features: Spatial features likewise, but only from a cache.
        probabilities: Class probabilities likewise, but only from a cache.
        of_images: Whether the statistics are of these images, rather than of others, from a file.
        content_sha256: Hash of the images, or of the file.
        digests: Of the images one by one, as `ImageInspector.digests` gives them.
    """

    name: str
    count: int | None
    network: str
    pool: FeatureStatistics
    spatial: FeatureStatistics | None = None
    pool_features: Float32[np.ndarray, "images pool_dim"] | None = None
    inception_score: float | None = None
    split_size: int | None = None
    findings: ImageFindings | None = None
    spatial_features: Float32[np.ndarray, "images spatial_dim"] | None = None
    probabilities: Float32[np.ndarray, "images classes"] | None = None
    of_images: bool = True
    content_sha256: str | None = None
    digests: UInt8[np.ndarray, "images 16"] | None = None


class MeasureOptions(TypedDict, total=False):
    """The options of `measure` that every function which measures takes and hands on to it."""

    batch_size: int
    cache: FeatureCache | None
    processes: Processes | None
    progress: Progress | None


def measure(
    images: ImageSource,
    network: MetricNetwork,
    *,
    batch_size: int = DEFAULT_BATCH_SIZE,
    split_size: int = SPLIT_SIZE,
    cache: FeatureCache | None = None,
    processes: Processes | None = None,
    progress: Progress | None = None,
) -> Measurement:
    """Measure images in one pass through the network, or in none if the cache knows them.

    Files are read twice: before the pass, for their hash and the checksum of the images, so that
    damage is found before the long work; and for the pass. What a cache knows is not read at all.

    Args:
        images: At least 2.
        network: What measures them.
        batch_size: Images for the network at once.
        split_size: Images in a split of the Inception Score.
        cache: Where features are looked for and kept; kept in memory if it is read-only.
        processes: Those that share the work, each calling this function; they need a folder in
            common for the cache, where their features meet.
        progress: Called after every batch, with this process's share of the images, and while a
            cache's hash of them is computed.

    Returns:
        The same at every process.

    Raises:
        InputError: There are fewer than 2 images, or they are damaged.
        CacheError: The cache cannot be written.
        ValueError: `batch_size` or `split_size` is below 1, or several processes have no cache.
    """
    processes = processes or Processes()
    extraction = Extraction(images, network, batch_size, progress)
    score = RunningInceptionScore(split_size)
    content = None
    if cache is not None and cache.read_only:
        key = cache.key(images, network, progress)
        cache, content = (cache if cache.find(key) else None), key.content
    if cache is not None:
        stored = stored_features(extraction, cache, processes)
        if stored.files.probabilities is not None:
            score.update(stored.files.probabilities)
    elif processes.size > 1:
        raise ValueError(f"{processes.size} processes need a cache in common, to meet in.")
    else:
        stored = _kept_in_memory(extraction, score, content)
    return Measurement(
        name=images.name,
        count=images.count,
        network=network.name,
        pool=stored.statistics.pool,
        spatial=stored.statistics.spatial,
        pool_features=stored.files.pool,
        inception_score=score.finish() if network.num_classes else None,
        split_size=split_size if network.num_classes else None,
        findings=stored.findings,
        spatial_features=stored.files.spatial,
        probabilities=stored.files.probabilities,
        content_sha256=stored.content_sha256,
        digests=stored.digests,
    )


def _kept_in_memory(
    extraction: Extraction, score: RunningInceptionScore, content: str | None
) -> StoredFeatures:
    """Keep the pooled features alone; the score takes the probabilities as they pass."""
    images, network = extraction.images, extraction.network
    content = content or images.sha256(steps_of(extraction.progress, f"hash of {images.name}"))
    pool_features = np.empty((images.count, network.pool_dim), np.float32)
    filled = 0

    def keep(features: Features) -> None:
        nonlocal filled
        end = filled + len(features.pool)
        pool_features[filled:end] = features.pool
        filled = end
        if features.probabilities is not None:
            score.update(features.probabilities)

    sums = extraction.run(range(images.count), keep)
    files = FeatureFiles(pool_features, None, None)
    found = sums.findings(), sums.digests()
    return StoredFeatures(content, files, sums.statistics(network), *found)
