"""Warnings about what makes numbers unlike published ones, each with its reason and its effect.

`lint_sources` judges what the files say before any image is read, `lint_images` what an
`InspectedImages` saw of them later. A warning stops nothing: what cannot be measured at all is an
`InputError` elsewhere.
"""

from dataclasses import asdict, dataclass

import numpy as np
from jaxtyping import Int64
from scipy.special import gammaln

from metrics.images.inspection import ImageFindings
from metrics.images.source import ImageSource
from metrics.report.reference import Reference
from metrics.settings import SPLIT_SIZE

PUBLISHED_COUNT = 50_000
"""Images that published numbers of generative models are taken from."""

_SORTED_SHARE = 0.9  # of the classes that a split in random order would hold
_CHANCE_DEVIATIONS = 5  # standard deviations of chi-squared that chance is granted
# Mean square of the relative deviations of class shares that real data may have: a tenth each.
_NATURAL_IMBALANCE = 0.01
_UNSCALED_MAX = 1
_MIDDLE = 127


@dataclass(frozen=True)
class LintWarning:
    """One thing that moves the numbers.

    Attributes:
        check: Name of the check, for programs.
        reason: What was found.
        effect: What it does to the numbers.
    """

    check: str
    reason: str
    effect: str

    def __str__(self) -> str:
        return f"{self.reason}: {self.effect}."

    def to_dict(self) -> dict[str, str]:
        """Return plain values for JSON."""
        return asdict(self)


def lint_sources(
    samples: ImageSource,
    reference: Reference,
    network: str,
    *,
    weights_sha256: str | None = None,
    split_size: int = SPLIT_SIZE,
    published_count: int | None = PUBLISHED_COUNT,
    num_classes: int | None = None,
) -> list[LintWarning]:
    """Check what can be known before any image is read.

    Args:
        samples: Images to judge.
        reference: What they are compared with.
        network: Name of the metric network, as `MetricNetwork.name` has it.
        weights_sha256: Its weights, to be compared with those behind the reference's statistics.
        split_size: Images in a split of the Inception Score.
        published_count: Images that comparable numbers are taken from; None where there are no
            published numbers, and then any count will do.
        num_classes: How many classes the data has, labelled from 0; None if it is not known, and
            then only the classes that occur are judged where the reference has no labels.
    """
    found = [
        _few_samples(samples.count, published_count),
        _resolution(samples.shape, None if reference.images is None else reference.images.shape),
        _foreign_statistics(reference, network, weights_sha256),
    ]
    if samples.labels is not None:
        real = None if reference.images is None else reference.images.labels
        found.append(_class_order(samples.labels, split_size))
        found.append(_class_balance(samples.labels, real, num_classes))
    return [warning for warning in found if warning is not None]


def lint_images(findings: ImageFindings | None) -> list[LintWarning]:
    """Check what only the pixels tell: repeated images, images of one colour, values off range.

    Args:
        findings: From `ImageInspector.finish`; None, where no image was read, gives no warning.
    """
    if findings is None:
        return []
    found = []
    if findings.first_duplicate is not None:
        image, earlier = findings.first_duplicate
        found.append(
            LintWarning(
                "duplicates",
                f"{findings.num_duplicates} of {findings.count} images repeat an earlier one "
                f"(image {image} is image {earlier})",
                "they add nothing new, so all errors are larger than the number of images "
                "suggests, and manifold radii shrink, which moves recall",
            )
        )
    if findings.first_constant is not None:
        found.append(
            LintWarning(
                "constant",
                f"{findings.num_constant} of {findings.count} images have one colour throughout "
                f"(the first is image {findings.first_constant})",
                "NaN turned into uint8 looks like this; the numbers then measure a failed run",
            )
        )
    return found + _values(*findings.value_range)


def _few_samples(count: int, published_count: int | None) -> LintWarning | None:
    if published_count is None or count >= published_count:
        return None
    return LintWarning(
        "few-samples",
        f"{count} images, where published numbers take {published_count}",
        "Fréchet distances come out too high, and precision and recall differ: compare with "
        "numbers from as many images only",
    )


def _resolution(
    shape: tuple[int, int, int] | None, real_shape: tuple[int, int, int] | None
) -> LintWarning | None:
    if shape is None:
        reason = "the images are of several sizes"
    elif real_shape in (None, shape):
        return None
    else:
        (height, width, _), (real_height, real_width, _) = shape, real_shape
        reason = f"images of {height} x {width} against a reference of {real_height} x {real_width}"
    return LintWarning(
        "resolution",
        reason,
        "resizing to the network's input blurs them differently, and every metric counts that as "
        "a difference of the images",
    )


def _foreign_statistics(
    reference: Reference, network: str, weights: str | None
) -> LintWarning | None:
    """Statistics that name another network are refused elsewhere; ADM's carry no name."""
    statistics = reference.statistics
    if statistics is None:
        return None
    if None not in (statistics.weights_sha256, weights) and statistics.weights_sha256 != weights:
        return LintWarning(
            "reference-network",
            f"the statistics of {reference.name} were made with other weights of {network}",
            "distances between features of two kinds mean nothing",
        )
    adms = network == "inception" and statistics.spatial is not None
    if statistics.network is not None or adms:
        return None
    return LintWarning(
        "reference-network",
        f"the statistics of {reference.name} do not say which network and resize made them; "
        f"files without a name are ADM's, of plain Inception with mu_s and sigma_s",
        "distances between features of two kinds mean nothing",
    )


def _class_order(labels: Int64[np.ndarray, " count"], split_size: int) -> LintWarning | None:
    """Compare the classes in a split with those that random order would bring into it."""
    sizes = np.unique(labels, return_counts=True)[1]
    starts = range(0, len(labels), split_size)
    splits = [labels[start : start + split_size] for start in starts]
    held = float(np.mean([np.unique(split).size for split in splits]))
    shuffled = float(np.mean([_expected_classes(sizes, len(split)) for split in splits]))
    if held >= _SORTED_SHARE * shuffled:
        return None
    return LintWarning(
        "class-order",
        f"the file is sorted by class: a split of {split_size} images holds {held:.1f} of "
        f"{sizes.size} classes, {shuffled:.1f} in random order",
        f"the Inception Score is a mean over such splits and cannot exceed about {held:.1f}",
    )


def _expected_classes(sizes: Int64[np.ndarray, " classes"], drawn: int) -> float:
    """Return the expected number of classes among `drawn` images, drawn without replacement."""
    total, rest = int(sizes.sum()), sizes.sum() - sizes
    possible = rest >= drawn
    logs = gammaln(rest + 1.0) - gammaln(np.maximum(rest - drawn, 0) + 1.0)
    logs -= gammaln(total + 1.0) - gammaln(total - drawn + 1.0)
    return float(sizes.size - np.exp(logs)[possible].sum())


def _class_balance(
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
        statistic = _difference_of_shares(counts, others)
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


def _difference_of_shares(
    counts: Int64[np.ndarray, " classes"], others: Int64[np.ndarray, " classes"]
) -> float:
    """Return chi-squared of the hypothesis that two samples have the same shares."""
    scale = np.sqrt(others.sum() / counts.sum())
    return float((np.square(counts * scale - others / scale) / (counts + others)).sum())


def _values(low: int, high: int) -> list[LintWarning]:
    if high <= _UNSCALED_MAX:
        cause = "if floats from 0 to 1 were turned into uint8 without the factor 255"
    elif low >= _MIDDLE or high <= _MIDDLE + 1:
        cause = "only half of the range is used; if floats were scaled by the wrong formula"
    else:
        return []
    return [
        LintWarning(
            "value-range", f"all values lie from {low} to {high}", f"{cause}, every number is wrong"
        )
    ]
