"""The five numbers of a set of images against a reference, with what they were made from."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from metrics.errors import InputError
from metrics.features import MetricNetwork
from metrics.frechet import frechet_distance
from metrics.image_source import ImageSource
from metrics.measurement import Measurement, Progress, measure
from metrics.precision_recall import Distances, precision_recall
from metrics.reference import Reference, check_reference, measure_reference


@dataclass(frozen=True)
class Report:
    """Metrics of a set of images.

    Attributes:
        samples: Where the images come from.
        num_samples: How many they are.
        reference: Where the reference comes from.
        values: Metrics by their labels, in the order of published tables.
        compared_with: For each label, what it was computed from on the reference's side.
        network: Name of the metric network.
        preprocessing: What it does to the pixels.
        weights_sha256: Its weights.
        settings: Everything else that moves a number.
    """

    samples: str
    num_samples: int
    reference: str
    values: Mapping[str, float]
    compared_with: Mapping[str, str]
    network: str
    preprocessing: str
    weights_sha256: str
    settings: Mapping[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return asdict(self)


def evaluate(
    samples: ImageSource,
    reference: Reference,
    network: MetricNetwork,
    *,
    batch_size: int = 16,
    num_neighbors: int = 3,
    distances: Distances = "adm",
    split_size: int = 5000,
    progress: Progress | None = None,
) -> Report:
    """Measure images and a reference, and compare them.

    Args:
        samples: Generated images.
        reference: What they are compared with.
        network: What measures them.
        batch_size: Images for the network at once; moves nothing but the last digits.
        num_neighbors: The neighbour that sets a manifold radius of precision and recall.
        distances: `adm` rounds distances for precision and recall as ADM's evaluator does, because
            published numbers were made so; `exact` is float32.
        split_size: Images in a split of the Inception Score.
        progress: Called after every batch.

    Raises:
        InputError: A source is damaged or too small, or the reference is another network's; found
            before any image is measured where the sources tell.
        ValueError: An option is out of its range.
    """
    reports = evaluate_sets(
        {"samples": samples},
        reference,
        network,
        batch_size=batch_size,
        num_neighbors=num_neighbors,
        distances=distances,
        split_size=split_size,
        progress=progress,
    )
    return reports["samples"]


def evaluate_sets(
    sets: Mapping[str, ImageSource],
    reference: Reference,
    network: MetricNetwork,
    *,
    batch_size: int = 16,
    num_neighbors: int = 3,
    distances: Distances = "adm",
    split_size: int = 5000,
    progress: Progress | None = None,
) -> dict[str, Report]:
    """Compare several named sets of images with one reference, which is measured once.

    Arguments and errors are those of `evaluate`.
    """
    check_reference(reference, network)
    if reference.images is not None:
        for images in (reference.images, *sets.values()):
            _check_count(images, num_neighbors)
    real = measure_reference(reference, network, batch_size=batch_size, progress=progress)
    reports = {}
    for name, images in sets.items():
        measured = measure(
            images, network, batch_size=batch_size, split_size=split_size, progress=progress
        )
        reports[name] = compare(
            measured,
            real,
            network,
            num_neighbors=num_neighbors,
            distances=distances,
            split_size=split_size,
        )
    return reports


def compare(
    samples: Measurement,
    reference: Measurement,
    network: MetricNetwork,
    *,
    num_neighbors: int = 3,
    distances: Distances = "adm",
    split_size: int = 5000,
) -> Report:
    """Compare measurements made by `network`; what one of them lacks is left out of the report.

    Arguments are those of `evaluate`; `split_size` is only noted, the score is in `samples`.

    Raises:
        InputError: The measurements are another network's, or too small.
        ValueError: `num_neighbors` is below 1.
    """
    for measurement in (samples, reference):
        if measurement.network != network.name:
            raise InputError(
                f"{measurement.name} was measured by {measurement.network}, not {network.name}."
            )
    labels = network.labels
    values = {labels.frechet: frechet_distance(samples.pool, reference.pool)}
    used = {labels.frechet: _described(reference)}
    if samples.spatial is not None and reference.spatial is not None:
        values[labels.spatial_frechet] = frechet_distance(samples.spatial, reference.spatial)
        used[labels.spatial_frechet] = _described(reference)
    if samples.inception_score is not None:
        values[labels.inception_score] = samples.inception_score
        used[labels.inception_score] = "no reference"
    if samples.pool_features is not None and reference.pool_features is not None:
        found = precision_recall(
            _on(network.device, reference.pool_features),
            _on(network.device, samples.pool_features),
            num_neighbors,
            distances=distances,
        )
        values |= {labels.precision: found.precision, labels.recall: found.recall}
        images = f"{len(reference.pool_features)} images"
        used |= {labels.precision: images, labels.recall: images}
    return Report(
        samples=samples.name,
        num_samples=samples.count or 0,
        reference=reference.name,
        values=values,
        compared_with=used,
        network=network.name,
        preprocessing=network.preprocessing,
        weights_sha256=network.weights_sha256,
        settings={
            "num_neighbors": num_neighbors,
            "distances": distances,
            "split_size": split_size,
        },
    )


def _check_count(images: ImageSource, num_neighbors: int) -> None:
    if images.count <= num_neighbors:
        raise InputError(
            f"{images.name} gives {images.count} images; precision and recall with "
            f"{num_neighbors} neighbours need at least {num_neighbors + 1}."
        )


def _described(reference: Measurement) -> str:
    """Say what the Fréchet distances were computed from: the images, or a file's statistics."""
    features = reference.pool_features
    if features is not None and len(features) == reference.count:
        return f"{reference.count} images"
    number = "an unstated number of" if reference.count is None else str(reference.count)
    return f"mean and covariance of {number} images"


def _on(device: torch.device, features: np.ndarray) -> Tensor:
    return torch.from_numpy(features).to(device)
