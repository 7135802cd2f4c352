"""The training loop: batch, step, log, checkpoint, preview, and going on after an end of any kind.

One loop for every data set. All random draws of step k are keyed by (seed, k), so a run that was
killed and resumed ends with the same weights. A run is a folder:

    config.json, history.jsonl   settings and what changed of them, see `repa.training.run.folder`
    log.jsonl                    losses and learning rate, one line every `log_every` steps
    checkpoints/step-0001000/    see `repa.training.run.state`
    previews/step-0001000.png    samples, see `repa.training.previews`
    target_features.*            an encoder's features of all images, see `repa.training.targets`
    encoder-2/                   those of a second encoder, and so on
    set-aside/step-0001000/      checkpoints after one that the run went back to
"""

import signal
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from repa.checkpoints.settings import CheckpointSettings, describe
from repa.data import TrainingData, open_training_data
from repa.errors import NonFiniteError, RepaError, SettingError
from repa.training.batch import Batches
from repa.training.previews import Previews, decoder_of
from repa.training.reading_ahead import reading_ahead, suitable_workers
from repa.training.run.folder import (
    Log,
    check_data,
    check_run_folder,
    locked,
    record_settings,
    remove_old_checkpoints,
    set_aside,
)
from repa.training.run.initial import start_from_checkpoint, with_recorded_start
from repa.training.run.resuming import check_longer, command, load_checkpoint
from repa.training.run.state import TrainState, check_model, model_settings, step_of
from repa.training.settings import Reporting, TrainConfig
from repa.training.step import train_step
from repa.training.targets import Keeping, keep_targets, open_targets
from repa_base.files import check_room, is_full


class Interrupted(KeyboardInterrupt):
    """A signal ended the run after a complete step, saved; the message says how to go on."""

    def __init__(self, message: str, number: int = signal.SIGINT) -> None:
        super().__init__(message)
        self.signal = number


def train(
    config: TrainConfig,
    out: Path,
    *,
    resume: bool = False,
    from_step: int | None = None,
    skip: Iterable[int] = (),
    device: torch.device | str = "cpu",
    reporting: Reporting | None = None,
    keep_features: Keeping | None = None,
    workers: int | None = 0,
) -> Path:
    """Train a SiT in the folder `out`, up to `config.num_steps` steps.

    Args:
        config: Settings of the run. A resumed one may change those of `CHANGEABLE`; they hold from
            the step resumed from, also for a learning rate that falls towards another last step.
        out: Folder of the run; made if it is missing.
        resume: Go on from the folder's latest checkpoint, or start when it has none.
        from_step: Go on from this checkpoint instead, 0 for none; later ones are set aside.
        skip: Numbers of steps, from 1, whose update is left out: the step counts, the weights stay.
            The folder remembers them.
        device: Where to compute.
        reporting: What to write and how often.
        keep_features: Where the encoders' features are kept, if neither the data nor the folder
            hold them; None for what suits their size.
        workers: Processes that read the data ahead, 0 to read in this one, None for as many as suit
            the data. A script that starts some must not start the run anew when it is imported.

    Returns:
        The last checkpoint's folder.

    Raises:
        OutputExistsError: See `check_run_folder`; or the data are other than they were.
        DataError: They are not there, or what is read of them is damaged.
        SettingError: The settings make no network, an encoder does not give features for this size
            of images, the run has taken more steps, a step of `skip` is not to come, there is no
            checkpoint of `from_step`, or `check_longer` refuses the length.
        RepaError: The checkpoint to start from does not fit, see `start_from_checkpoint`.
        CheckpointFormatError: A file of the run is damaged; the message says how to go on.
        OSError: A disk is full, say; what was saved stays, and the run can go on.
        Interrupted: SIGINT or SIGTERM came; the step was completed and saved.
        NonFiniteError: The loss is not finite; nothing of that step is saved, and the message says
            how to go on.
    """
    reporting = reporting or Reporting()
    if from_step is not None and not resume:
        raise SettingError("from_step", "from_step is for runs that go on: add --resume.")
    config = with_recorded_start(config, out)
    check_run_folder(config, out, resume=resume)
    sizes = check_model(config)
    with locked(out):
        before = check_run_folder(config, out, resume=resume)  # it may have changed unlocked
        data = open_training_data(config.data, config.image_size)
        data = data.flipping() if config.flip else data
        record = data.record(reporting.on_note)
        check_data(out, record, config.data)
        grid_size = data.input_size // sizes["patch_size"]
        try:
            targets = open_targets(
                config.encoder, data, out, grid_size, device, config.encoder_precision
            )
        except SettingError as error:
            if error.field != "grid_size":
                raise
            raise SettingError("image_size", str(error)) from error  # what the grid comes of
        settings = model_settings(config, data, targets.dims)
        state = TrainState.create(config, settings, device)
        space, path_type = data.latent_space, config.path_type
        what = CheckpointSettings(
            model=settings,
            path_type=path_type,
            dataset=data.name,
            latent_space=space,
            reference=data.reference,
        )
        latest, later = load_checkpoint(state, config, out, from_step, reporting.on_note)
        if latest is None:
            config = start_from_checkpoint(state, config, what, reporting.on_note)
        check_longer(before, config, state.step, out)
        skipped, notes = record_settings(
            out,
            config,
            before=before,
            step=state.step,
            skip=skip,
            instead_of=step_of(later[0]) if later else None,
            data=record,
        )
        if config.is_aligned(state.step):
            targets = keep_targets(targets, out, keep_features, reporting.on_note)
        if later:
            set_aside(out, later)
            notes.append(f"later checkpoints are in {out / 'set-aside'}, to be removed at will")
        if latest:
            reporting.on_note(f"resuming from step {state.step} of {config.num_steps}.")
        if notes:
            reporting.on_note(f"from step {state.step + 1} on: {', '.join(notes)}.")
        if state.step < config.num_steps:
            _note_start(config, state, data, reporting)
            _note_low_rate(config, reporting)
        batches = Batches(config, data, targets, device)
        decoder = decoder_of(data.latent_space, device, reporting)
        previews = Previews(config, out, what, reporting, decoder)
        steps = (s for s in range(state.step, config.num_steps) if s + 1 not in skipped)
        many = suitable_workers(data) if workers is None else workers
        many = many if state.step < config.num_steps else 0
        with _signals() as stop, reading_ahead(batches.reader, steps, many) as read:
            batches = replace(batches, read=read)
            run = _Run(config, out, batches, skipped, previews, what, reporting)
            with run.naming_the_way_on():
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
    previews: Previews
    what: CheckpointSettings
    reporting: Reporting

    def to_the_end(self, state: TrainState, stop: "_Stop") -> Path | None:
        """Take every step that is left; return the last checkpoint, if one was written."""
        num_steps, previews = self.config.num_steps, self.previews
        log, latest, saved = Log(self.out / "log.jsonl", state.step), None, state.step
        drawn = True
        if previews.is_due(saved) and not previews.path(saved).exists():
            drawn = previews.draw(state, stop.is_set)
        while state.step < num_steps and not stop.is_set():
            if state.step == saved:
                self.check_room(state)
            losses, rate = self.step(state), self.config.learning_rate_at(state.step - 1)
            last = stop.is_set() or state.step == num_steps
            if losses and (last or state.step % self.reporting.log_every == 0):
                log.write(state.step, losses, rate)
            if last or state.step % self.reporting.checkpoint_every == 0:
                latest, saved = self.save(state), state.step
            if previews.is_due(state.step):
                drawn = previews.draw(state, stop.is_set)
        if stop.is_set() and not (state.step == num_steps and drawn):
            latest = self.save(state) if state.step > saved else latest
            raise Interrupted(
                f"{self._stopped(state.step)}; go on with: {self._again}", stop.number
            )
        return latest

    def check_room(self, state: TrainState) -> None:
        """Find out, before the steps that lead to it, whether there is room for a checkpoint."""
        every, last = self.reporting.checkpoint_every, self.config.num_steps
        due = min((state.step // every + 1) * every, last)
        check_room(state.num_bytes, self.out, what=f"the checkpoint of step {due} needs")

    @contextmanager
    def naming_the_way_on(self) -> Iterator[None]:
        """Say of a full disk how to go on."""
        try:
            yield
        except OSError as error:
            if not is_full(error):
                raise
            reason = (
                f"{error.strerror}; make room and go on with: {self._again}; what was saved stays"
            )
            raise OSError(error.errno, reason, error.filename) from error

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

    def _stopped(self, step: int) -> str:
        if step == 0:
            return "stopped before the first step"
        if step == self.config.num_steps:
            return f"stopped after the last step, {step}, which is saved, before its preview"
        return f"stopped after step {step}, which is saved"

    @property
    def _again(self) -> str:
        return command(self.out)

    def _advice(self, step: int) -> str:
        """Say how to go on where a step has no finite loss; its draws will be the same again."""
        again, rate = self._again, self.config.learning_rate / 2
        advice = f"Leave that step out: {again} --skip {step}; or go on from the last checkpoint "
        advice += f"with smaller steps: {again} --learning-rate {rate:g}"
        if self.config.precision != "fp32":
            advice += f"; or in full precision: {again} --precision fp32"
        return advice


def _note_start(
    config: TrainConfig, state: TrainState, data: TrainingData, reporting: Reporting
) -> None:
    """Say, before a first step that may take minutes, what is trained on what."""
    millions = sum(parameter.numel() for parameter in state.model.parameters()) / 1e6
    reporting.on_note(
        f"{config.model}, {millions:.1f} million parameters, is trained on {data.count:,} images "
        f"of {data.name}, {config.batch_size} a step, up to step {config.num_steps:,}."
    )


def _note_low_rate(config: TrainConfig, reporting: Reporting) -> None:
    """Say that a run is too short for its learning rate."""
    if (peak := config.highest_learning_rate) < config.learning_rate:
        warmup = min(config.warmup_steps, config.num_steps // 10)
        decay = min(config.decay_steps, config.num_steps // 2)
        reporting.on_note(
            f"the learning rate comes to {peak:.2g} at most, not {config.learning_rate:g}: warm-up "
            f"({config.warmup_steps} steps) and decay ({config.decay_steps}) do not fit into "
            f"{config.num_steps}; --warmup-steps {warmup} --decay-steps {decay} would."
        )


class _Stop(threading.Event):
    """Set by a signal, whose number it holds then."""

    number = signal.SIGINT


@contextmanager
def _signals() -> Iterator[_Stop]:
    """Set an event on the first SIGINT or SIGTERM; a second one interrupts at once."""
    stop = _Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def handle(number: int, frame: object) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.number = signal.Signals(number)
        stop.set()

    before = {s: signal.signal(s, handle) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
