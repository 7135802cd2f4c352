"""Where a run goes on: its latest checkpoint, or an earlier one if that is asked for.

What is damaged is named, with a way on that works: the latest checkpoint before it that is whole.
"""

import shlex
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from repa.errors import CheckpointFormatError, SettingError
from repa.training.run.folder import checkpoints_of, return_under_way
from repa.training.run.state import TrainState, check_checkpoint, step_of
from repa.training.settings import TrainConfig

_SCHEDULE = ("learning_rate", "warmup_steps", "decay_steps")


def command(out: Path, *options: object) -> str:
    """Return the command by which a run goes on."""
    return " ".join(["repa train --out", shlex.quote(str(out)), "--resume", *map(str, options)])


@dataclass(frozen=True)
class Start:
    """Where a run goes on: its checkpoint, None for the start, and those of later steps.

    These count no more. `instead_of` is the step that it goes back from, if it does.
    """

    checkpoint: Path | None
    later: list[Path]
    instead_of: int | None

    @property
    def step(self) -> int:
        """The steps that it has taken."""
        return step_of(self.checkpoint) if self.checkpoint else 0


def start_of(out: Path, from_step: int | None) -> Start:
    """Find the latest checkpoint of a run, or that of a step, 0 for the start.

    A run that was killed as it went back still does.

    Raises:
        SettingError: There is no checkpoint of this step.
        CheckpointFormatError: The history is damaged.
    """
    found = {step_of(path): path for path in checkpoints_of(out)}
    going_to, from_ = return_under_way(out) or (max(found, default=0), 0)
    wanted = going_to if from_step is None else from_step
    if wanted and wanted not in found:
        listed = ", ".join(map(str, sorted(found))) or "none"
        rule = f"has no checkpoint; there are those of steps {listed}, and 0 is the start"
        raise SettingError("from_step", f"from_step {wanted} {rule}.")
    furthest = max([from_, *found])
    later = [path for step, path in found.items() if step > wanted]
    return Start(found.get(wanted), later, furthest if furthest > wanted else None)


def load_checkpoint(
    state: TrainState,
    config: TrainConfig,
    out: Path,
    checkpoint: Path,
    on_note: Callable[[str], None],
) -> None:
    """Fill a run's state from a checkpoint of its own; nothing is written.

    Raises:
        CheckpointFormatError: It is damaged; the message says how to go on from an earlier one.
    """
    try:
        has_checksums = state.load(checkpoint, config)
    except CheckpointFormatError as error:
        way = command(out, "--from-step", _whole_before(out, config, step_of(checkpoint)))
        raise CheckpointFormatError(f"{error}; go on from before it with: {way}") from error
    if not has_checksums:
        what = "an earlier version wrote it without checksums, so that damage would not be seen"
        on_note(f"{checkpoint}: {what}.")


def check_longer(before: TrainConfig | None, config: TrainConfig, step: int, out: Path) -> None:
    """Refuse to move a fall of the learning rate that a run has begun to a later end, unasked.

    The rate would jump back up, and the run would be none of that length from the start.

    Raises:
        SettingError: It would; the message says what can be done.
    """
    if before is None or config.num_steps <= before.num_steps or not before.decay_steps:
        return
    start = max(before.num_steps - before.decay_steps, 0)  # the rate is whole up to the step after
    if step <= start + 1 or any(getattr(before, n) != getattr(config, n) for n in _SCHEDULE):
        return
    rates = [c.learning_rate_at(step - i) for c, i in ((before, 1), (config, 0))]
    reason = (
        f"num_steps {config.num_steps} would move the fall of the learning rate, which has come "
    )
    reason += f"down to {rates[0]:.2g} and would jump to {rates[1]:.2g}: add --decay-steps 0 to go "
    reason += "on at the whole rate, or another --decay-steps or --learning-rate; the end is then "
    reason += "not that of a run of this length from the start"
    if earlier := _whole_before(out, config, start + 2):
        reason += f". It is with --from-step {earlier}, from before the fall"
    raise SettingError("num_steps", f"{reason}.")


def _whole_before(out: Path, config: TrainConfig, step: int) -> int:
    """Return the last step before this one of which there is a whole checkpoint, or else 0."""
    for checkpoint in checkpoints_of(out):
        if step_of(checkpoint) < step:
            try:
                check_checkpoint(checkpoint, config)
            except (CheckpointFormatError, OSError):
                continue
            return step_of(checkpoint)
    return 0
