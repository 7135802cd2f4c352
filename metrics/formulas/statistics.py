"""Mean and covariance of features: from arrays, as running sums, and in ADM's file form.

Everything is float64 and covariances divide by N - 1, as `numpy.cov` does. This file knows neither
images nor networks, and reads no files: `ReferenceStatistics` maps to and from a dict of arrays.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Float64, Integer, Real
from scipy.linalg import get_blas_funcs, get_lapack_funcs

from metrics.errors import InputError
from repa_base.memory_map import release_pages

# Rows gathered before one matrix product: enough for full speed, 17 MB at 2048 features.
_BUFFER_ROWS = 1024
_SYMMETRY_TOLERANCE = 1e-8

(_pivoted_cholesky,) = get_lapack_funcs(("pstrf",), dtype=np.float64)
(_add_symmetric_product,) = get_blas_funcs(("syrk",), dtype=np.float64)


@dataclass(frozen=True, eq=False)
class FeatureStatistics:
    """First two moments of a feature set.

    Attributes:
        mean: Mean of every feature, (dim,); stored as float64.
        covariance: (dim, dim), symmetric, positive semi-definite, divided by N - 1; stored as
            float64.
        count: Number of feature rows; None where a file does not say.

    Raises:
        InputError: Shapes disagree, a value is not finite, the covariance is not symmetric, or
            `count` is below 2.
    """

    mean: Real[np.ndarray, "..."]
    covariance: Real[np.ndarray, "..."]
    count: int | None = None

    def __post_init__(self) -> None:
        mean = np.asarray(self.mean, dtype=np.float64)
        covariance = np.asarray(self.covariance, dtype=np.float64)
        if mean.ndim != 1 or covariance.shape != (mean.size, mean.size):
            raise InputError(
                "A covariance must be square and as wide as the mean, "
                f"got shapes {covariance.shape} and {mean.shape}."
            )
        if not (np.isfinite(mean).all() and np.isfinite(covariance).all()):
            raise InputError("Mean and covariance must be finite, got NaN or infinity.")
        difference = covariance - covariance.T
        asymmetry = difference.max(initial=0.0)  # as large below 0 as above
        largest = max(covariance.max(initial=0.0), -covariance.min(initial=0.0))
        if asymmetry > _SYMMETRY_TOLERANCE * largest:
            raise InputError(f"A covariance must be symmetric, got a difference of {asymmetry:g}.")
        if self.count is not None and self.count < 2:
            raise InputError(f"Statistics need at least 2 feature rows, got {self.count}.")
        object.__setattr__(self, "mean", mean)
        object.__setattr__(self, "covariance", covariance)

    @classmethod
    def from_features(cls, features: Real[np.ndarray, "count dim"]) -> "FeatureStatistics":
        """Measure a whole feature array (may be a memory map; it is read in order, once).

        Raises:
            InputError: Fewer than 2 rows, or a value is not finite.
        """
        running = RunningStatistics()
        running.update(features)
        return running.finish()

    @cached_property
    def factor(self) -> Float64[np.ndarray, "dim rank"]:
        """What `compute_factor` returns, computed once and kept."""
        return self.compute_factor()

    def compute_factor(self) -> Float64[np.ndarray, "dim rank"]:
        """Return a square root F of the covariance, F F^T = covariance, as wide as its rank.

        Pivoted Cholesky; it stops where nothing but rounding is left, at dim * 2.2e-16 times the
        largest variance, so that a rank-deficient covariance gets an exact, narrower factor.

        Raises:
            InputError: The covariance is not positive semi-definite.
        """
        packed, pivots, rank, _ = _pivoted_cholesky(self.covariance, lower=1)
        factor = np.zeros((self.mean.size, rank))
        factor[pivots - 1] = np.tril(packed[:, :rank])
        trace = np.trace(self.covariance)
        if not np.isclose(np.vdot(factor, factor), trace, rtol=1e-6, atol=0.0):
            raise InputError("A covariance must be positive semi-definite, got one that is not.")
        return factor


class RunningStatistics:
    """Mean and covariance of rows that arrive in batches; memory does not grow with their number.

    Rows are centred per block of 1024 before they are multiplied, and blocks are joined by the
    update of Chan, Golub and LeVeque (1979): features with a large common offset lose no digits.
    Instances can be pickled, so that processes can send theirs and `merge` them.
    """

    def __init__(self) -> None:
        self.count = 0
        self._mean = np.zeros(0)
        self._scatter = np.zeros((0, 0))  # lower triangle of the sum of centred outer products
        self._rows = np.zeros((0, 0))
        self._weights = np.zeros(_BUFFER_ROWS)
        self._filled = 0

    def update(
        self,
        features: Real[np.ndarray, "batch dim"],
        multiplicities: Integer[np.ndarray, " rows"] | None = None,
    ) -> None:
        """Add rows.

        Args:
            features: Rows of any real type; summed in float64.
            multiplicities: How often each row counts, 0 or more; once each if None.

        Raises:
            InputError: A value is not finite.
            ValueError: `features` is no matrix, its width differs from that of earlier rows, or
                the multiplicities are negative or not one a row.
        """
        if features.ndim != 2:
            raise ValueError(f"Features must be rows of a matrix, got shape {features.shape}.")
        if multiplicities is None:
            multiplicities = np.ones(len(features), dtype=np.int64)
        if len(multiplicities) != len(features):
            raise ValueError(
                f"There must be one multiplicity a row, got {len(multiplicities)} "
                f"for {len(features)} rows."
            )
        if multiplicities.min(initial=0) < 0:
            raise ValueError(f"Multiplicities must be 0 or more, got {multiplicities.min()}.")
        self._allocate(features.shape[1])
        counted = np.flatnonzero(multiplicities)
        while counted.size:
            space = _BUFFER_ROWS - self._filled
            taken, counted = counted[:space], counted[space:]
            end = self._filled + taken.size
            self._rows[self._filled : end] = features[taken]
            self._weights[self._filled : end] = multiplicities[taken]
            self._filled = end
            if end == _BUFFER_ROWS:
                self._flush()
                release_pages(features)

    def merge(self, other: "RunningStatistics") -> None:
        """Add the rows that `other` has seen, as if they had been given here.

        Raises:
            ValueError: The widths differ.
        """
        other._flush()
        if other.count == 0:
            return
        self._allocate(other._mean.size)
        self._flush()
        step = self._shift_mean(other._mean, other.count)
        self._scatter += other._scatter
        self._add_products(step[None])

    def finish(self) -> FeatureStatistics:
        """Return the statistics of all rows so far; more rows may follow.

        Raises:
            InputError: Fewer than 2 rows.
        """
        self._flush()
        if self.count < 2:
            raise InputError(f"Statistics need at least 2 feature rows, got {self.count}.")
        covariance = self._scatter.T / (self.count - 1)  # in C order, nothing below the diagonal
        covariance += np.triu(covariance, 1).T
        return FeatureStatistics(self._mean.copy(), covariance, self.count)

    def _allocate(self, dim: int) -> None:
        if self._rows.size == 0:
            self._mean = np.zeros(dim)
            self._scatter = np.zeros((dim, dim), order="F")
            self._rows = np.zeros((_BUFFER_ROWS + 1, dim))
        elif self._mean.size != dim:
            raise ValueError(f"Features must be {self._mean.size} wide like the first, got {dim}.")

    def _flush(self) -> None:
        if self._filled == 0:
            return
        rows = self._rows[: self._filled + 1]  # the last row takes the shift of the mean
        weights = self._weights[: self._filled]
        count = int(weights.sum())
        mean = weights @ rows[:-1] / count
        if not np.isfinite(mean).all():
            self._filled = 0
            raise InputError("Features must be finite, got NaN or infinity.")
        rows[:-1] -= mean
        rows[:-1] *= np.sqrt(weights)[:, None]
        rows[-1] = self._shift_mean(mean, count)
        self._add_products(rows)
        self._filled = 0

    def _shift_mean(
        self, mean: Float64[np.ndarray, " dim"], count: int
    ) -> Float64[np.ndarray, " dim"]:
        """Include `count` rows in the mean; return the row whose product corrects the scatter."""
        total = self.count + count
        difference = mean - self._mean
        correction = difference * np.sqrt(self.count * count / total)
        self._mean += difference * (count / total)
        self.count = total
        return correction

    def _add_products(self, rows: Float64[np.ndarray, "batch dim"]) -> None:
        self._scatter = _add_symmetric_product(
            1.0, rows.T, beta=1.0, c=self._scatter, lower=1, overwrite_c=1
        )


@dataclass(frozen=True, eq=False)
class ReferenceStatistics:
    """What FID and sFID compare with, in the form of ADM's reference files.

    Attributes:
        pool: Statistics of the pooled features (FID).
        spatial: Statistics of the spatial features (sFID); None if the file has none.
        network: Name of the metric network that made the features; None where a file does not say
            (ADM's own files: TensorFlow's Inception of 2015).
        weights_sha256: Its weights; None where a file does not say.

    Source:
        guided-diffusion evaluations/evaluator.py, read_statistics: `mu`, `sigma`, `mu_s`,
        `sigma_s`. `network`, `weights_sha256` and `count` are additions that ADM's evaluator
        ignores.
    """

    pool: FeatureStatistics
    spatial: FeatureStatistics | None = None
    network: str | None = None
    weights_sha256: str | None = None

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> "ReferenceStatistics":
        """Take the statistics out of the arrays of a reference file; other arrays are left alone.

        Raises:
            InputError: `mu` or `sigma` is missing, `mu_s` or `sigma_s` stands alone, the arrays
                are no mean and covariance, or `count` is no whole number.
        """
        count = None
        if "count" in arrays:
            stored = np.asarray(arrays["count"])
            if stored.shape != () or stored.dtype.kind not in "iu":
                raise InputError(f"count must be one whole number, got {stored!r}.")
            count = int(stored)
        pool = _statistics_from_arrays(arrays, "mu", "sigma", count)
        if pool is None:
            raise InputError("Reference statistics need the arrays mu and sigma, got neither.")
        return cls(
            pool=pool,
            spatial=_statistics_from_arrays(arrays, "mu_s", "sigma_s", count),
            network=str(arrays["network"]) if "network" in arrays else None,
            weights_sha256=str(arrays["weights_sha256"]) if "weights_sha256" in arrays else None,
        )

    def to_arrays(self) -> dict[str, np.ndarray]:
        """Return the arrays of a reference file that ADM's evaluator can read.

        Add `arr_0`, the uint8 images for precision and recall, before writing.
        """
        arrays = {"mu": self.pool.mean, "sigma": self.pool.covariance}
        if self.spatial is not None:
            arrays |= {"mu_s": self.spatial.mean, "sigma_s": self.spatial.covariance}
        if self.pool.count is not None:
            arrays["count"] = np.asarray(self.pool.count)
        for name in ("network", "weights_sha256"):
            if getattr(self, name) is not None:
                arrays[name] = np.asarray(getattr(self, name))
        return arrays


def _statistics_from_arrays(
    arrays: Mapping[str, np.ndarray], mean_key: str, covariance_key: str, count: int | None
) -> FeatureStatistics | None:
    present = [key for key in (mean_key, covariance_key) if key in arrays]
    if not present:
        return None
    if len(present) == 1:
        raise InputError(
            f"Reference statistics need both {mean_key} and {covariance_key}, "
            f"got only {present[0]}."
        )
    mean, covariance = np.asarray(arrays[mean_key]), np.asarray(arrays[covariance_key])
    if mean.dtype.kind not in "fiu" or covariance.dtype.kind not in "fiu":
        raise InputError(
            f"{mean_key} and {covariance_key} must hold real numbers, "
            f"got {mean.dtype} and {covariance.dtype}."
        )
    try:
        return FeatureStatistics(mean, covariance, count)
    except InputError as error:
        raise InputError(f"{mean_key}, {covariance_key}: {error}") from error
