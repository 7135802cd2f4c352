"""Warnings about what makes numbers unlike published ones, each with its reason and its effect.

`lint_sources` judges what the files say before any image is read, `lint_images` what an
`InspectedImages` saw of them later. A warning stops nothing: what cannot be measured at all is an
`InputError` elsewhere.
"""

from collections.abc import Mapping

from metrics.images.arrays import formats_of
from metrics.images.inspection import ImageFindings
from metrics.images.picture_files import PictureFiles, described_not_taken
from metrics.images.source import ImagesOfSource, ImageSource
from metrics.report.classes import class_balance, class_order
from metrics.report.reference import Reference
from metrics.report.warning import LintWarning
from metrics.settings import KEPT_IMAGES, SPLIT_SIZE

PUBLISHED_COUNT = 50_000
"""Images that published numbers of generative models are taken from."""

LEAST_COUNT = 200
"""Images of data about which nothing is published, below which chance outweighs the images: 200
real digits are 4.3 to 4.9 from other real digits in FD-lite0, twice as far as 500 of them."""

_LOSSY = ("JPEG", "WEBP")  # formats of files that have lost something of their images
_UNLIKE_SHARE = 0.1  # of lossy files, by which two sets may differ
_UNSCALED_MAX = 1
_MIDDLE = 127


def lint_sources(
    samples: ImageSource,
    reference: Reference,
    network: str,
    *,
    weights_sha256: str | None = None,
    split_size: int = SPLIT_SIZE,
    published_count: int | None = PUBLISHED_COUNT,
    reference_count: int | None = KEPT_IMAGES,
    num_classes: int | None = None,
    feature_dim: int | None = None,
) -> list[LintWarning]:
    """Check what can be known before any image is read.

    Args:
        samples: Images to judge.
        reference: What they are compared with.
        network: Name of the metric network, as `MetricNetwork.name` has it.
        weights_sha256: Its weights, to be compared with those behind the reference's statistics.
        split_size: Images in a split of the Inception Score.
        published_count: Images that comparable numbers are taken from; None where there are no
            published numbers, and then `LEAST_COUNT` are enough.
        reference_count: Images that a reference has at least; None where it is as large as it can
            be.
        num_classes: How many classes the data has, labelled from 0; None if it is not known, and
            then only the classes that occur are judged where the reference has no labels.
        feature_dim: Width of the network's pooled features, where it is known.
    """
    found = [
        _few_samples(samples.count, published_count),
        _files_not_taken(samples),
        *lint_reference(reference, reference_count, feature_dim),
        _lossy_files(samples, reference),
        _resolution(samples.shape, None if reference.images is None else reference.images.shape),
        _foreign_statistics(reference, network, weights_sha256),
    ]
    if samples.labels is not None:
        real = None if reference.images is None else reference.images.labels
        found.append(class_order(samples.labels, split_size))
        found.append(class_balance(samples.labels, real, num_classes))
    return [warning for warning in found if warning is not None]


def lint_reference(
    reference: Reference, least_count: int | None = KEPT_IMAGES, feature_dim: int | None = None
) -> list[LintWarning]:
    """Check a reference alone, before its images are read; arguments as for `lint_sources`."""
    found = [_few_real_images(reference, least_count, feature_dim)]
    if reference.images is not None:
        found.append(_files_not_taken(reference.images))
    return [warning for warning in found if warning is not None]


def lint_images(findings: ImageFindings | None, num_shared: int | None = None) -> list[LintWarning]:
    """Check what only the pixels tell: repeated images, images of one colour, values off range.

    Args:
        findings: From `ImageInspector.finish`; None, where no image was read, gives no warning.
        num_shared: How many of the images are in the reference too; None where it is not known.
    """
    if findings is None:
        return []
    found = []
    if num_shared:
        found.append(
            LintWarning(
                "shared-images",
                f"{num_shared} of {findings.count} images are in the reference too, in every pixel",
                "as copies they make distances too low and precision too high: judge images that "
                "the reference does not hold",
            )
        )
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
    if published_count is None and count < LEAST_COUNT:
        return LintWarning(
            "few-samples",
            f"{count} images, of which {LEAST_COUNT} are the least that tell models apart",
            "Fréchet distances come out too high, by about a constant over the number: judge more",
        )
    if published_count is None or count >= published_count:
        return None
    return LintWarning(
        "few-samples",
        f"{count} images, where published numbers take {published_count}",
        "Fréchet distances come out too high, and precision and recall differ: compare with "
        "numbers from as many images only",
    )


def _few_real_images(
    reference: Reference, least_count: int | None, feature_dim: int | None
) -> LintWarning | None:
    """Judge the images behind the distances or, if they suffice, those for precision and recall."""
    images, statistics = reference.images, reference.statistics
    shown = None if images is None else images.count
    measured = shown if statistics is None else statistics.pool.count
    if least_count is None or min(measured or least_count, shown or least_count) >= least_count:
        return None
    if measured is None or measured >= least_count:
        return LintWarning(
            "few-references",
            f"{shown} images in the reference, where published ones have {least_count}",
            "precision and recall compare only with those of as many: keep more in the reference",
        )
    singular = feature_dim is not None and measured <= feature_dim
    narrow = f", not more than the network's {feature_dim} features" if singular else ""
    cause = "their covariance is singular and " if singular else ""
    return LintWarning(
        "few-references",
        f"a reference of {measured} images{narrow}",
        f"{cause}Fréchet distances come out too high: take {least_count} real images or more",
    )


def _files_not_taken(images: ImageSource) -> LintWarning | None:
    while isinstance(images, ImagesOfSource):
        images = images.images
    if not isinstance(images, PictureFiles) or not images.not_taken:
        return None
    return LintWarning(
        "files-not-taken",
        f"{images.name}: {described_not_taken(images.not_taken)}",
        "the numbers are without them: save as PNG what should count",
    )


def _lossy_files(samples: ImageSource, reference: Reference) -> LintWarning | None:
    """Compare the shares of files that have lost something; arrays count as files that have not."""
    ours, theirs = formats_of(samples), reference.formats or formats_of(reference.images)
    if abs(_lossy_share(ours) - _lossy_share(theirs)) <= _UNLIKE_SHARE:
        return None
    return LintWarning(
        "lossy-files",
        f"the images come from {_described_formats(ours)}, the reference from "
        f"{_described_formats(theirs)}",
        "what JPEG and WebP lose counts as a difference of the images: save both as PNG, from "
        "before it was lost",
    )


def _lossy_share(formats: Mapping[str, int]) -> float:
    total = sum(formats.values())
    return sum(formats.get(kind, 0) for kind in _LOSSY) / total if total else 0.0


def _described_formats(formats: Mapping[str, int]) -> str:
    counted = " and ".join(f"{count} {kind}" for kind, count in formats.items())
    return f"{counted} files" if counted else "an array"


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
