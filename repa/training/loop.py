"""The training loop: step, log, checkpoint, preview, and an end of any kind that can be mended.

One loop for every data set and any number of processes. What is drawn for a sample is keyed by its
position in the run, so a run that was killed and resumed ends with the same weights. The device is
waited for at a log, a held-out loss, an evaluation, a preview or a checkpoint alone. A run is a
folder:

    config.json, history.jsonl   settings and what changed of them, see `repa.training.run.folder`
    reporting.json               what is written and how often, see `repa.training.run.milestones`
    log.jsonl                    losses and learning rate, one line every `log_every` steps
    checkpoints/step-0001000/    see `repa.training.run.state`
    previews/step-0001000.png    samples, see `repa.training.previews`
    target_features.*            an encoder's features of all images, see `repa.training.targets`
    encoder-2/                   those of a second encoder, and so on
    set-aside/step-0001000/      checkpoints after one that the run went back to
"""

import os
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TypeVar

import torch
from torch import nn

from repa.checkpoints.settings import describe
from repa.errors import RepaError
from repa.training.batch import Batches
from repa.training.outcomes import Outcomes, numbers_text
from repa.training.previews import Previews, decoder_of
from repa.training.reading_ahead import reading_ahead, suitable_workers
from repa.training.run.folder import Log
from repa.training.run.milestones import remove_old_checkpoints, run_reporting
from repa.training.run.opening import Opening, OpenRun, announce, opened
from repa.training.run.resuming import command
from repa.training.settings import Reporting, TrainConfig
from repa.training.step import SMALLER, less_memory, step_network, train_step
from repa.training.stopping import Interrupted, Stop, stop_on_signals
from repa.training.targets import Keeping
from repa.training.watching.decoder import SharedAutoencoder
from repa.training.watching.regular import Regular, regular_work
from repa_base.device import out_of_memory_in_words
from repa_base.files import check_room, is_full
from repa_base.launcher import OURS
from repa_base.processes import Processes, at_first

T = TypeVar("T")


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
    processes: Processes | None = None,
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
        reporting: What to write and how often; of a run that goes on, what its folder says unless
            it is given, and else the defaults. The folder remembers it.
        keep_features: Where the encoders' features are kept, if neither the data nor the folder
            hold them; None for what suits their size.
        workers: Processes that read the data ahead, 0 to read in this one, None for as many as suit
            the data. A script that starts some must not start the run anew when it is imported.
        processes: Those that share each batch, each calling this with the same arguments but for
            the device. The first one writes the folder and reports; the losses are those of one
            process but for rounding.

    Returns:
        The last checkpoint's folder.

    Raises:
        OutputExistsError: See `check_run_folder`; or the data are other than they were.
        DataError: They are not there, or what is read of them is damaged.
        SettingError: The settings make no network, an encoder does not give features for this size
            of images, the batch cannot be divided, the run has taken more steps, a step of `skip`
            is not to come, there is no checkpoint of `from_step`, or `check_longer` refuses the
            length.
        RepaError: The checkpoint to start from does not fit, see `start_from_checkpoint`; the
            memory does not suffice; or processes were given other arguments than the first one.
        CheckpointFormatError: A file of the run is damaged; the message says how to go on.
        OSError: A disk is full, say; what was saved stays, and the run can go on.
        OtherProcessError: Another process has ended.
        Interrupted: SIGINT or SIGTERM came; the step was completed and saved.
        NonFiniteError: `config.patience` steps had a loss or gradient that was not finite; the
            message says how to go on from the last checkpoint.
    """
    processes = processes or Processes()
    before = at_first(processes, lambda: run_reporting(out) if resume else None)
    reporting = reporting or before or Reporting()
    shared = SharedAutoencoder(device)
    if not processes.is_first:
        reporting = reporting.quiet()
    how = Opening(
        config,
        out,
        resume=resume,
        from_step=from_step,
        skip=tuple(skip),
        device=device,
        keep_features=keep_features,
        reporting=reporting,
        processes=processes,
        watch=partial(
            regular_work,
            reporting=reporting,
            device=device,
            shared=shared,
            is_first=processes.is_first,
        ),
    )
    told = "in this run: repa train --dry-run with the same settings, and with --resume once "
    told += f"{out} holds the run, tells what needs how much."
    with out_of_memory_in_words(told), opened(how) as run:
        latest = _to_the_end(run, how, reporting, workers, shared)
    if latest is None:
        raise RepaError(f"{out}: no step was trained.")
    return latest


def _to_the_end(
    run: OpenRun,
    how: Opening,
    reporting: Reporting,
    workers: int | None,
    shared: SharedAutoencoder,
) -> Path | None:
    """Take the steps that are left; return the last checkpoint, if there is one."""
    config, parts, first = run.config, run.share.parts, run.state.step
    if first < config.num_steps:
        announce(run, reporting.on_note)
    many = suitable_workers(run.data) if workers is None else workers
    many = many if first < config.num_steps else 0
    steps = (s for s in range(first, config.num_steps) if s + 1 not in run.skipped)
    numbers = (step * parts + part for step in steps for part in range(parts))
    batches = Batches(config, run.data, run.targets, how.device, run.share)
    draws = replace(reporting, preview_every=reporting.preview_every * how.processes.is_first)
    decoder = decoder_of(run.data.latent_space, shared, draws)
    loop = _Loop(
        run,
        reporting,
        how.processes,
        step_network(run.state.model, config, how.processes),
        Previews(config, run.out, run.what, reporting, decoder),
    )
    with (
        stop_on_signals(how.processes) as stop,
        reading_ahead(batches.reader, numbers, many) as read,
        loop.naming_the_way_on(),
    ):
        return loop.to_the_end(replace(batches, read=read), stop) or run.latest


@dataclass
class _Loop:
    """The steps of an open run; every process takes them, and the first one alone writes."""

    run: OpenRun
    reporting: Reporting
    processes: Processes
    network: nn.Module
    previews: Previews

    def __post_init__(self) -> None:
        self.config, self.out, self.state = self.run.config, self.run.out, self.run.state
        self.outcomes = Outcomes(self.config.patience, self._advice)
        self.untold: list[int] = []
        self.latest: Path | None = None
        self.saved = self.logged = self.state.step

    def to_the_end(self, batches: Batches, stop: Stop) -> Path | None:
        """Take every step that is left; return the last checkpoint, if one was written."""
        state, num_steps = self.state, self.config.num_steps
        self.log = self.at_first(lambda: Log(self.out / "log.jsonl", state.step))
        done = self.look(stop, if_missing=True)
        while state.step < num_steps and not stop.agreed():
            self.check_room()
            self.step(batches)
            if self.is_due(self.reporting.log_every):
                self.write_log()
            if self.is_due(self.reporting.checkpoint_every):
                self.save()
            done = self.look(stop)
        if stop.agreed() and not (state.step == num_steps and done):
            if state.step > self.saved:
                self.write_log()
                self.save()
            raise Interrupted(f"{self._stopped}; go on with: {self._again}", stop.number)
        return self.latest

    def is_due(self, every: int) -> bool:
        """Whether what is done every so many steps, and at the last, is to be done now."""
        step = self.state.step
        return every > 0 and step > 0 and (step == self.config.num_steps or step % every == 0)

    def step(self, batches: Batches) -> None:
        """Take one step, or leave it out if that was asked for."""
        state = self.state
        if state.step + 1 in self.run.skipped:
            state.step += 1
            return
        parts = (batches(state.step, part) for part in range(self.config.accumulate))
        less = less_memory(self.config, self.run.share)
        way = (
            f"try {less}; then --resume." if less else f"start another run (--out) with {SMALLER}."
        )
        with out_of_memory_in_words(f"in a step: {way}"):
            measured = train_step(
                self.config, state, parts, network=self.network, processes=self.processes
            )
        self.outcomes.add(state.step, measured)
        self.reporting.on_taken(state.step)

    def read(self) -> None:
        """Wait for the device, and tell what was measured and what was left out."""
        taken, left_out = self.outcomes.read()
        for step, losses in taken:
            self.reporting.on_step(step, losses)
        self.untold += left_out
        if left_out:
            shown = numbers_text(left_out)
            self.reporting.on_note(f"the loss or its gradient was not finite at {shown}: left out.")
        self.outcomes.check()

    def write_log(self) -> None:
        """Add a line of this step to the log, unless it has one or was left out."""
        self.read()
        step, losses = self.state.step, self.outcomes.of(self.state.step)
        if step == self.logged or not (losses or self.untold):
            return
        rate, size = self.config.learning_rate_at(step - 1), self.processes.size
        told = {**losses, "learning_rate": rate, "processes": size}
        told |= {"not_finite": self.untold} if self.untold else {}
        self.at_first(lambda: self.log.write_step(step, told))
        self.untold, self.logged = [], step

    def save(self) -> None:
        """Write a checkpoint, and remove those that are not to be kept.

        A step that was left out and is in no line of the log yet has one first: who resumes from
        the checkpoint does not take it again.
        """
        self.read()
        if self.untold:
            told, self.untold = {"not_finite": self.untold}, []
            self.at_first(lambda: self.log.write(self.state.step, told))
        self.latest, self.saved = self.at_first(self._saved), self.state.step

    def look(self, stop: Stop, *, if_missing: bool = False) -> bool:
        """Do all that is due beside the steps; return whether nothing was given up."""
        start = time.monotonic()
        due = [each for each in self.run.regular if self.is_due(each.every)]
        done = [self.do(each, stop, if_missing=if_missing) for each in due]
        done.append(self.draw(stop, if_missing=if_missing))
        self.log.leave_out(time.monotonic() - start)
        return all(done)

    def do(self, regular: Regular, stop: Stop, *, if_missing: bool) -> bool:
        """Let the first process do work, and log it; return whether it was not given up."""
        self.read()
        step = self.state.step

        def done() -> bool:
            if regular.work is None or (if_missing and regular.key in self.log.at_start):
                return True
            entry = regular.work(self.state, stop.is_set)
            if entry:
                self.log.write(step, entry)
            return entry is not None

        return self.at_first(done)

    def draw(self, stop: Stop, *, if_missing: bool = False) -> bool:
        """Draw the preview that is due, if any is; return whether it was not given up."""
        if not self.is_due(self.reporting.preview_every):
            return True
        self.read()
        step = self.state.step

        def drawn() -> bool:
            there = if_missing and self.previews.path(step).exists()
            needed = self.previews.are_possible and not there
            return not needed or self.previews.draw(self.state, stop.is_set)

        return self.at_first(drawn)

    def check_room(self) -> None:
        """Find out before the steps to a checkpoint, and the last one, whether there is room."""
        step, every, last = self.state.step, self.reporting.checkpoint_every, self.config.num_steps
        due = min((step // every + 1) * every, last)
        if step in (self.saved, due - 1):
            needs, what = self.state.num_bytes, f"the checkpoint of step {due} needs"
            self.at_first(lambda: check_room(needs, self.out, what=what))

    def at_first(self, work: Callable[[], T]) -> T:
        """Let the first process do what it alone does, see `repa_base.processes.at_first`."""
        return at_first(self.processes, work)

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

    def _saved(self) -> Path:
        folder, kept = self.out / "checkpoints", self.reporting
        saved = self.state.save(folder, self.config, describe(self.run.what))
        remove_old_checkpoints(
            folder,
            keep_last=kept.keep_last,
            keep_every=kept.keep_every,
            milestones=self.run.milestones,
        )
        return saved

    @property
    def _stopped(self) -> str:
        step = self.state.step
        if step == 0:
            return "stopped before the first step"
        if step == self.config.num_steps:
            return f"stopped after the last step, {step}, which is saved, before all was drawn"
        return f"stopped after step {step}, which is saved"

    @property
    def _again(self) -> str:
        ours = os.environ.get(OURS) and self.processes.size > 1
        return command(self.out, *(["--processes", self.processes.size] if ours else []))

    @property
    def _advice(self) -> str:
        """How to go on after steps without a finite loss; their draws will be the same again."""
        config, again, rate = self.config, self._again, self.config.learning_rate / 2
        advice = f"Go on from the last checkpoint with smaller steps: {again} --learning-rate "
        advice += f"{rate:g}; or with more patience: {again} --patience {10 * config.patience}"
        if config.precision != "fp32":
            advice += f"; or in full precision: {again} --precision fp32"
        return advice
