"""`repa sample`: images from a checkpoint into an NPZ."""

import filecmp
import re
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args

import typer

from repa.errors import UnknownNameError, suggestion
from repa.generation.settings import FOUND_AGAIN, SCALES, LabelScheme, SampleConfig
from repa.generation.solvers import FAST
from repa.registry import entry_names, is_registered, load_registry
from repa_base.settings import LARGEST, flag_of
from repa_cli.options import Device, Json, Overwrite, ProcessCount, setting_options
from repa_cli.output import print_json, print_note, print_table, progress_bar
from repa_cli.running.start import Loading
from repa_cli.showing.sampling import SamplingProgress
from samplers.names import GridName

if TYPE_CHECKING:
    from repa.generation.manifests.recorded import Recorded

_BAR = "{desc}: {percentage:3.0f}%|{bar}| {n:.1f}/{total} [{elapsed}<{remaining}, {rate_fmt}]"
"""With tenths of images, which show life in a long batch."""
_NUMBER = re.compile(r"[+-]?[0-9]{1,18}")
_FAST = "--solver {solver} --times {times} --shift {shift:g} --steps {num_steps}".format(**FAST)


def _model(value: str) -> str:
    if not is_registered("checkpoints", value) and not (value and Path(value).exists()):
        known = entry_names("checkpoints")
        raise typer.BadParameter(str(UnknownNameError("model, file or folder", value, known)))
    return value


def _interval(value: str) -> tuple[float, float]:
    try:
        low, high = (float(part) for part in value.split(","))
    except ValueError as error:
        raise typer.BadParameter(f"{value!r} is not LOW,HIGH, two numbers such as 0,0.7") from error
    return low, high


def _times(value: str) -> Any:  # noqa: ANN401
    """Return a known name as it is, and numbers as a tuple."""
    if value[:1].isdigit():
        try:
            return tuple(float(part) for part in value.split(","))
        except ValueError as error:
            reason = f"{value!r} is not a list of times such as 1,0.8,0.5,0.2,0"
            raise typer.BadParameter(reason) from error
    if value not in (words := get_args(GridName)):
        raise typer.BadParameter(f"unknown times {value!r}{suggestion(value, words)}")
    return value


def _labels(value: str) -> Any:  # noqa: ANN401
    """Return a known word as it is, and else a tuple of numbers and of names of classes."""
    if value in get_args(LabelScheme):
        return value
    labels = [part.strip() for part in value.split(",")]
    if "" in labels:
        raise typer.BadParameter(f"{value!r} is no list of classes such as 0,1,2")
    return tuple(int(part) if _NUMBER.fullmatch(part) else part for part in labels)


def _count(value: str) -> int:
    if not value.isdecimal() or not 1 <= int(value) <= LARGEST:
        raise typer.BadParameter(f"{value!r} is not a whole number from 1")
    return int(value)


def _own_defaults() -> dict[str, dict[str, Any]]:
    """Return the defaults that our registered models have of their own, by setting and model."""
    own: dict[str, dict[str, Any]] = {}
    for model, entry in load_registry()["checkpoints"].items():
        if "dialect" in entry:
            continue  # `repa inspect` shows those of other people's
        for name, value in entry.get("sampling", {}).items():
            own.setdefault(name, {})[model] = value
    return own


@setting_options(
    SampleConfig,
    other_defaults=_own_defaults(),
    parsers={
        "model": _model,
        "guide": _model,
        "guidance_interval": _interval,
        "internal_interval": _interval,
        "labels": _labels,
        "order": _count,
        "times": _times,
        "num_heads": _count,
        "encoder_depth": _count,
        "world_size": _count,
    },
    first=("model", "num_images"),
)
def sample(
    device: Device = SampleConfig.device,
    fast: Annotated[
        bool,
        typer.Option("--fast", help=f"Few steps: {_FAST}; see docs/solvers.md."),
    ] = False,
    grid: Annotated[
        Path | None,
        typer.Option(help="Also draw the first 100 images, by class, on this PNG.", metavar="PNG"),
    ] = None,
    png: Annotated[
        Path | None,
        typer.Option(
            help="Also write each image as a PNG file, DIR/000000.png and so on.", metavar="DIR"
        ),
    ] = None,
    dry: Annotated[
        bool,
        typer.Option(
            "--dry-run",
            help="Print all settings, cost, time and room instead, from a short measurement, and "
            "write nothing.",
        ),
    ] = False,
    from_manifest: Annotated[
        Path | None,
        typer.Option(
            help="Make the images of this NPZ again, to the byte, as its manifest says; beside it "
            "go --out, --device, what is drawn, and --model, --guide, --autoencoder or --latents "
            "where a file is elsewhere.",
            metavar="NPZ",
        ),
    ] = None,
    overwrite: Overwrite = False,
    processes: ProcessCount = None,
    as_json: Json = False,
    **settings: Any,  # noqa: ANN401
) -> None:
    """Sample images from a checkpoint into an NPZ that `repa fid` and ADM's evaluator read.

    The defaults are REPA's published protocol, unless the model has its own. The same settings give
    the same images, with another --batch-size to within one grey level; repeat a command that was
    interrupted, or give a finished one a larger --num, and it goes on. With several GPUs:
    --processes N, or on several machines torchrun ... -m -- repa_cli sample ...
    """
    recorded = None
    if from_manifest is None:
        config = SampleConfig.for_model(device=device, overwrite=overwrite, fast=fast, **settings)
    else:
        _check_beside_manifest([*settings, *(["fast"] if fast else [])])
        with Loading():
            from repa.generation.manifests.recorded import read_recorded
        recorded = read_recorded(from_manifest)
        settings = {"out": SampleConfig.out, **settings}
        config = recorded.config(**settings, device=device, overwrite=overwrite)
    if dry:
        _tell_plan(config, recorded, grid, png, as_json=as_json)
        return
    result = _run(config, recorded, grid, png, ignored=_ignored(config, settings))
    if result and as_json:
        print_json(result)
    elif result:
        print_table(["samples", ""], [(key, str(value)) for key, value in result.items()])


def _ignored(config: SampleConfig, typed: Collection[str]) -> list[str]:
    """Return what is to be said of typed settings that have no effect."""
    notes = []
    if config.adaptive and "num_steps" in typed:
        notes.append(f"--steps is ignored: {config.solver} chooses its own steps.")
    for interval, scale in SCALES.items():
        if interval in typed and getattr(config, scale) == 1:
            ignored, off = flag_of(SampleConfig, interval), flag_of(SampleConfig, scale)
            notes.append(f"{ignored} is ignored: {off} 1 turns its guidance off.")
    return notes


def _check_beside_manifest(typed: list[str]) -> None:
    """Refuse settings that a manifest decides."""
    decided = [name for name in typed if name not in ("out", *FOUND_AGAIN)]
    if decided:
        flags = ", ".join(flag_of(SampleConfig, name) for name in decided)
        raise typer.BadParameter(
            f"its manifest decides {flags}: leave out what is typed beside it",
            param_hint="--from-manifest",
        )


def _check_drawn(
    config: SampleConfig, grid: Path | None, png: Path | None, *, writing: bool = True
) -> None:
    """Find out whether what is drawn beside the NPZ can be written."""
    from repa.sheets import check_png_folder, check_sheet, is_sheet

    begun = config.out.exists()
    if grid is not None:
        ours = begun and is_sheet(grid)
        check_sheet(grid, taken=config.overwrite or ours, writing=writing)
    if png is not None:
        check_png_folder(png, begun=begun, overwrite=config.overwrite, writing=writing)


def _tell_plan(
    config: SampleConfig,
    recorded: "Recorded | None",
    grid: Path | None,
    png: Path | None,
    *,
    as_json: bool,
) -> None:
    """Print what a run would be; end as it would where there is no room for it."""
    with Loading():
        from repa.generation.planning.dry_run import dry_run
        from repa_base.processes import joined_processes
        from repa_cli.showing.sample_plan import print_plan

    with joined_processes() as processes:
        if processes.is_first:
            _check_drawn(config, grid, png, writing=False)
        plan = dry_run(config, recorded=recorded, processes=processes)
    if not processes.is_first:
        return
    if as_json:
        print_json(plan.to_dict())
    else:
        print_plan(plan)
    if plan.output.shortage is not None:
        raise plan.output.shortage


def _run(
    config: SampleConfig,
    recorded: "Recorded | None",
    grid: Path | None,
    png: Path | None,
    *,
    ignored: Sequence[str],
) -> dict[str, Any]:
    """Generate and draw; return what to report, which is nothing for the ranks after the first."""
    with Loading():
        from repa.generation.job import generate
        from repa.generation.sample_files.opening import unfinished_part
        from repa.sheets import save_png_folder, save_sheet
        from repa_base.processes import joined_processes

    with joined_processes() as processes:
        first = processes.is_first
        if first:
            _check_drawn(config, grid, png)
        for note in ignored if first else ():
            print_note(note)
        bar = progress_bar(config.num_images, "images", "sampling", shown=first, bar_format=_BAR)
        with bar:
            progress = SamplingProgress(config, bar, shown=first, recorded=recorded)
            try:
                generated = generate(
                    config,
                    recorded=recorded,
                    processes=processes,
                    progress=progress,
                    on_note=print_note,
                )
            except KeyboardInterrupt:
                bar.close()
                if first and (part := unfinished_part(config.out)):
                    print_note(f"{part} keeps what is done; repeat the command to go on.")
                raise
    if not first:
        return {}
    if grid is not None:
        save_sheet(config.out, grid, overwrite=config.overwrite)
    if png is not None:
        with progress_bar(config.num_images, "images", "PNG files") as bar:
            tell = lambda done, _: bar.update(done - bar.n)  # noqa: E731
            save_png_folder(config.out, png, overwrite=config.overwrite, progress=tell)
    result: dict[str, Any] = {"file": str(config.out), "images": config.num_images}
    result["model"] = config.model
    if progress.made:
        result["images/s"] = float(f"{progress.made / progress.seconds:.3g}")
    if generated.was_finished:
        print_note(f"{config.out} was finished before, with the same settings.")
    if recorded is not None:
        same = filecmp.cmp(recorded.source, config.out, shallow=False)
        result["bytes"] = f"{'those' if same else 'not those'} of {recorded.source}"
    also = {"contact sheet": grid, "PNG files": png}
    return result | {name: str(path) for name, path in also.items() if path}
