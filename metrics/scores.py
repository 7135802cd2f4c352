"""Every metric of one measurement against another, with its standard error where that is asked for.

What a measurement lacks is left out: a reference without images gives no precision and recall.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float32

from metrics.bootstrap import (
    bootstrap_frechet,
    bootstrap_inception_score,
    bootstrap_precision_recall,
    standard_error,
)
from metrics.features import MetricNetwork
from metrics.frechet import frechet_distance, frechet_infinity
from metrics.kernel_distance import kernel_distance
from metrics.measurement import Measurement
from metrics.precision_recall import precision_recall
from metrics.settings import MetricSettings
from metrics.statistics import FeatureStatistics

EXTRAPOLATION_START = 5000
"""Images in the smallest subset that a Fréchet distance is extrapolated from."""

_MAX_KERNEL_SUBSET = 1000


@dataclass(frozen=True)
class Score:
    """A metric of a set of images.

    Attributes:
        label: What the network's numbers of this kind are called.
        value: The metric.
        compared_with: What it was computed from on the reference's side.
        error: Its standard error over new draws of the generated images; None if not asked for.
    """

    label: str
    value: float
    compared_with: str
    error: float | None = None


def scores(
    samples: Measurement, reference: Measurement, network: MetricNetwork, settings: MetricSettings
) -> Iterator[Score]:
    """Yield the metrics in the order of published tables, then those that are asked for.

    Raises:
        InputError: The measurements do not fit each other, or are too small.
        ValueError: Standard errors are asked for and `samples` does not hold all features.
    """
    labels = network.labels
    generated, real = samples.pool_features, reference.pool_features
    shares: list[Score] = []
    if generated is not None and real is not None:
        # before the square roots of the covariances take their memory
        shares = list(_precision_recall(generated, real, network, settings))
    yield _frechet(
        labels.frechet, samples.pool, samples.pool_features, reference, reference.pool, settings
    )
    if samples.spatial is not None and reference.spatial is not None:
        label, features = labels.spatial_frechet, samples.spatial_features
        yield _frechet(label, samples.spatial, features, reference, reference.spatial, settings)
    if samples.inception_score is not None:
        yield _inception_score(labels.inception_score, samples, settings)
    yield from shares
    if settings.kernel_distance and generated is not None and real is not None:
        yield _kernel_distance(labels.kernel, generated, real, settings)
    if settings.extrapolated and generated is not None:
        found = frechet_infinity(
            generated, reference.pool, smallest=EXTRAPOLATION_START, seed=settings.seed
        )
        yield Score(f"{labels.frechet}-infinity", found.distance, _described(reference))


def _frechet(
    label: str,
    samples: FeatureStatistics,
    features: Float32[np.ndarray, "images dim"] | None,
    reference: Measurement,
    real: FeatureStatistics,
    settings: MetricSettings,
) -> Score:
    error = None
    if settings.num_resamples:
        resamples = bootstrap_frechet(
            _needed(features), real, num_resamples=settings.num_resamples, seed=settings.seed
        )
        error = standard_error(resamples)
    return Score(label, frechet_distance(samples, real), _described(reference), error)


def _inception_score(label: str, samples: Measurement, settings: MetricSettings) -> Score:
    error = None
    if settings.num_resamples:
        resamples = bootstrap_inception_score(
            _needed(samples.probabilities),
            split_size=settings.split_size,
            num_resamples=settings.num_resamples,
            seed=settings.seed,
        )
        error = standard_error(resamples)
    return Score(label, samples.inception_score or 0.0, "no reference", error)


def _precision_recall(
    generated: Float32[np.ndarray, "generated dim"],
    real: Float32[np.ndarray, "real dim"],
    network: MetricNetwork,
    settings: MetricSettings,
) -> Iterator[Score]:
    found = precision_recall(
        _on(network.device, real),
        _on(network.device, generated),
        settings.num_neighbors,
        distances=settings.distances,
    )
    errors = [None, None]
    if settings.num_resamples:
        resamples = bootstrap_precision_recall(found, seed=settings.seed)
        errors = [standard_error(values) for values in resamples]
    images = f"{len(real)} images"
    yield Score(network.labels.precision, found.precision, images, errors[0])
    yield Score(network.labels.recall, found.recall, images, errors[1])


def _kernel_distance(
    label: str,
    generated: Float32[np.ndarray, "generated dim"],
    real: Float32[np.ndarray, "real dim"],
    settings: MetricSettings,
) -> Score:
    # Half of the smaller set at most, so that subsets differ and their spread tells the error.
    subset = min(_MAX_KERNEL_SUBSET, len(real) // 2, len(generated) // 2)
    found = kernel_distance(real, generated, subset_size=subset, seed=settings.seed)
    used = f"{len(real)} images, {subset} at a time"
    return Score(label, found.mean, used, found.standard_error if settings.num_resamples else None)


def _described(reference: Measurement) -> str:
    """Say what the Fréchet distances were computed from: the images, or a file's statistics."""
    features = reference.pool_features
    if features is not None and len(features) == reference.count:
        return f"{reference.count} images"
    number = "an unstated number of" if reference.count is None else str(reference.count)
    return f"mean and covariance of {number} images"


def _needed(features: np.ndarray | None) -> np.ndarray:
    if features is None:
        raise ValueError("Standard errors need all features, which only a cache keeps.")
    return features


def _on(device: torch.device, features: np.ndarray) -> np.ndarray | torch.Tensor:
    """Put features on a GPU; on the CPU they are read as they lie, which may be on disk."""
    return features if device.type == "cpu" else torch.tensor(features, device=device)
