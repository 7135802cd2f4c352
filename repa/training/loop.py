"""The training loop: batch, step, log, checkpoint, preview, and going on after an end of any kind.

One loop for every data set. All random draws of step k are keyed by (seed, k), so a run that was
killed and resumed ends with the same weights. A run is a folder:

    config.json, history.jsonl   settings and what changed of them, see `repa.training.run_folder`
    log.jsonl                    losses, one line every `log_every` steps
    checkpoints/step-0001000/    see `repa.training.state`
    previews/step-0001000.png    samples from the EMA weights
    target_features.*            an encoder's features of all images, see `repa.training.targets`
    encoder-2/                   those of a second encoder, and so on
"""

import shlex
import signal
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from repa.checkpoints.settings import CheckpointSettings, describe
from repa.data import open_training_data
from repa.errors import NonFiniteError, RepaError, SettingError
from repa.sheets.contact_sheet import save_png
from repa.training.batch import Batches
from repa.training.previews import preview
from repa.training.run_folder import (
    Log,
    check_run_folder,
    latest_checkpoint,
    locked,
    record_settings,
    remove_old_checkpoints,
)
from repa.training.settings import Reporting, TrainConfig
from repa.training.state import TrainState, check_model, model_settings
from repa.training.step import train_step
from repa.training.targets import Keeping, keep_targets, open_targets


class Interrupted(KeyboardInterrupt):
    """A signal ended the run after a complete step, saved; the message says how to go on."""


def train(
    config: TrainConfig,
    out: Path,
    *,
    resume: bool = False,
    skip: Iterable[int] = (),
    device: torch.device | str = "cpu",
    reporting: Reporting | None = None,
    keep_features: Keeping = "memory",
) -> Path:
    """Train a SiT in the folder `out`, up to `config.num_steps` steps.

    Args:
        config: Settings of the run. A resumed one may change those of `CHANGEABLE`; they hold from
            the step resumed from, also for a learning rate that falls towards another last step.
        out: Folder of the run; made if it is missing.
        resume: Go on from the folder's latest checkpoint, or start when it has none.
        skip: Numbers of steps, from 1, whose update is left out: the step counts, the weights stay.
            The folder remembers them.
        device: Where to compute.
        reporting: What to write and how often.
        keep_features: Where the encoders' features are kept, if the folder holds none.

    Returns:
        The last checkpoint's folder.

    Raises:
        OutputExistsError: See `check_run_folder`.
        SettingError: The settings make no network, an encoder does not give features for this size
            of images, the run has taken more steps, or a step of `skip` is not to come.
        Interrupted: SIGINT or SIGTERM came; the step was completed and saved.
        NonFiniteError: The loss is not finite; nothing of that step is saved, and the message says
            how to go on.
    """
    reporting = reporting or Reporting()
    check_run_folder(config, out, resume=resume)
    sizes = check_model(config)
    with locked(out):
        before = check_run_folder(config, out, resume=resume)  # it may have changed unlocked
        data = open_training_data(config.data, config.image_size)
        grid_size = data.input_size // sizes["patch_size"]
        try:
            targets = open_targets(config.encoder, data, out, grid_size, device)
        except SettingError as error:
            if error.field != "grid_size":
                raise
            raise SettingError("image_size", str(error)) from error  # what the grid comes of
        settings = model_settings(config, data, targets.dims)
        state = TrainState.create(config, settings, device)
        latest = latest_checkpoint(out / "checkpoints")
        if latest:
            state.load(latest)
        skipped, notes = record_settings(out, config, before=before, step=state.step, skip=skip)
        targets = keep_targets(targets, out, keep_features, reporting.on_note)
        if latest:
            reporting.on_note(f"resuming from step {state.step} of {config.num_steps}.")
        if notes:
            reporting.on_note(f"from step {state.step + 1} on: {', '.join(notes)}.")
        space, path_type = data.latent_space, config.path_type
        what = CheckpointSettings(
            model=settings, path_type=path_type, dataset=data.name, latent_space=space
        )
        run = _Run(config, out, Batches(config, data, targets, device), skipped, what, reporting)
        with _signals() as stop:
            latest = run.to_the_end(state, stop) or latest
    if latest is None:
        raise RepaError(f"{out}: no step was trained.")
    return latest


@dataclass(frozen=True)
class _Run:
    config: TrainConfig
    out: Path
    batches: Batches
    skipped: frozenset[int]
    what: CheckpointSettings
    reporting: Reporting

    def to_the_end(self, state: TrainState, stop: threading.Event) -> Path | None:
        """Take every step that is left; return the last checkpoint, if one was written."""
        reporting, num_steps = self.reporting, self.config.num_steps
        log, latest = Log(self.out / "log.jsonl", state.step), None
        while state.step < num_steps:
            losses = self.step(state)
            ended = state.step == num_steps
            last = ended or stop.is_set()
            if losses and (last or state.step % reporting.log_every == 0):
                log.write(state.step, losses)
            if last or state.step % reporting.checkpoint_every == 0:
                latest = self.save(state)
            if ended or state.step % reporting.preview_every == 0:
                self.draw_preview(state)
            if last and not ended:
                saved = f"stopped after step {state.step}, which is saved"
                raise Interrupted(f"{saved}; go on with: {self._again}")
        return latest

    def step(self, state: TrainState) -> dict[str, float]:
        """Take one step and return its losses; a step that is left out has none."""
        if state.step + 1 in self.skipped:
            state.step += 1
            return {}
        try:
            losses = train_step(self.config, state, self.batches(state.step))
        except NonFiniteError as error:
            raise NonFiniteError(f"{error}. {self._advice(state.step + 1)}") from error
        self.reporting.on_step(state.step, losses)
        return losses

    def save(self, state: TrainState) -> Path:
        folder, kept = self.out / "checkpoints", self.reporting
        saved = state.save(folder, self.config, describe(self.what))
        remove_old_checkpoints(folder, keep_last=kept.keep_last, keep_every=kept.keep_every)
        return saved

    def draw_preview(self, state: TrainState) -> None:
        """Write a contact sheet; latents have none, they would have to be decoded first."""
        if self.what.latent_space.is_pixels:
            config, scale = self.config, self.reporting.preview_cfg_scale
            sheet = preview(state.ema, self.what, seed=config.seed, cfg_scale=scale)
            save_png(sheet, self.out / "previews" / f"step-{state.step:07d}.png")

    @property
    def _again(self) -> str:
        return f"repa train --out {shlex.quote(str(self.out))} --resume"

    def _advice(self, step: int) -> str:
        """Say how to go on where a step has no finite loss; its draws will be the same again."""
        again, rate = self._again, self.config.learning_rate / 2
        advice = f"Leave that step out: {again} --skip {step}; or go on from the last checkpoint "
        advice += f"with smaller steps: {again} --learning-rate {rate:g}"
        if self.config.precision != "fp32":
            advice += f"; or in full precision: {again} --precision fp32"
        return advice


@contextmanager
def _signals() -> Iterator[threading.Event]:
    """Set an event on the first SIGINT or SIGTERM; a second one interrupts at once."""
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def handle(*_: object) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()

    before = {s: signal.signal(s, handle) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
