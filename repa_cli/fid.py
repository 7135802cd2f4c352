"""`repa fid`: FID, sFID, Inception Score, precision and recall of images."""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from repa.registry import entry_names
from repa_cli.options import Device, Json, choice
from repa_cli.output import print_json, print_note, print_table, progress_bar

if TYPE_CHECKING:
    from metrics import Report
    from metrics.features import Resize
    from metrics.lint import LintWarning
    from metrics.precision_recall import Distances
    from repa.published import ComparedValue, PublishedRow

_NETWORKS = tuple(entry_names("networks"))
_DISTANCES = ("adm", "exact")
_RESIZES = ("default", "clean")


def fid(
    samples: Annotated[
        Path, typer.Argument(help="NPZ or NPY file, or folder of PNG, JPEG or WebP files.")
    ],
    reference: Annotated[
        str | None,
        typer.Option(
            "--ref",
            metavar="REF",
            help="What to compare with: a name (digits-heldout, adm-imagenet-256, ...), an NPZ in "
            "ADM's form, or images.  [default: by the manifest, or by the size of the images]",
        ),
    ] = None,
    features: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help=f"Metric network: {', '.join(_NETWORKS)}.  [default: the reference's]",
            parser=choice("network", _NETWORKS),
        ),
    ] = None,
    weights: Annotated[
        Path | None,
        typer.Option(
            help="Weights of the metric network.  [default: downloaded once]",
            exists=True,
            dir_okay=False,
        ),
    ] = None,
    resize: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="default: the network's own; clean: clean-fid's, for numbers of another kind.",
            parser=choice("resize", _RESIZES),
        ),
    ] = "default",
    num: Annotated[
        int | None, typer.Option(min=2, help="Judge only the first N images.", metavar="N")
    ] = None,
    distances: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="Arithmetic of precision and recall: adm, rounded to float16 as in published "
            "numbers, or exact.",
            parser=choice("distances", _DISTANCES),
        ),
    ] = "adm",
    baselines: Annotated[
        bool,
        typer.Option(
            "--baselines",
            help="Judge real training images (known for built-in data) and noise as well.",
        ),
    ] = False,
    batch_size: Annotated[int, typer.Option(min=1, help="Images at once.")] = 16,
    compiled: Annotated[
        bool, typer.Option("--compile", help="Compile the network: faster after half a minute.")
    ] = False,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Measure images: FID, sFID, Inception Score, precision and recall in one pass.

    Reference and network follow from the manifest that `repa sample` writes into its NPZ. FID and
    sFID take their statistics, precision and recall their images from the reference.
    """
    import metrics
    from repa import evaluation, published
    from repa.device import resolve_device

    images = metrics.open_images(samples)
    if num is not None:
        images = metrics.FirstImages(images, num)
    plan = evaluation.plan_evaluation(images, reference, features)
    print_note(f"reference {plan.reference}, network {plan.network}: {plan.reason}.")
    sets = {"samples": images}
    if baselines:
        sets |= evaluation.baselines(plan.reference, images.shape, images.count)
        if "real" not in sets:
            print_note(f"no real training images are known for {plan.reference}: noise only.")
    opened = evaluation.open_named_reference(plan.reference, images.shape)
    network = evaluation.load_named_network(
        plan.network,
        weights,
        resolve_device(device),
        resize=cast("Resize", resize),
        compiled=compiled,
    )
    count = evaluation.published_count(plan.reference)
    warnings = metrics.lint_sources(images, opened, network.name, published_count=count)
    row = published.closest_published_row(
        images.manifest,
        num_images=images.count,
        reference=plan.reference,
        network=network.name,
        distances=distances,
    )
    warnings += published.lint_protocol(row)
    _print_warnings(warnings)
    reports = metrics.evaluate_sets(
        sets,
        opened,
        network,
        settings=metrics.MetricSettings(distances=cast("Distances", distances)),
        batch_size=batch_size,
        progress=_show_progress(),
    )
    seen = metrics.lint_images(reports["samples"].findings)
    _print_warnings(seen)
    compared = published.compare_with_row(row, reports["samples"].values)
    if as_json:
        found = {name: report.to_dict() for name, report in reports.items()}
        found["samples"] |= {
            "warnings": [warning.to_dict() for warning in warnings + seen],
            "published": None if row is None else row.to_dict(),
            "compared_with_published": [value.to_dict() for value in compared],
        }
        print_json(found)
    else:
        _print_reports(reports)
        if row is not None and compared:
            _print_published(row, compared)


def _show_progress() -> Callable[[str, int, int], None]:
    """Return a function that keeps one bar for each source of images."""
    bars = {}

    def show(name: str, done: int, total: int) -> None:
        if name not in bars:
            bars[name] = progress_bar(total, "images", name)
        bars[name].update(done - bars[name].n)
        if done == total:
            bars.pop(name).close()

    return show


def _print_reports(reports: Mapping[str, "Report"]) -> None:
    """Print one column a set of images, and what each number was compared with."""
    first = next(iter(reports.values()))
    rows = [
        (label, *(f"{report.values[label]:.4f}" for report in reports.values()), compared_with)
        for label, compared_with in first.compared_with.items()
    ]
    counts = ("images", *(str(report.num_samples) for report in reports.values()), "")
    print_table(("metric", *reports, "compared with"), [*rows, counts])
    neighbors, distances = first.settings["num_neighbors"], first.settings["distances"]
    typer.echo(f"\nreference  {first.reference}")
    typer.echo(f"network    {first.network} ({first.preprocessing})")
    typer.echo(f"precision, recall: {neighbors} neighbours, {distances} distances")


def _print_warnings(warnings: Iterable["LintWarning"]) -> None:
    for warning in warnings:
        print_note(f"warning: {warning}")


def _print_published(row: "PublishedRow", values: Iterable["ComparedValue"]) -> None:
    """Print the published row beside ours; inside means that chance and rounding explain it."""
    verdicts = {True: "yes", False: "no", None: "unknown"}
    rows = [
        (
            value.label,
            f"{value.published:g}",
            f"{value.measured:.4f}",
            f"{value.difference:+.4f}",
            verdicts[value.inside],
        )
        for value in values
    ]
    typer.echo(f"\npublished  {row.name} ({row.source})")
    print_table(("metric", "published", "measured", "difference", "inside the error"), rows)
    if row.note:
        typer.echo(f"note: {row.note}")
