"""One call for all that `repa fid` does: from images to numbers and what they are worth."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
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
    lint_images,
    lint_sources,
    open_images,
)
from metrics.report.reference import check_stated_network
from metrics.settings import DEFAULT_BATCH_SIZE, Resize
from repa.errors import SettingError
from repa.evaluation.cached import Message, ignore, with_cache
from repa.evaluation.networks import has_registered_weights, lint_weights, load_named_network
from repa.evaluation.plan import EvaluationPlan, plan_evaluation
from repa.evaluation.references import baselines as baseline_sets
from repa.evaluation.references import open_named_reference, provenance
from repa.registry.published import (
    ComparedValue,
    PublishedRow,
    closest_published_row,
    compare_with_row,
    lint_protocol,
)
from repa_base.device import environment
from repa_base.processes import Processes, together
from repa_base.progress import Progress

_DEFAULTS = MetricSettings()
_ALONE = Processes()


@dataclass(frozen=True, eq=False)
class Evaluation:
    """What is known of a set of images after it was judged.

    Attributes:
        plan: Reference and network, and why these.
        reports: Of "samples" and, if they were asked for, of the baselines.
        warnings: What makes the numbers unlike published ones: of files and settings, then of
            pixels.
        published: The closest published row; None if nothing is published about the checkpoint.
        compared: Our values beside the row's, if it is comparable.
        manifest: How the samples were made, where their file tells.
        run: How they were measured: what moves only the last digits.
    """

    plan: EvaluationPlan
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
            "published": None if self.published is None else self.published.to_dict(),
            "compared_with_published": [value.to_dict() for value in self.compared],
        }
        return found


def evaluate_file(
    samples: str | Path | ImageSource,
    *,
    reference: str | Path | None = None,
    network: str | None = None,
    weights_path: Path | None = None,
    resize: Resize = "default",
    num: int | None = None,
    settings: MetricSettings = _DEFAULTS,
    baselines: bool = False,
    cached: bool = True,
    batch_size: int = DEFAULT_BATCH_SIZE,
    compiled: bool = False,
    device: str = "auto",
    processes: Processes = _ALONE,
    progress: Progress | None = None,
    on_note: Message = ignore,
    on_warning: Message = ignore,
) -> Evaluation:
    """Judge images: find reference and network, measure, compare, warn. Nothing is printed.

    Args:
        samples: NPZ or NPY file, folder, or images that are open.
        reference: Name in the registry, or path (a file that is spelt like a name is written
            "./NAME"); None for that of the manifest's data set, or of the size of the images.
        network: Name of a metric network; None for the data set's or the reference's.
        weights_path: Its weights; None for those of the registry, downloaded if need be.
        resize: As for `metrics.load_network`.
        num: Judge only the first so many images.
        settings: What is computed and how.
        baselines: Whether to judge real training images, where they are known, and noise as well.
        cached: Whether features are looked for and kept in this machine's cache.
        batch_size: Images for the network at once.
        compiled: Whether to compile the network.
        device: Name of the device, as `Processes.device` takes it.
        processes: Those that share the work, each calling this function.
        progress: Called after every batch, and during what takes long.
        on_note: Is told what was chosen, before the work.
        on_warning: Is told every warning as soon as it is known, and why features are not kept.

    Returns:
        The same at every process, but for the device in `run`.

    Raises:
        InputError: Images, reference or weights are damaged, or do not fit each other.
        OSError: A file cannot be read, or (CacheError) no features can be written.
        RepaError: There is no such name or device, or a download failed; a `SettingError` if
            settings do not fit the network or the reference.
    """
    with together(processes):
        images = samples if isinstance(samples, ImageSource) else open_images(samples)
        images = images if num is None else FirstImages(images, num)
        typed = None if reference is None else str(reference)
        plan = plan_evaluation(images, typed, network)
        on_note(f"reference {plan.reference}, network {plan.network}: {plan.reason}.")
        real = plan.opened or open_named_reference(plan.reference, images.shape)
        if settings.kernel_distance and real.images is None:
            message = f"needs images, and {plan.reference} holds statistics alone"
            raise SettingError("kernel_distance", message)
        sets = {"samples": images}
        if baselines:
            sets |= _baselines(plan, images, on_note)
        _check_statistics(plan, real, resize)
        measuring = load_named_network(
            plan.network, weights_path, processes.device(device), resize=resize, compiled=compiled
        )
        warnings, row = _protocol(images, real, plan, measuring, settings)
        for warning in warnings:
            on_warning(str(warning))
    how: dict[str, Any] = {"settings": settings, "batch_size": batch_size}
    how |= {"processes": processes, "progress": progress}
    reports = with_cache(
        processes,
        lambda cache: evaluate_sets(sets, real, measuring, cache=cache, **how),
        kept=cached,
        needed=settings.num_resamples > 0,
        warn=on_warning,
    )
    report = reports["samples"]
    seen = lint_images(report.findings)
    for warning in seen:
        on_warning(str(warning))
    return Evaluation(
        plan=replace(plan, opened=None),
        reports=reports,
        warnings=(*warnings, *seen),
        published=row,
        compared=tuple(compare_with_row(row, report.values, report.standard_errors)),
        manifest=images.manifest,
        run={"num": num, "batch_size": batch_size, "compiled": compiled}
        | {"device": str(measuring.device), "processes": processes.size}
        | {"versions": environment()},
    )


def _baselines(
    plan: EvaluationPlan, images: ImageSource, on_note: Message
) -> dict[str, ImageSource]:
    sets = baseline_sets(plan.reference, images.shape, images.count)
    if "real" not in sets:
        on_note(f"no real training images are known for {plan.reference}: noise only.")
    return sets


def _check_statistics(plan: EvaluationPlan, real: Reference, resize: Resize) -> None:
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
    plan: EvaluationPlan,
    network: MetricNetwork,
    settings: MetricSettings,
) -> tuple[list[LintWarning], PublishedRow | None]:
    """Find what the files and settings tell before any image is read, and the row to compare."""
    known = provenance(plan.reference, real)
    row = closest_published_row(
        images.manifest,
        num_images=images.count,
        reference=known.name,
        network=network.name,
        settings=settings,
        reference_verified=known.verified,
        registered_weights=has_registered_weights(network),
    )
    sources = lint_sources(
        images,
        real,
        network.name,
        weights_sha256=network.weights_sha256,
        split_size=settings.split_size,
        published_count=known.published_count,
        num_classes=known.entry.get("num_classes"),
    )
    of_reference = known.lint(real)
    return [*lint_weights(network), *sources, *of_reference, *lint_protocol(row)], row
