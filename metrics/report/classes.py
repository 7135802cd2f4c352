"""Labels of generated images: whether their order and shares are those of a sound set."""

import numpy as np
from jaxtyping import Int64
from scipy.special import gammaln

from metrics.report.warning import LintWarning

_SORTED_SHARE = 0.9  # of the classes that a split in random order would hold
_CHANCE_DEVIATIONS = 5  # standard deviations of chi-squared that chance is granted
# Mean square of the relative deviations of class shares that real data may have: a tenth each.
_NATURAL_IMBALANCE = 0.01


def class_order(labels: Int64[np.ndarray, " count"], split_size: int) -> LintWarning | None:
    """Compare the classes in a split with those that random order would bring into it."""
    sizes = np.unique(labels, return_counts=True)[1]
    starts = range(0, len(labels), split_size)
    splits = [labels[start : start + split_size] for start in starts]
    held = float(np.mean([np.unique(split).size for split in splits]))
    shuffled = float(np.mean([expected_classes(sizes, len(split)) for split in splits]))
    if held >= _SORTED_SHARE * shuffled:
        return None
    return LintWarning(
        "class-order",
        f"the file is sorted by class: a split of {split_size} images holds {held:.1f} of "
        f"{sizes.size} classes, {shuffled:.1f} in random order",
        f"the Inception Score is a mean over such splits and cannot exceed about {held:.1f}",
    )


def expected_classes(sizes: Int64[np.ndarray, " classes"], drawn: int) -> float:
    """Return the expected number of classes among `drawn` images, drawn without replacement."""
    total, rest = int(sizes.sum()), sizes.sum() - sizes
    possible = rest >= drawn
    logs = gammaln(rest + 1.0) - gammaln(np.maximum(rest - drawn, 0) + 1.0)
    logs -= gammaln(total + 1.0) - gammaln(total - drawn + 1.0)
    return float(sizes.size - np.exp(logs)[possible].sum())


def class_balance(
    labels: Int64[np.ndarray, " count"],
    real_labels: Int64[np.ndarray, " real"] | None,
    num_classes: int | None,
) -> LintWarning | None:
    """Test by chi-squared whether the class shares are the reference's, or equal if unknown."""
    if real_labels is None:
        classes, counts = np.unique(labels, return_counts=True)
        against = f"equal shares of the {classes.size} classes found"
        if num_classes is not None and classes[0] >= 0 and classes[-1] < num_classes:
            against = f"equal shares of {num_classes} classes, of which {classes.size} occur"
            counts = np.bincount(labels, minlength=num_classes)
        against += " (the reference has no labels)"
        statistic = float((np.square(counts - counts.mean()) / counts.mean()).sum())
    else:
        against = "the shares of the reference"
        classes = np.union1d(labels, real_labels)
        counts, others = (
            np.bincount(np.searchsorted(classes, each), minlength=classes.size)
            for each in (labels, real_labels)
        )
        statistic = difference_of_shares(counts, others)
    freedom = counts.size - 1
    unexplained = statistic - freedom
    if unexplained <= _CHANCE_DEVIATIONS * np.sqrt(2 * freedom):
        return None
    if real_labels is None and unexplained <= _NATURAL_IMBALANCE * len(labels):
        return None
    return LintWarning(
        "class-balance",
        f"the classes do not have {against} (chi-squared {statistic:.0f}; chance gives {freedom})",
        "the distances and recall measure the shares of the classes as well as the images",
    )


def difference_of_shares(
    counts: Int64[np.ndarray, " classes"], others: Int64[np.ndarray, " classes"]
) -> float:
    """Return chi-squared of the hypothesis that two samples have the same shares."""
    scale = np.sqrt(others.sum() / counts.sum())
    return float((np.square(counts * scale - others / scale) / (counts + others)).sum())
