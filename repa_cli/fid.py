"""`repa fid`: FID, sFID, Inception Score, precision and recall of images."""

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from metrics.settings import DEFAULT_BATCH_SIZE, MetricSettings
from repa_cli import options, output
from repa_cli.running.start import Loading
from repa_cli.showing.report_table import print_reports

if TYPE_CHECKING:
    from repa.evaluation.self_test import Check
    from repa.registry.published import ComparedValue, PublishedRow

_OF_SELF_TEST = ("self_test", "weights", "device", "as_json")


@options.setting_options(MetricSettings)
def fid(
    context: typer.Context,
    samples: Annotated[
        Path | None,
        typer.Argument(help="NPZ or NPY file, or folder or zip of pictures.", show_default=False),
    ] = None,
    reference: Annotated[
        str | None,
        typer.Option(
            "--ref",
            metavar="REF",
            help="What to compare with: a name (digits-heldout, adm-imagenet-256, ...), an NPZ in "
            "ADM's form, or images. A file that is spelt like a name is written ./NAME.  [default: "
            "by the data that the manifest names]",
        ),
    ] = None,
    features: options.MetricNetworkName = None,
    weights: options.MetricWeights = None,
    resize: options.MetricResize = "default",
    num: Annotated[
        int | None, typer.Option(min=2, help="Judge only the first N images.", metavar="N")
    ] = None,
    baselines: Annotated[
        bool,
        typer.Option(
            "--baselines",
            help="Judge real training images (known for built-in data) and noise as well.",
        ),
    ] = False,
    batch_size: options.MetricBatchSize = DEFAULT_BATCH_SIZE,
    compiled: options.Compiled = False,
    no_cache: options.NoCache = False,
    device: options.Device = "auto",
    processes: options.ProcessCount = None,
    self_test: Annotated[
        bool,
        typer.Option(
            "--self-test",
            help="Check this installation against recorded values instead; needs no SAMPLES.",
        ),
    ] = False,
    as_json: options.Json = False,
    **settings: Any,  # noqa: ANN401
) -> None:
    """Measure images: FID, sFID, Inception Score, precision and recall.

    Reference and network follow from the manifest that `repa sample` writes into its NPZ: of your
    own data, what was held out of it. Other images need --ref. FID and sFID take their statistics,
    precision and recall their images from the reference. With several GPUs: --processes N, or on
    several machines torchrun ... -m -- repa_cli fid ...
    """
    if self_test:
        _refuse_options_without_effect(context)
        raise typer.Exit(_run_self_test(weights, device, as_json=as_json))
    if samples is None:
        raise typer.BadParameter("is missing: name a file or folder.", param_hint="SAMPLES")

    with Loading():
        from repa.evaluation import Measuring, evaluate_file
        from repa_base.processes import joined_processes

    chosen = MetricSettings(**settings)
    with joined_processes() as world, output.printing_at_first(world):
        how = Measuring(
            network=features,
            weights_path=weights,
            resize=resize,
            cached=not no_cache,
            batch_size=batch_size,
            compiled=compiled,
            device=device,
            processes=world,
            progress=output.progress_bars(),
            on_note=output.print_note,
            on_warning=output.print_warning,
        )
        evaluation = evaluate_file(
            samples, reference=reference, num=num, settings=chosen, baselines=baselines, how=how
        )
        if as_json:
            output.print_json(evaluation.to_dict())
        else:
            print_reports(evaluation.reports)
            if evaluation.published is not None and evaluation.compared:
                _print_published(evaluation.published, evaluation.compared)


def _print_published(row: "PublishedRow", values: Iterable["ComparedValue"]) -> None:
    """Print the published row beside ours; inside means that chance and rounding explain it."""
    inside = {True: "yes", False: "no", None: "unknown"}
    rows = [
        (v.label, f"{v.published:g}", f"{v.measured:.4f}", f"{v.difference:+.4f}", inside[v.inside])
        for v in values
    ]
    typer.echo(f"\npublished  {row.name} ({row.source})")
    output.print_table(("metric", "published", "measured", "difference", "inside the error"), rows)
    if row.note:
        typer.echo(f"note: {row.note}")
    if not row.reference_verified:
        typer.echo("note: the reference is unverified: no hash of the row's is known")


def _refuse_options_without_effect(context: typer.Context) -> None:
    for parameter in context.command.params:
        name = parameter.name or ""
        if options.is_given(context, name) and name not in _OF_SELF_TEST:
            raise typer.BadParameter("has no effect with --self-test", param_hint=parameter.opts[0])


def _run_self_test(weights: Path | None, device: str, *, as_json: bool) -> int:
    """Print a certificate; return the exit code, 1 if a value is out of tolerance."""
    with Loading():
        from repa.evaluation.self_test import run_self_test
        from repa_base.device import environment, resolve_device

    checks = list(run_self_test(weights, resolve_device(device), progress=output.progress_bars()))
    failed = sum(check.passed is False for check in checks)
    if as_json:
        listed = [check.to_dict() for check in checks]
        output.print_json({"passed": not failed, "environment": environment(), "checks": listed})
        return int(failed > 0)
    _print_certificate(checks)
    typer.echo("\n" + ", ".join(f"{name} {value}" for name, value in environment().items()))
    run = sum(check.passed is not None for check in checks)
    typer.echo(f"{run - failed} of {run} checks passed, {len(checks) - run} not run")
    return int(failed > 0)


def _print_certificate(checks: Iterable["Check"]) -> None:
    verdicts = {True: "pass", False: "FAIL", None: "not run"}
    numbers = ("recorded", "measured", "tolerance")
    rows = [
        (
            check.name,
            *("" if (value := getattr(check, n)) is None else f"{value:.6g}" for n in numbers),
            verdicts[check.passed],
        )
        for check in checks
    ]
    output.print_table(("check", *numbers, "verdict"), rows)
    for check in checks:
        if check.missing:
            typer.echo(f"not run: {check.name}: {check.missing}")
