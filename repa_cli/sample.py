"""`repa sample`: images from a checkpoint into an NPZ."""

import time
from pathlib import Path
from typing import Annotated, Any

import typer

from repa.errors import UnknownNameError
from repa.generation.settings import SampleConfig
from repa.registry import entry_names, is_registered
from repa_cli.options import Device, Json, Overwrite, setting_options
from repa_cli.output import print_json, print_note, print_table, progress_bar

_BAR = "{desc}: {percentage:3.0f}%|{bar}| {n:.1f}/{total} [{elapsed}<{remaining}, {rate_fmt}]"
"""With tenths of images, which show life in a long batch."""


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


def _labels(value: str) -> Any:  # noqa: ANN401
    """Return a word as it is, and numbers as a tuple."""
    if not value[:1].isdigit() and not value.startswith("-"):
        return value
    try:
        return tuple(int(part) for part in value.split(","))
    except ValueError as error:
        raise typer.BadParameter(f"{value!r} is not a list of classes such as 0,1,2") from error


@setting_options(
    SampleConfig,
    parsers={"model": _model, "guidance_interval": _interval, "labels": _labels},
    first=("model", "num_images"),
)
def sample(
    device: Device = SampleConfig.device,
    grid: Annotated[
        Path | None,
        typer.Option(help="Also draw the first 100 images, by class, on this PNG.", metavar="PNG"),
    ] = None,
    overwrite: Overwrite = False,
    as_json: Json = False,
    **settings: Any,  # noqa: ANN401
) -> None:
    """Sample images from a checkpoint into an NPZ that `repa fid` and ADM's evaluator read.

    The defaults are REPA's published protocol. The same settings give the same images, with
    another --batch-size to within one grey level; repeat a command that was interrupted, or with a
    larger --num, and it goes on. With several GPUs: torchrun
    --nproc-per-node N -m -- repa_cli sample ...
    """
    config = SampleConfig(device=device, overwrite=overwrite, **settings)
    result = _run(config, grid, steps_given="num_steps" in settings)
    if result and as_json:
        print_json(result)
    elif result:
        print_table(["samples", ""], [(key, str(value)) for key, value in result.items()])


class _Progress:
    """Feeds the bar and remembers how many images this run has made, in what time."""

    def __init__(self, bar: Any) -> None:  # noqa: ANN401
        self.bar = bar
        self.made = self.seconds = 0.0
        self._first = self._started = None

    def __call__(self, done: float, total: int) -> None:
        now = time.monotonic()
        if self._first is None or self._started is None:
            self._first, self._started = done, now
            self.bar.reset(total)
            self.bar.n = self.bar.initial = self.bar.last_print_n = done
        self.made, self.seconds = done - self._first, now - self._started
        self.bar.update(done - self.bar.n)


def _run(config: SampleConfig, grid: Path | None, *, steps_given: bool) -> dict[str, Any]:
    """Generate and draw; return what to report, which is nothing for the ranks after the first."""
    from repa.generation.job import generate
    from repa.generation.opening import unfinished_part
    from repa.sheets import check_sheet, save_sheet
    from repa_base.processes import joined_processes

    with joined_processes() as processes:
        first = processes.is_first
        if grid is not None and first:
            check_sheet(grid, taken=config.overwrite or config.out.exists())
        if config.adaptive and steps_given and first:
            print_note(f"--steps is ignored: {config.solver} chooses its own steps.")
        with progress_bar(config.num_images, "images", "sampling") as bar:
            bar.disable, bar.bar_format = bar.disable or not first, _BAR
            progress = _Progress(bar)
            try:
                generated = generate(
                    config, processes=processes, progress=progress, on_note=print_note
                )
            except KeyboardInterrupt:
                bar.close()
                if part := unfinished_part(config.out):
                    print_note(f"{part} keeps what is done; repeat the command to go on.")
                raise
    if not first:
        return {}
    if grid is not None:
        save_sheet(config.out, grid, overwrite=config.overwrite)
    result: dict[str, Any] = {"file": str(config.out), "images": config.num_images}
    result["model"] = config.model
    if progress.made:
        # The processes have equal shares, to within a batch.
        speed = progress.made * processes.size / progress.seconds
        result["images/s"] = float(f"{speed:.3g}")
    if generated.was_finished:
        print_note(f"{config.out} was finished before, with the same settings.")
    return result | ({"contact sheet": str(grid)} if grid else {})
