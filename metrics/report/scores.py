"""Every metric of one measurement against another, with its standard error where that is asked for.

What a measurement lacks is left out: a reference without images gives no precision and recall.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32

from metrics.extraction.measurement import Measurement
from metrics.formulas.bootstrap import (
    bootstrap_frechet,
    bootstrap_frechet_infinity,
    bootstrap_inception_score,
    bootstrap_precision_recall,
    standard_error,
)
from metrics.formulas.frechet import frechet_distance, frechet_infinity
from metrics.formulas.kernel_distance import kernel_distance
from metrics.formulas.precision_recall import precision_recall
from metrics.formulas.statistics import FeatureStatistics
from metrics.networks.network import MetricNetwork
from metrics.settings import MetricSettings
from repa_base.progress import Progress, Steps, steps_of

EXTRAPOLATION_START = 5000
"""Images in the smallest subset that a Fréchet distance is extrapolated from."""

_MAX_KERNEL_SUBSET = 1000
_FLAG_RESAMPLES = 1000  # of precision and recall, which cost next to nothing


@dataclass(frozen=True)
class Score:
    """A metric of a set of images, and what it was computed from on the reference's side.

    `error` is its standard error over new draws of the generated images, None if not asked for;
    `details` holds what else was found on the way, as plain values.
    """

    label: str
    value: float
    compared_with: str
    error: float | None = None
    details: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Comparison:
    """Two measurements of one network, to be compared.

    The `split_size` of the settings is that of the score in `samples`.
    """

    samples: Measurement
    reference: Measurement
    network: MetricNetwork
    settings: MetricSettings
    progress: Progress | None = None

    def scores(self) -> Iterator[Score]:
        """Yield the metrics in the order of published tables, then those that are asked for.

        Raises:
            InputError: The measurements do not fit each other, or are too small.
            ValueError: Standard errors are asked for and `samples` does not hold all features.
        """
        samples, reference, labels = self.samples, self.reference, self.network.labels
        generated, real = samples.pool_features, reference.pool_features
        shares: list[Score] = []
        if generated is not None and real is not None:
            # before the square roots of the covariances take their memory
            shares = list(self._precision_recall(generated, real))
        yield self._frechet(labels.frechet, samples.pool, generated, reference.pool)
        if samples.spatial is not None and reference.spatial is not None:
            label, features = labels.spatial_frechet, samples.spatial_features
            yield self._frechet(label, samples.spatial, features, reference.spatial)
        if samples.inception_score is not None:
            yield self._inception_score(samples.inception_score)
        yield from shares
        if self.settings.kernel_distance and generated is not None and real is not None:
            yield self._kernel_distance(generated, real)
        if self.settings.extrapolated and generated is not None:
            yield self._extrapolated(generated)

    def _frechet(
        self,
        label: str,
        samples: FeatureStatistics,
        features: Float32[np.ndarray, "images dim"] | None,
        real: FeatureStatistics,
    ) -> Score:
        steps = self._steps(f"standard error of {label}, resamples")
        error = self._error(features, bootstrap_frechet, real, progress=steps)
        return Score(label, frechet_distance(samples, real), _described(self.reference), error)

    def _inception_score(self, value: float) -> Score:
        probabilities, split_size = self.samples.probabilities, self.settings.split_size
        error = self._error(probabilities, bootstrap_inception_score, split_size=split_size)
        return Score(self.network.labels.inception_score, value, "no reference", error)

    def _precision_recall(
        self, generated: Float32[np.ndarray, "generated dim"], real: Float32[np.ndarray, "real dim"]
    ) -> Iterator[Score]:
        labels = self.network.labels
        found = precision_recall(
            _on(self.network.device, real),
            _on(self.network.device, generated),
            self.settings.num_neighbors,
            distances=self.settings.distances,
            progress=self._steps(f"{labels.precision} and {labels.recall}, pairs"),
        )
        errors = [None, None]
        details = {}
        if self.settings.num_resamples:
            details = {"num_resamples": _FLAG_RESAMPLES}
            resamples = bootstrap_precision_recall(
                found, num_resamples=_FLAG_RESAMPLES, seed=self.settings.seed
            )
            errors = [standard_error(values) for values in resamples]
        images = f"{len(real)} images"
        yield Score(labels.precision, found.precision, images, errors[0], details)
        yield Score(labels.recall, found.recall, images, errors[1], details)

    def _kernel_distance(
        self, generated: Float32[np.ndarray, "generated dim"], real: Float32[np.ndarray, "real dim"]
    ) -> Score:
        label = self.network.labels.kernel
        # Half of the smaller set at most, so that subsets differ and their spread tells the error.
        subset = min(_MAX_KERNEL_SUBSET, len(real) // 2, len(generated) // 2)
        found = kernel_distance(
            real,
            generated,
            subset_size=subset,
            seed=self.settings.seed,
            progress=self._steps(f"{label}, subsets"),
        )
        used = f"{len(real)} images, {subset} at a time"
        error = found.standard_error if self.settings.num_resamples else None
        details = asdict(found) | {"subset_size": subset}
        return Score(label, found.mean, used, error, details)

    def _extrapolated(self, generated: Float32[np.ndarray, "generated dim"]) -> Score:
        label = f"{self.network.labels.frechet}-infinity"
        found = frechet_infinity(
            generated,
            self.reference.pool,
            smallest=EXTRAPOLATION_START,
            seed=self.settings.seed,
            progress=self._steps(f"{label}, subsets"),
        )
        error = self._error(
            generated,
            bootstrap_frechet_infinity,
            self.reference.pool,
            smallest=EXTRAPOLATION_START,
            progress=self._steps(f"standard error of {label}, resamples"),
        )
        return Score(label, found.distance, _described(self.reference), error, asdict(found))

    def _error(
        self,
        features: np.ndarray | None,
        resample: Callable[..., np.ndarray],
        *arguments: object,
        **options: object,
    ) -> float | None:
        """Resample the features, if that is asked for."""
        if not self.settings.num_resamples:
            return None
        if features is None:
            raise ValueError("Standard errors need all features, which only a cache keeps.")
        drawn = {"num_resamples": self.settings.num_resamples, "seed": self.settings.seed}
        return standard_error(resample(features, *arguments, **drawn, **options))

    def _steps(self, name: str) -> Steps | None:
        return steps_of(self.progress, name)


def _described(reference: Measurement) -> str:
    """Say what the Fréchet distances were computed from: the images, or a file's statistics."""
    if reference.of_images:
        return f"{reference.count} images"
    number = "an unstated number of" if reference.count is None else str(reference.count)
    return f"mean and covariance of {number} images"


def _on(device: torch.device, features: np.ndarray) -> np.ndarray | torch.Tensor:
    """Put features on a GPU; on the CPU they are read as they lie, which may be on disk."""
    return features if device.type == "cpu" else torch.tensor(features, device=device)
