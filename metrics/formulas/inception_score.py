"""Inception Score from class probabilities, in memory or as running sums.

Only the sums of each split are kept: the mean of the images' Kullback-Leibler divergences is
mean(sum_k p log p) - sum_k q log q, with q the mean of p over the split.
"""

import numpy as np
from jaxtyping import Float64, Real
from scipy.special import xlogy

from metrics.errors import InputError
from metrics.settings import SPLIT_SIZE
from repa_base.memory_map import release_pages

# Rows taken at once from an array that may be a memory map.
_CHUNK_ROWS = 4096


def inception_score(
    probabilities: Real[np.ndarray, "count classes"], split_size: int = SPLIT_SIZE
) -> float:
    """Compute the Inception Score: the mean over contiguous splits of exp(mean KL(p || q)).

    Args:
        probabilities: Softmax outputs, one row an image, in file order; the score depends on it.
            A probability of 0 counts as 0 log 0 = 0.
        split_size: Images in a split. The last split may be shorter and weighs the same.

    Returns:
        Score between 1 and the number of classes.

    Raises:
        InputError: There are no rows, or a row is no distribution.
        ValueError: `split_size` is below 1.

    Source:
        Salimans et al., arXiv 1606.03498, and guided-diffusion evaluations/evaluator.py.
        Deviations: float64, and safe at p = 0.
    """
    running = RunningInceptionScore(split_size)
    running.update(probabilities)
    return running.finish()


class RunningInceptionScore:
    """Inception Score of images that arrive in batches, in the order of the file.

    Memory is a row of sums for each split.

    Raises:
        ValueError: `split_size` is below 1.
    """

    def __init__(self, split_size: int = SPLIT_SIZE) -> None:
        if split_size < 1:
            raise ValueError(f"split_size must be at least 1, got {split_size}.")
        self.split_size = split_size
        self._count = 0
        # Split -> [number of images, sum of p log p, sums of p of every class].
        self._sums: dict[int, Float64[np.ndarray, " sums"]] = {}

    def update(self, probabilities: Real[np.ndarray, "batch classes"]) -> None:
        """Add the next images.

        Args:
            probabilities: Softmax outputs, one row an image.

        Raises:
            InputError: A row is no distribution.
            ValueError: The number of classes changed.
        """
        for start in range(0, len(probabilities), _CHUNK_ROWS):
            sums = image_sums(probabilities[start : start + _CHUNK_ROWS])
            splits = np.arange(self._count, self._count + len(sums)) // self.split_size
            for split in np.unique(splits):
                self._add(int(split), sums[splits == split].sum(axis=0))
            self._count += len(sums)
            release_pages(probabilities)

    def split_scores(self) -> Float64[np.ndarray, " splits"]:
        """Return the score of every split that has images, in file order."""
        return np.array([score_from_sums(self._sums[split]) for split in sorted(self._sums)])

    def finish(self) -> float:
        """Return the mean of the split scores.

        Raises:
            InputError: No image was added.
        """
        if not self._sums:
            raise InputError("The Inception Score needs at least 1 image, got 0.")
        return float(self.split_scores().mean())

    def _add(self, split: int, sums: Float64[np.ndarray, " sums"]) -> None:
        known = next(iter(self._sums.values()), sums)
        if known.size != sums.size:
            raise ValueError(
                f"All images must have {known.size - 2} class probabilities, got {sums.size - 2}."
            )
        self._sums[split] = self._sums.get(split, 0.0) + sums


def image_sums(
    probabilities: Real[np.ndarray, "batch classes"],
) -> Float64[np.ndarray, "batch sums"]:
    """Return what each image adds to its split: [1, sum of p log p, p of every class].

    Raises:
        InputError: A row has a negative or non-finite entry or does not sum to 1 within 1e-3.
    """
    p = np.asarray(probabilities, dtype=np.float64)
    totals = p.sum(axis=1)
    # Written so that NaN fails it.
    if not ((p >= 0).all() and (np.abs(totals - 1) <= 1e-3).all()):
        raise InputError("Class probabilities must be finite, 0 or more and sum to 1 in every row.")
    return np.column_stack([np.ones(len(p)), xlogy(p, p).sum(axis=1), p])


def score_from_sums(sums: Float64[np.ndarray, " sums"]) -> float:
    """Return the score of a split from the (weighted) sum of its images' `image_sums`."""
    _, negative_entropy, *_ = sums / sums[0]
    marginal = sums[2:] / sums[0]
    return float(np.exp(negative_entropy - xlogy(marginal, marginal).sum()))
