"""One call for all that `repa fid` does: from images to numbers and what they are worth."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from metrics import (
    FirstImages,
    ImageSource,
    LintWarning,
    MetricNetwork,
    MetricSettings,
    Reference,
    Report,
    evaluate_sets,
    lint_sources,
    open_images,
)
from metrics.report.reference import check_stated_network
from metrics.settings import Resize
from repa.errors import SettingError
from repa.evaluation import references
from repa.evaluation.measuring import USUAL, Measuring, has_registered_weights
from repa.registry import published
from repa.registry.published import ComparedValue, PublishedRow
from repa_base.device import environment
from repa_base.processes import at_first, together

_DEFAULTS = MetricSettings()


@dataclass(frozen=True, eq=False)
class Evaluation:
    """What is known of a set of images after it was judged.

    Attributes:
        plan: Reference and network, and why these.
        reports: Of "samples" and, if they were asked for, of the baselines.
        warnings: What makes the numbers unlike published ones, of files and settings, then of
            pixels; between them, which cached features were damaged.
        published: The closest published row; None if nothing is published about the checkpoint.
        compared: Our values beside the row's, if it is comparable.
        manifest: How the samples were made, where their file tells.
        run: How they were measured: what moves only the last digits.
    """

    plan: references.EvaluationPlan
    reports: Mapping[str, Report]
    warnings: tuple[LintWarning, ...]
    published: PublishedRow | None
    compared: tuple[ComparedValue, ...]
    manifest: Mapping[str, Any] | None
    run: Mapping[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON, by the names of the sets."""
        found = {name: report.to_dict() for name, report in self.reports.items()}
        found["samples"] |= {
            "manifest": self.manifest,
            "run": self.run,
            "warnings": [warning.to_dict() for warning in self.warnings],
            "published": None if self.published is None else asdict(self.published),
            "compared_with_published": [asdict(value) for value in self.compared],
        }
        return found


def evaluate_file(
    samples: str | Path | ImageSource,
    *,
    reference: str | Path | None = None,
    num: int | None = None,
    settings: MetricSettings = _DEFAULTS,
    baselines: bool = False,
    how: Measuring = USUAL,
) -> Evaluation:
    """Judge images: find reference and network, measure, compare, warn. Nothing is printed.

    Args:
        samples: NPZ or NPY file, folder or zip of pictures, or images that are open.
        reference: Name in the registry, or path (a file that is spelt like a name is written
            "./NAME"); None for that of the data that the manifest names.
        num: Judge only the first so many images.
        settings: What is computed and how.
        baselines: Whether to judge real training images, where they are known, and noise as well.
        how: How they are measured.

    Returns:
        The same at every process, but for the device in `run`.

    Raises:
        InputError: Images, reference or weights are damaged, or do not fit each other.
        OSError: A file cannot be read, or (CacheError) no features can be written.
        RepaError: There is no such name or device, or a download failed; a `SettingError` if
            settings do not fit the network or the reference.
    """
    with together(how.processes):
        images = samples if isinstance(samples, ImageSource) else open_images(samples)
        images = images if num is None else FirstImages(images, num)
        plan = references.plan_evaluation(images, reference, how.network)
        how.on_note(f"reference {plan.reference}, network {plan.network}: {plan.reason}.")
        real = plan.opened or references.open_named_reference(plan.reference, images.shape)
        if settings.kernel_distance and real.images is None:
            message = f"needs images, and {plan.reference} holds statistics alone"
            raise SettingError("kernel_distance", message)
        sets = {"samples": images}
        if baselines:
            sets |= references.baselines(plan.reference, images.shape, images.count)
            if "real" not in sets:
                how.on_note(f"no real training images are known for {plan.reference}: noise only.")
        _check_statistics(plan, real, how.resize)
        network = how.load(plan.network)
        warnings, row = _protocol(images, real, plan, network, settings)
        for warning in warnings:
            how.on_warning(str(warning))
    damaged: list[LintWarning] = []
    reports = how.with_cache(
        lambda options: evaluate_sets(sets, real, network, settings=settings, **options),
        needed=settings.num_resamples > 0,
        on_damage=damaged.append,
    )
    warnings += at_first(how.processes, lambda: damaged)
    report = reports["samples"]
    for warning in report.warnings:
        how.on_warning(str(warning))
    return Evaluation(
        plan=replace(plan, opened=None),
        reports=reports,
        warnings=(*warnings, *report.warnings),
        published=row,
        compared=tuple(published.compare_with_row(row, report.values, report.standard_errors)),
        manifest=images.manifest,
        run={"num": num, "batch_size": how.batch_size, "compiled": how.compiled}
        | {"device": str(network.device), "processes": how.processes.size}
        | {"versions": environment()},
    )


def _check_statistics(plan: references.EvaluationPlan, real: Reference, resize: Resize) -> None:
    """Refuse, before weights are looked for, statistics of another network or resize."""
    advice = "use another reference"
    if real.statistics is not None and real.statistics.network is not None:
        base, clean, _ = real.statistics.network.partition("-clean")
        if not clean or base == "inception":
            fitting = f"--features {base}{' --resize clean' if clean else ''}"
            advice = f"use {fitting}, or another reference"
    name = f"{plan.network}-clean" if resize == "clean" else plan.network
    check_stated_network(real, name, advice)


def _protocol(
    images: ImageSource,
    real: Reference,
    plan: references.EvaluationPlan,
    network: MetricNetwork,
    settings: MetricSettings,
) -> tuple[list[LintWarning], PublishedRow | None]:
    """Find what the files and settings tell before any image is read, and the row to compare."""
    known = references.provenance(plan.reference, real, images)
    registered = has_registered_weights(network)
    row = published.closest_published_row(
        images.manifest,
        num_images=images.count,
        reference=known.name,
        network=network.name,
        settings=settings,
        reference_verified=known.verified,
        registered_weights=registered,
    )
    reason = f"the weights of {network.name} are not those that the registry names"
    effect = "the numbers compare with none but those of the same weights"
    found = [] if registered else [LintWarning("weights", reason, effect)]
    found += lint_sources(
        images,
        real,
        network.name,
        weights_sha256=network.weights_sha256,
        split_size=settings.split_size,
        published_count=known.published_count,
        reference_count=known.reference_count,
        num_classes=known.entry.get("num_classes"),
        feature_dim=network.pool_dim,
    )
    return [*found, *known.lint(real), *published.lint_protocol(row)], row
