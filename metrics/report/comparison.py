"""Sets of images against a reference: their numbers, with what these were made from."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Unpack

from metrics.errors import InputError
from metrics.extraction.measurement import Measurement, MeasureOptions, measure
from metrics.images.inspection import ImageFindings, count_shared
from metrics.images.source import ImageSource
from metrics.networks.network import MetricNetwork
from metrics.report.lint import lint_images, lint_sources
from metrics.report.reference import Reference, check_reference, measure_reference
from metrics.report.scores import EXTRAPOLATION_START, Comparison
from metrics.report.warning import LintWarning
from metrics.settings import MetricSettings
from repa_base.processes import Processes, at_first
from repa_base.progress import Progress

_DEFAULTS = MetricSettings()


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
        settings: Everything else that moves a number: the `MetricSettings` as plain values.
        standard_errors: Of the values, by their labels, where they were asked for.
        findings: What the pixels told.
        samples_sha256: Hash of the images.
        reference_sha256: Hash of the reference's images, or of its file.
        reference_count: Images behind the reference's mean and covariance; None if it does not say.
        reference_images: Images of the reference that were measured here.
        details: What else was found with a value, by its label.
        num_shared: Images that equal one of the reference's in every pixel; None where it is not
            known, as for statistics without images.
        warnings: What the pixels give reason to; from `evaluate` also what the sources do.
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
    standard_errors: Mapping[str, float] = field(default_factory=dict)
    findings: ImageFindings | None = None
    samples_sha256: str | None = None
    reference_sha256: str | None = None
    reference_count: int | None = None
    reference_images: int = 0
    details: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    num_shared: int | None = None
    warnings: tuple[LintWarning, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return asdict(self)


def evaluate(
    samples: ImageSource,
    reference: Reference,
    network: MetricNetwork,
    *,
    settings: MetricSettings = _DEFAULTS,
    **options: Unpack[MeasureOptions],
) -> Report:
    """Measure images and a reference, and compare them.

    Args:
        samples: Generated images.
        reference: What they are compared with.
        network: What measures them.
        settings: What is computed and how.
        options: `batch_size`, `cache`, `processes` and `progress`, as for `measure`. Standard
            errors need a cache.

    Returns:
        The same at every process. Its warnings take it that published numbers are compared with.

    Raises:
        InputError: A source is damaged or too small, or the reference is another network's, found
            before any image is measured where the sources tell; or features overflow.
        CacheError: The cache cannot be written.
        ValueError: `batch_size` is below 1, or there is no cache where one is needed.
    """
    sets = {"samples": samples}
    report = evaluate_sets(sets, reference, network, settings=settings, **options)["samples"]
    found = lint_sources(
        samples,
        reference,
        network.name,
        weights_sha256=network.weights_sha256,
        split_size=settings.split_size,
        feature_dim=network.pool_dim,
    )
    return replace(report, warnings=(*found, *report.warnings))


def evaluate_sets(
    sets: Mapping[str, ImageSource],
    reference: Reference,
    network: MetricNetwork,
    *,
    settings: MetricSettings = _DEFAULTS,
    **options: Unpack[MeasureOptions],
) -> dict[str, Report]:
    """Compare several named sets of images with one reference, which is measured once.

    Arguments and errors are those of `evaluate`.
    """
    if settings.num_resamples and options.get("cache") is None:
        raise ValueError("Standard errors need a cache of features.")
    check_reference(reference, network)
    _check_counts(sets, reference, settings)
    processes = options.get("processes") or Processes()
    real = measure_reference(reference, network, **options)
    reports = {}
    for name, images in sets.items():
        measured = measure(images, network, split_size=settings.split_size, **options)
        reports[name] = at_first(
            processes,
            lambda measured=measured: compare(
                measured, real, network, settings=settings, progress=options.get("progress")
            ),
        )
    return reports


def compare(
    samples: Measurement,
    reference: Measurement,
    network: MetricNetwork,
    *,
    settings: MetricSettings = _DEFAULTS,
    progress: Progress | None = None,
) -> Report:
    """Compare measurements made by `network`; what one of them lacks is left out of the report.

    Args:
        samples: The generated images.
        reference: What they are compared with.
        network: What measured them.
        settings: What is computed and how. The Inception Score and its standard error are of the
            split size that `samples` was measured with, where it knows it; the report says which.
        progress: Called during what takes long.

    Raises:
        InputError: The measurements are another network's, or too small, or so large that a value
            is not finite.
        ValueError: Standard errors are asked for and `samples` does not hold all features.
    """
    for measurement in (samples, reference):
        if measurement.network != network.name:
            raise InputError(
                f"{measurement.name} was measured by {measurement.network}, not {network.name}."
            )
    if samples.split_size is not None:
        settings = replace(settings, split_size=samples.split_size)
    found = list(Comparison(samples, reference, network, settings, progress).scores())
    broken = [score.label for score in found if not math.isfinite(score.value)]
    if broken:
        raise InputError(
            f"{samples.name} against {reference.name}: {', '.join(broken)} is not finite; check "
            f"the weights of {network.name}, or use another reference."
        )
    num_shared = _count_shared(samples, reference)
    return Report(
        samples=samples.name,
        num_samples=samples.count or 0,
        reference=reference.name,
        values={score.label: score.value for score in found},
        compared_with={score.label: score.compared_with for score in found},
        network=network.name,
        preprocessing=network.preprocessing,
        weights_sha256=network.weights_sha256,
        settings=asdict(settings),
        standard_errors={score.label: score.error for score in found if score.error is not None},
        findings=samples.findings,
        samples_sha256=samples.content_sha256,
        reference_sha256=reference.content_sha256,
        reference_count=reference.count,
        reference_images=0 if reference.pool_features is None else len(reference.pool_features),
        details={score.label: score.details for score in found if score.details},
        num_shared=num_shared,
        warnings=tuple(lint_images(samples.findings, num_shared)),
    )


def _count_shared(samples: Measurement, reference: Measurement) -> int | None:
    """Count the samples that are in the reference too, as far as what was measured tells."""
    if samples.digests is not None and reference.digests is not None:
        return count_shared(samples.digests, reference.digests)
    same = samples.content_sha256 is not None
    same = same and samples.content_sha256 == reference.content_sha256
    return samples.count if same else None


def _check_counts(
    sets: Mapping[str, ImageSource], reference: Reference, settings: MetricSettings
) -> None:
    if reference.images is not None:
        for images in (reference.images, *sets.values()):
            if images.count <= settings.num_neighbors:
                raise InputError(
                    f"{images.name}: precision and recall with {settings.num_neighbors} neighbours "
                    f"need at least {settings.num_neighbors + 1} images, got {images.count}."
                )
    for images in sets.values() if settings.extrapolated else ():
        if images.count < 2 * EXTRAPOLATION_START:
            raise InputError(
                f"{images.name}: to extrapolate the Fréchet distance takes at least "
                f"{2 * EXTRAPOLATION_START} images, got {images.count}."
            )
