"""Opening a run: its folder, data, targets and state, before the first step or where it goes on.

All that can be refused is refused here, by `plan_run`, which a dry run has too. Of several
processes the first one alone writes the folder, and what it finds, or meets, is known to all; the
others read an encoder's features there, so that it must be on a disk that they share.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from repa.checkpoints.settings import CheckpointSettings
from repa.data import TrainingData, open_training_data
from repa.errors import RepaError, SettingError
from repa.training.batch import Share
from repa.training.run.folder import (
    check_data,
    check_run_folder,
    check_steps,
    locked,
    record_settings,
)
from repa.training.run.initial import start_from_checkpoint, with_recorded_start
from repa.training.run.milestones import record_reporting
from repa.training.run.resuming import Start, check_longer, load_checkpoint, start_of
from repa.training.run.state import TrainState, check_model, model_settings
from repa.training.settings import Reporting, TrainConfig
from repa.training.targets import Keeping, TargetSource, keep_targets, open_targets
from repa.training.watching.regular import Regular
from repa_base.device import remarks_on
from repa_base.processes import Processes, at_first, check_same, together


@dataclass(frozen=True)
class Opening:
    """How a run is opened: see `repa.training.loop.train`, whose arguments these are."""

    config: TrainConfig
    out: Path
    resume: bool = False
    from_step: int | None = None
    skip: tuple[int, ...] = ()
    device: torch.device | str = "cpu"
    keep_features: Keeping | None = None
    reporting: Reporting = field(default_factory=Reporting)
    processes: Processes = field(default_factory=Processes)
    watch: Callable[[TrainConfig, TrainingData, CheckpointSettings], Sequence[Regular]] = (
        lambda config, data, what: ()
    )

    def on_note(self, note: str) -> None:
        """Tell what happens."""
        self.reporting.on_note(note)


@dataclass(frozen=True)
class OpenRun:
    """A run that can go on: its state, what it is trained on, and what its weights are.

    `skipped` are the numbers of steps, from 1, whose update is left out, `latest` is the checkpoint
    that it goes on from, if it does, `milestones` the steps whose checkpoints stay in any case.
    """

    config: TrainConfig
    out: Path
    state: TrainState
    data: TrainingData
    targets: TargetSource
    what: CheckpointSettings
    share: Share
    skipped: frozenset[int]
    latest: Path | None
    milestones: frozenset[int] = frozenset()
    regular: Sequence[Regular] = ()


@dataclass(frozen=True)
class RunPlan:
    """What a run is trained on and where it goes on, before anything is made or written.

    `before` are the settings of the folder's run until now, None if it holds none, and `record` is
    what it remembers of its data.
    """

    config: TrainConfig
    before: TrainConfig | None
    data: TrainingData
    record: Mapping[str, Any] | None
    targets: TargetSource
    what: CheckpointSettings
    start: Start
    regular: Sequence[Regular]


def plan_run(how: Opening) -> RunPlan:
    """Find out, writing nothing to its folder, what a run is.

    Raises:
        RepaError: See `repa.training.loop.train`.
    """
    world, out = how.processes, how.out
    config, before = _checked(how)
    for remark in remarks_on(config.precision, how.device):
        how.on_note(remark)
    data, record = _opened_data(config, how)
    with together(world):
        targets = _opened_targets(config, data, how)
    what = _description(config, data, targets, record)

    def found() -> Start:
        start = start_of(out, how.from_step)
        check_longer(before, config, start.step, out)
        check_steps(out, config, start.step, how.skip)
        return start

    start = at_first(world, found)
    with together(world):
        regular = how.watch(config, data, what)
    return RunPlan(config, before, data, record, targets, what, start, regular)


@contextmanager
def opened(how: Opening) -> Iterator[OpenRun]:
    """Open a run for the length of the block, in which no other process can.

    Raises:
        RepaError: See `repa.training.loop.train`.
    """
    world, out = how.processes, how.out
    _check_same(how)
    config, _ = _checked(how)
    share = Share(config.batch_size, config.accumulate, world)
    with _locked(world, out):
        plan = plan_run(how)  # the folder may have changed while it was not locked
        data, what, latest = plan.data, plan.what, plan.start.checkpoint
        with together(world):
            state = TrainState.create(plan.config, what.model, how.device)
        config, skipped, milestones = at_first(world, lambda: _begun(how, plan, state))
        state.copy_from_first(world)
        targets = plan.targets
        if config.is_aligned(state.step):
            targets = _kept_targets(targets, config, data, how)
        parts = state, data, targets, what, share, skipped, latest, milestones, plan.regular
        yield OpenRun(config, out, *parts)


def _checked(how: Opening) -> tuple[TrainConfig, TrainConfig | None]:
    """Check what takes no data; return the settings, and those of the folder's run, if any."""
    world, out = how.processes, how.out
    if how.from_step is not None and not how.resume:
        raise SettingError("from_step", "from_step is for runs that go on: add --resume.")
    config = at_first(world, lambda: with_recorded_start(how.config, out))
    before = at_first(world, lambda: check_run_folder(config, out, resume=how.resume))
    check_model(config)
    return config, before


def _begun(
    how: Opening, plan: RunPlan, state: TrainState
) -> tuple[TrainConfig, frozenset[int], frozenset[int]]:
    """Fill the state, and write what is known of the run to its folder.

    Returns:
        Its settings now, the steps that are left out, and those whose checkpoints stay.
    """
    config, out, note, start = plan.config, how.out, how.on_note, plan.start
    if start.checkpoint is None:
        config = start_from_checkpoint(state, config, plan.what, note)
    else:
        load_checkpoint(state, config, out, start.checkpoint, note)
    milestones = record_reporting(out, how.reporting, state.step, note)
    skipped, notes = record_settings(
        out,
        config,
        before=plan.before,
        step=state.step,
        skip=how.skip,
        instead_of=start.instead_of,
        later=start.later,
        data=plan.record,
    )
    if start.instead_of is not None:
        notes.append(f"later checkpoints are in {out / 'set-aside'}, to be removed at will")
    if start.checkpoint is not None:
        note(f"resuming from step {state.step} of {config.num_steps}.")
    if notes:
        note(f"from step {state.step + 1} on: {', '.join(notes)}.")
    return config, skipped, milestones


def _check_same(how: Opening) -> None:
    """Raise RepaError at all processes if one of them was started with other arguments."""
    own = {**asdict(how.config), **how.reporting.plain(), "out": str(how.out)}
    own |= {"resume": how.resume, "from_step": how.from_step, "skip": how.skip}
    check_same(how.processes, {**own, "keep_features": how.keep_features})


@contextmanager
def _locked(world: Processes, out: Path) -> Iterator[None]:
    """Let the first process lock the folder for all."""
    with ExitStack() as stack:

        def lock() -> None:
            stack.enter_context(locked(out))

        at_first(world, lock)
        yield


def _opened_data(config: TrainConfig, how: Opening) -> tuple[TrainingData, dict[str, Any] | None]:
    """Open the data at every process; return them and what the run remembers of them.

    Raises:
        OutputExistsError: They are not those that the run began with.
        RepaError: A process finds other data than the first one.
    """
    world = how.processes
    with together(world):
        data = open_training_data(config.data, config.image_size)
        data = data.flipping() if config.flip else data
    found = {"name": data.name, "images": data.count, "classes": data.num_classes}
    first = world.share(found)
    with together(world):
        if found != first:
            raise RepaError(f"process {world.rank} finds other data than the first: {found}.")

    def checked() -> dict[str, Any] | None:
        record = data.record(how.on_note)
        check_data(how.out, record, config.data)
        return record

    return data, at_first(world, checked)


def _opened_targets(config: TrainConfig, data: TrainingData, how: Opening) -> TargetSource:
    """Find the features to align with, at every process by itself."""
    grid_size = data.input_size // check_model(config)["patch_size"]
    encoder, precision = config.encoder, config.encoder_precision
    try:
        return open_targets(encoder, data, how.out, grid_size, how.device, precision)
    except SettingError as error:
        if error.field != "grid_size":
            raise
        raise SettingError("image_size", str(error)) from error  # what the grid comes of


def _kept_targets(
    targets: TargetSource, config: TrainConfig, data: TrainingData, how: Opening
) -> TargetSource:
    """Let the first process keep features as asked, and the others use what it has kept."""
    world, kept = how.processes, []

    def keep() -> None:
        kept.append(keep_targets(targets, how.out, how.keep_features, how.on_note))

    at_first(world, keep)
    with together(world):
        found = kept[0] if kept else _opened_targets(config, data, how)
    kinds = [type(s).__name__ for s in getattr(found, "sources", [found])]
    first = world.share(kinds)
    with together(world):
        if kinds != first:
            raise RepaError(
                f"process {world.rank} does not find the features that the first one keeps in "
                f"{how.out}: it must be the same folder for all, on a disk that they share."
            )
    return found


def _description(
    config: TrainConfig,
    data: TrainingData,
    targets: TargetSource,
    record: Mapping[str, Any] | None,
) -> CheckpointSettings:
    """Return which network a run trains, and for what."""
    return CheckpointSettings(
        model=model_settings(config, data, targets.dims),
        path_type=config.path_type,
        dataset=data.name,
        latent_space=data.latent_space,
        reference=data.reference,
        class_names=tuple((record or {}).get("class_names", ())),
    )


def announce(run: OpenRun, on_note: Callable[[str], None]) -> None:
    """Say what is trained on what, before a first step that may take minutes."""
    config, size = run.config, run.share.processes.size
    millions = sum(parameter.numel() for parameter in run.state.model.parameters()) / 1e6
    among = f" by {size} processes" if size > 1 else ""
    on_note(
        f"{config.model}, {millions:.1f} million parameters, is trained on {run.data.count:,} "
        f"images of {run.data.name}, {config.batch_size} a step{among}, up to step "
        f"{config.num_steps:,}."
    )
    if (peak := config.highest_learning_rate) < config.learning_rate:
        warmup = min(config.warmup_steps, config.num_steps // 10)
        decay = min(config.decay_steps, config.num_steps // 2)
        on_note(
            f"the learning rate comes to {peak:.2g} at most, not {config.learning_rate:g}: warm-up "
            f"({config.warmup_steps} steps) and decay ({config.decay_steps}) do not fit into "
            f"{config.num_steps}; --warmup-steps {warmup} --decay-steps {decay} would."
        )
