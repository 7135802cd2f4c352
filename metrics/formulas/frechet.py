"""Fréchet distance between two Gaussians fitted to features: FID, sFID and their relatives.

Works on statistics alone. The matrix square root of the product of two covariances is never
formed: only its trace is needed, and that is a sum of singular values.
"""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from jaxtyping import Float64, Integer, Real

from metrics.errors import InputError
from metrics.formulas.statistics import FeatureStatistics, RunningStatistics
from repa_base.progress import Steps

# Largest share of the trace that rounding may take in the fast path.
_FAST_PATH_TOLERANCE = 1e-10
_EPSILON = float(np.finfo(np.float64).eps)
_LARGEST = 1e150  # of squared units; its square, which the fast path takes, is still a float64


def frechet_distance(a: FeatureStatistics, b: FeatureStatistics) -> float:
    """Compute |mean_a - mean_b|^2 + tr(A + B - 2 (A B)^(1/2)); symmetric in `a` and `b`.

    With A = F F^T and B = G G^T, the trace of (A B)^(1/2) is the sum of the singular values of
    F^T G. That is exact for rank-deficient covariances (fewer rows than features, constant
    features) and real by construction; no multiple of the identity is added.

    Args:
        a: Statistics of one feature set.
        b: Statistics of the other; its square root is kept with it for the next call.

    Returns:
        The squared distance in squared units of the features. 0 for equal statistics up to
        rounding of about 1e-12 of the trace, of either sign.

    Raises:
        InputError: The widths differ, a covariance is not positive semi-definite, or the numbers
            are too large to be those of features (1e150 of squared units).

    Source:
        Heusel et al., arXiv 1706.08500, and guided-diffusion evaluations/evaluator.py. Deviations:
        no `sqrtm`; means are subtracted in float64 (ADM holds and subtracts them in float32, which
        moves the result by less than 1e-6 of itself).
    """
    if a.mean.size != b.mean.size:
        raise InputError(
            f"Both feature sets must have the same width, got {a.mean.size} and {b.mean.size}."
        )
    with np.errstate(over="ignore"):
        difference = a.mean - b.mean
        traces = np.trace(a.covariance) + np.trace(b.covariance)
        apart = difference @ difference + traces
    if not apart < _LARGEST:
        raise InputError(f"Means and covariances are too large to be features', got {apart:g}.")
    return float(apart - 2 * _nuclear_norm(a.compute_factor().T @ b.factor))


def _nuclear_norm(matrix: Float64[np.ndarray, "rows columns"]) -> float:
    """Sum the singular values, from the eigenvalues of the Gram matrix where that is safe.

    The eigenvalues cost a quarter of the singular values, but squaring costs small ones their
    digits: an error e in an eigenvalue s^2 is e / 2s in s. The sum of those is bounded before the
    result is used. A few epsilon times the largest eigenvalue is the usual error of LAPACK's.
    """
    if min(matrix.shape) == 0:
        return 0.0
    narrow = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    eigenvalues = np.linalg.eigvalsh(narrow @ narrow.T)
    if eigenvalues[0] > 0:
        values = np.sqrt(eigenvalues)
        error = 8 * _EPSILON * eigenvalues[-1] * (0.5 / values).sum()
        if error < _FAST_PATH_TOLERANCE * values.sum():
            return float(values.sum())
    return float(np.linalg.svd(matrix, compute_uv=False).sum())


@dataclass(frozen=True)
class FrechetExtrapolation:
    """Fréchet distance extrapolated to infinitely many samples.

    Attributes:
        distance: Intercept of the line through the distances against 1/N.
        slope: Bias times N: the distance at N samples is about `distance + slope / N`.
        sizes: Subset sizes, increasing.
        distances: The distance of each subset.
    """

    distance: float
    slope: float
    sizes: tuple[int, ...]
    distances: tuple[float, ...]


def frechet_infinity(
    features: Real[np.ndarray, "count dim"],
    reference: FeatureStatistics,
    *,
    num_sizes: int = 10,
    smallest: int = 5000,
    seed: int = 0,
    progress: Steps | None = None,
) -> FrechetExtrapolation:
    """Remove the bias of the Fréchet distance at finite sample size (FD-infinity).

    The distance of N samples is too large by about a constant over N. It is measured at sizes that
    are evenly spaced in 1/N, on growing parts of one random order, so that every row is read once.

    Args:
        features: Rows, possibly a memory map. Only this side is extrapolated.
        reference: The other side, taken as it is.
        num_sizes: Number of subsets, at least 2. Each costs one `frechet_distance`.
        smallest: Smallest subset; should well exceed the width, at least 2.
        seed: Seeds the random order.
        progress: Called after every subset.

    Raises:
        InputError: There are fewer than twice `smallest` rows, too few to tell a slope.
        ValueError: `num_sizes` or `smallest` is below 2.

    Source:
        Chong and Forsyth, arXiv 1911.07023. Deviation: nested subsets instead of independent ones.
    """
    order = np.random.default_rng(seed).permutation(len(features))
    return extrapolated_in_order(features, order, reference, num_sizes, smallest, progress)


def extrapolated_in_order(
    features: Real[np.ndarray, "count dim"],
    order: Integer[np.ndarray, " count"],
    reference: FeatureStatistics,
    num_sizes: int,
    smallest: int,
    progress: Steps | None = None,
) -> FrechetExtrapolation:
    """Do what `frechet_infinity` does, on growing parts of the rows `order`, which may repeat."""
    if num_sizes < 2:
        raise ValueError(f"num_sizes must be at least 2, got {num_sizes}.")
    if smallest < 2:
        raise ValueError(f"smallest must be at least 2, got {smallest}.")
    count = len(features)
    if count < 2 * smallest:
        raise InputError(
            f"Extrapolation needs twice the rows of its smallest subset of {smallest}, got {count}."
        )
    sizes = np.rint(1 / np.linspace(1 / smallest, 1 / count, num_sizes)).astype(int)
    running = RunningStatistics()
    distances = []
    for start, end in pairwise([0, *sizes]):
        running.update(features, np.bincount(order[start:end], minlength=count))
        distances.append(frechet_distance(running.finish(), reference))
        if progress is not None:
            progress(len(distances), num_sizes)
    slope, intercept = np.polyfit(1 / sizes, distances, 1)
    return FrechetExtrapolation(
        float(intercept), float(slope), tuple(map(int, sizes)), tuple(distances)
    )
