"""One pass over images: running statistics, Inception Score, and the pooled features.

Reading and decoding go on in a background thread while the network computes. Memory is a few
batches, the running sums, and the pooled features that precision and recall need: 8 KB an image
for Inception.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32

from metrics.errors import InputError
from metrics.features import MetricNetwork
from metrics.image_source import ImageSource
from metrics.inception_score import RunningInceptionScore
from metrics.prefetch import prefetch
from metrics.statistics import FeatureStatistics, RunningStatistics

Progress = Callable[[str, int, int], None]
"""Called with the source's name, the images done and the images in all, after every batch."""


@dataclass(frozen=True, eq=False)
class Measurement:
    """What comparisons need to know of a set of images; None where it is not known.

    Attributes:
        name: Where the images come from.
        count: How many images were measured; None for statistics of an unknown number.
        network: Name of the network that measured them.
        pool: Statistics of the pooled features.
        spatial: Statistics of the spatial features.
        pool_features: Pooled features, in the order of the images.
        inception_score: Of the class probabilities.
    """

    name: str
    count: int | None
    network: str
    pool: FeatureStatistics
    spatial: FeatureStatistics | None = None
    pool_features: Float32[np.ndarray, "images pool_dim"] | None = None
    inception_score: float | None = None


def measure(
    images: ImageSource,
    network: MetricNetwork,
    *,
    batch_size: int = 16,
    split_size: int = 5000,
    progress: Progress | None = None,
) -> Measurement:
    """Measure images in one pass.

    Args:
        images: At least 2.
        network: What measures them.
        batch_size: Images for the network at once.
        split_size: Images in a split of the Inception Score.
        progress: Called after every batch.

    Raises:
        InputError: There are fewer than 2 images, or they are damaged.
        ValueError: `batch_size` or `split_size` is below 1.
    """
    count = images.count
    if count < 2:
        raise InputError(f"{images.name} gives {count} image; statistics need at least 2.")
    features = np.empty((count, network.pool_dim), np.float32)
    pool, spatial = RunningStatistics(), RunningStatistics()
    score = RunningInceptionScore(split_size)
    done = 0
    for batch in prefetch(images.batches(batch_size)):
        found = network(batch)
        features[done : done + len(batch)] = found.pool
        pool.update(found.pool)
        if found.spatial is not None:
            spatial.update(found.spatial)
        if found.probabilities is not None:
            score.update(found.probabilities)
        done += len(batch)
        if progress is not None:
            progress(images.name, done, count)
    return Measurement(
        name=images.name,
        count=count,
        network=network.name,
        pool=pool.finish(),
        spatial=spatial.finish() if network.spatial_dim else None,
        pool_features=features,
        inception_score=score.finish() if network.num_classes else None,
    )
