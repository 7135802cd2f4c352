"""`repa train`: train a SiT with representation alignment."""

import math
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from repa.errors import SettingError
from repa.training.settings import (
    DATASETS,
    PRESETS,
    ConfigFile,
    Reporting,
    TrainConfig,
    read_config_file,
    settings_going_on,
    settings_of,
)
from repa_base.settings import rules
from repa_cli.options import Device, Json, ProcessCount, choice, setting_options
from repa_cli.output import print_json, print_note, print_table, progress_bar, progress_bars
from repa_cli.running.start import Loading

if TYPE_CHECKING:
    from repa.training.stopping import Interrupted
    from repa_base.processes import Processes

_BAR = "{desc} |{bar:22}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}{postfix}]"
_SOON = 0.2  # seconds
_OWN = {"with --resume": "the run's own"}
_SHOWN = {"loss": "loss", "alignment": "align", "gradient_norm": "grad"}
"""Of what a step measures; the bar has its length beside them, in 120 columns."""


@setting_options(Reporting, other_defaults=dict.fromkeys(rules(Reporting), _OWN))
@setting_options(TrainConfig, defaults=False)
def train(
    preset: Annotated[
        str | None,
        typer.Option(
            help=f"Settings to start from: {', '.join(PRESETS)}.  [default: {DATASETS[0]}; with a "
            "path as --data, the published recipe; with --resume, the run's own]",
            parser=choice("preset", PRESETS),
            show_default=False,
        ),
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.toml",
            help="Settings in a file, a key of a section each ([optimizer] learning_rate = 2e-4); "
            "--dry-run shows them all. An option that is typed beats the file, which beats the "
            "preset.",
            exists=True,
            dir_okay=False,
            show_default=False,
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Folder of the run.  [default: runs/PRESET, or runs/NAME of the data]",
            show_default=False,
        ),
    ] = None,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume",
            help="Go on from the latest checkpoint in --out, as set there; what it writes, too.",
        ),
    ] = False,
    from_step: Annotated[
        int | None,
        typer.Option(
            min=0,
            metavar="STEP",
            help="With --resume: go on from the checkpoint of this step, 0 for none; later ones "
            "are set aside.",
            show_default=False,
        ),
    ] = None,
    skip: Annotated[
        list[int] | None,
        typer.Option(
            min=1,
            metavar="STEP",
            help="Number of a step whose update is left out; may be given several times, and "
            "--resume remembers it.",
            show_default=False,
        ),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(
            min=0,
            max=1024,
            metavar="N",
            help="Processes that read the data ahead; 0 reads them in the run's own. The weights "
            "are the same.  [default: 0 for data in memory, else up to 4]",
            show_default=False,
        ),
    ] = None,
    dry: Annotated[
        bool,
        typer.Option(
            "--dry-run",
            help="Print all settings, sizes, memory and time instead, from a short measurement, "
            "and write nothing.",
        ),
    ] = False,
    device: Device = "auto",
    processes: ProcessCount = None,
    as_json: Json = False,
    **settings: Any,  # noqa: ANN401
) -> None:
    """Train a SiT with representation alignment.

    On the digits, or with --data on a set that `repa prepare` made, a folder or a zip of images.
    What is not given is the preset's, or with --resume the run's own, also of how often it logs,
    saves and judges. Writes a folder with config.json, log.jsonl, checkpoints/ and previews/.
    Ctrl-C ends the run after the step in hand, saved; --resume goes on from there and ends with the
    same weights. Settings that change neither network, data, features nor draws may be given anew
    with --resume; history.jsonl records from which step on. With several GPUs: --processes N, or on
    several machines torchrun ... -m -- repa_cli train ...
    """
    if dry and workers is not None:
        raise typer.BadParameter("has no effect with --dry-run", param_hint="--workers")
    with Loading():
        import repa.training.loop  # noqa: F401 - with torch it takes seconds
        from repa.training.run.milestones import run_reporting
        from repa_base.processes import at_first, check_same, joined_processes, suitable_backend

    file = read_config_file(config) if config else ConfigFile()
    typed = settings
    preset, settings = preset or file.preset, file.under(typed)
    folder = out or Path("runs") / _name(preset, settings)
    reported = {name: settings.pop(name) for name in rules(Reporting) if name in settings}
    with file.named_in_errors(typed), joined_processes(suitable_backend(device)) as world:
        how: dict[str, Any] = {"resume": resume, "from_step": from_step, "skip": skip or ()}
        # What decides who waits for whom is compared before anyone waits.
        asked = {"preset": preset, "out": str(folder), "dry_run": dry, **how}
        check_same(world, {**asked, **reported, **settings})
        chosen = _chosen(preset, settings, folder, world, resume=resume)
        before = at_first(world, lambda: run_reporting(folder) if resume else None)
        reporting = Reporting.going_on(before, **reported)
        how |= {"device": world.device(device)}
        if dry:
            if world.is_first:
                how |= {"processes": world.size}
                _tell_plan(chosen, folder, reporting, how, as_json=as_json)
            return
        how |= {"workers": workers, "processes": world}
        end = _run(chosen, folder, reporting, how)
        if not isinstance(end, Path) and world.is_first:
            print_note(str(end))  # before the processes part, which may fail where they end
    if not isinstance(end, Path):
        raise typer.Exit(128 + end.signal)
    if world.is_first:
        _tell_end(chosen, folder, end, as_json=as_json)


def _is_own(settings: Mapping[str, Any]) -> bool:
    """Whether the data are not those of the toolkit."""
    return settings.get("data", DATASETS[0]) not in DATASETS


def _name(preset: str | None, settings: Mapping[str, Any]) -> str:
    """Return what a run is called that is given no folder."""
    if _is_own(settings) and not preset:
        path = Path(settings["data"]).absolute()
        if name := (path.resolve() if path.name == ".." else path).name:
            return name
        raise SettingError("data", f"{settings['data']} gives a run no name: give --out.")
    return preset or DATASETS[0]


def _chosen(
    preset: str | None, settings: dict[str, Any], folder: Path, world: "Processes", *, resume: bool
) -> TrainConfig:
    """Return the settings of a run that begins or, if there is one to resume, of that one."""
    from repa.errors import OutputExistsError
    from repa.training.run.folder import read_run_config
    from repa_base.processes import at_first

    stored = at_first(world, lambda: read_run_config(folder)) if resume else None
    if stored is not None:
        if preset and world.is_first:
            print_note(f"a preset only starts a run; {folder} goes on with its own settings.")
        return settings_going_on(stored, **settings)
    if resume and preset is None and not _is_own(settings):
        remedy = "see --out, or name a --preset or --data to start one"
        raise OutputExistsError(f"{folder} holds no run to go on with; {remedy}.")
    return settings_of(preset, **settings)


def _run(
    config: TrainConfig, folder: Path, reporting: Reporting, how: Mapping[str, Any]
) -> "Path | Interrupted":
    """Train; return the last checkpoint, or what ended the run before."""
    from repa.training.loop import Interrupted, train

    with _telling(config, shown=how["processes"].is_first) as told:
        try:
            return train(config, folder, reporting=replace(reporting, **told), **how)
        except Interrupted as interrupted:
            return interrupted


def _tell_end(config: TrainConfig, folder: Path, checkpoint: Path, *, as_json: bool) -> None:
    """Print what a run has made."""
    result = {"steps": config.num_steps, "checkpoint": str(checkpoint), "run": str(folder)}
    if as_json:
        print_json(result)
    else:
        print_table(["training", ""], [(key, str(value)) for key, value in result.items()])


def _tell_plan(
    config: TrainConfig,
    folder: Path,
    reporting: Reporting,
    how: Mapping[str, Any],
    *,
    as_json: bool,
) -> None:
    """Print what a run would be."""
    from repa.training.planning.dry_run import dry_run
    from repa_cli.showing.dry_run_table import print_dry_run

    reporting = replace(reporting, on_note=print_note)
    shown = {name: getattr(reporting, name) for name in rules(Reporting)}
    plan = dry_run(config, folder, reporting=reporting, **how)
    if as_json:
        print_json({**plan.to_dict(), "reporting": shown})
    else:
        print_dry_run(plan, shown)


@contextmanager
def _telling(config: TrainConfig, *, shown: bool) -> Iterator[dict[str, Any]]:
    """Show how far a run is; give what `Reporting` tells it by."""
    num_steps, batch_size = config.num_steps, config.batch_size
    with progress_bar(num_steps, "steps", "training", bar_format=_BAR, shown=shown) as bar:

        def count(step: int) -> None:
            if bar.n == 0:
                bar.begin(step, num_steps)
                speed.at(step)
            bar.update(step - bar.n)

        speed = _Speed(batch_size)

        def show(step: int, losses: dict[str, float]) -> None:
            shown = {short: f"{losses[name]:.3f}" for name, short in _SHOWN.items()}
            bar.set_postfix({**shown, "img/s": f"{speed.at(bar.n):.0f}"})

        drawing = progress_bars()

        def show_preview(step: int, share: float) -> None:
            drawing(f"preview of step {step}", round(100 * share), 100)

        told = {"on_taken": count, "on_step": show, "on_preview": show_preview}
        told["on_progress"] = progress_bars()
        yield {**told, "on_note": print_note}


class _Speed:
    """Images a second, since it was last asked for and at least a fifth of a second ago."""

    def __init__(self, batch_size: int) -> None:
        self._batch_size, self._step, self._rate = batch_size, 0.0, 0.0
        self._since = -math.inf

    def at(self, step: float) -> float:
        """Return the speed when so many steps are taken; steps are told in groups, at a log."""
        now = time.monotonic()
        if now - self._since > _SOON and step > self._step:
            self._rate = self._batch_size * (step - self._step) / (now - self._since)
            self._since, self._step = now, step
        return self._rate
