"""Kernel distance (KID): unbiased squared maximum mean discrepancy between two feature sets."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Real

from metrics.errors import InputError
from repa_base.progress import Steps


@dataclass(frozen=True)
class KernelDistance:
    """Kernel distance over random subsets.

    Attributes:
        mean: The estimate; unbiased, so it may be negative when the distributions are close.
        std: Standard deviation over the subsets: the spread of one subset, not the error of `mean`.
        standard_error: Standard deviation of `mean` over new draws of both sets: the spread of one
            subset, corrected for the rows that subsets share, falls with the square root of the
            rows. Too large if anything; NaN if a subset takes all rows of a set.
    """

    mean: float
    std: float
    standard_error: float


def kernel_distance(
    real: Real[np.ndarray, "real dim"],
    generated: Real[np.ndarray, "generated _"],
    *,
    num_subsets: int = 100,
    subset_size: int = 1000,
    seed: int = 0,
    progress: Steps | None = None,
) -> KernelDistance:
    """Compute KID with the kernel (x . y / dim + 1)^3.

    Each subset draws `subset_size` rows without repetition from either set. Three matrix products
    a subset in float64: 100 subsets of 1000 rows of 2048 take about 10 s on 2 cores.

    Args:
        real: Features of real images, possibly a memory map.
        generated: Features of generated images of the same width.
        num_subsets: Subsets to average over.
        subset_size: Rows drawn from each set, at least 2.
        seed: Seeds the draw.
        progress: Called after every subset.

    Raises:
        InputError: The widths differ, a set has fewer rows than a subset, or a result is not
            finite.
        ValueError: `num_subsets` is below 1 or `subset_size` below 2.

    Source:
        Binkowski et al., arXiv 1801.01401. Subsets as in torch-fidelity.
    """
    if num_subsets < 1:
        raise ValueError(f"num_subsets must be at least 1, got {num_subsets}.")
    if subset_size < 2:
        raise ValueError(f"subset_size must be at least 2, got {subset_size}.")
    if real.shape[1] != generated.shape[1]:
        raise InputError(
            f"Real and generated features must have the same width, got {real.shape[1]} "
            f"and {generated.shape[1]}."
        )
    if min(len(real), len(generated)) < subset_size:
        raise InputError(
            f"The kernel distance needs at least {subset_size} rows of each set, "
            f"got {len(real)} real and {len(generated)} generated."
        )
    rng = np.random.default_rng(seed)
    values = np.empty(num_subsets)
    for number in range(num_subsets):
        drawn = _draw(real, subset_size, rng), _draw(generated, subset_size, rng)
        values[number] = _squared_discrepancy(*drawn)
        if progress is not None:
            progress(number + 1, num_subsets)
    if not np.isfinite(values).all():
        raise InputError("Features must be finite, got NaN or infinity.")
    std = float(values.std())
    share = subset_size / min(len(real), len(generated))
    variance_share = 1 / num_subsets + share / (1 - share) if share < 1 else np.nan
    return KernelDistance(float(values.mean()), std, std * float(np.sqrt(variance_share)))


def _draw(
    features: Real[np.ndarray, "count dim"], size: int, rng: np.random.Generator
) -> Float64[np.ndarray, "size dim"]:
    # In file order, which a memory map reads fastest; the estimate does not depend on the order.
    rows = np.sort(rng.choice(len(features), size, replace=False))
    return features[rows].astype(np.float64)


def _squared_discrepancy(
    x: Float64[np.ndarray, "count dim"], y: Float64[np.ndarray, "count dim"]
) -> float:
    count = len(x)
    within = 0.0
    for rows in (x, y):
        kernel = _kernel(rows, rows)
        within += (kernel.sum() - np.trace(kernel)) / (count * (count - 1))
    return within - 2 * float(_kernel(x, y).mean())


def _kernel(
    x: Float64[np.ndarray, "rows dim"], y: Float64[np.ndarray, "columns dim"]
) -> Float64[np.ndarray, "rows columns"]:
    base = x @ y.T
    base /= x.shape[1]
    base += 1
    return base * base * base
