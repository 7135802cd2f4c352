"""A dry run: what a training would be, how large, and how long, before it is begun."""

import sys
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from repa.errors import RepaError
from repa.training.batch import Share
from repa.training.planning.memory import Sizes, sizes_of
from repa.training.planning.timing import Timing, measured_timing
from repa.training.run.initial import check_start
from repa.training.run.milestones import run_reporting
from repa.training.run.opening import Opening, plan_run
from repa.training.run.state import TrainState
from repa.training.settings import Reporting, TrainConfig
from repa.training.step import SMALLER, less_memory
from repa.training.watching.regular import check_regular
from repa_base.device import free_memory, out_of_memory_in_words
from repa_base.processes import Processes


@dataclass(frozen=True)
class DryRun:
    """What a run would be.

    Attributes:
        config: All its settings.
        data: Name, number of images and classes, shape of an input.
        sizes: Of network, state and checkpoint.
        share: Images of a step at once: a process's share, in one of its parts.
        memory_bytes: About what a step needs, see `Sizes.memory_bytes`.
        steps_per_epoch: Steps in which every image is seen once.
        timing: None where it was not measured.
        unmeasured: Why not, in words.
        steps_taken: Steps that the run has taken already, if it goes on.
    """

    config: TrainConfig
    data: Mapping[str, Any]
    sizes: Sizes
    share: int
    memory_bytes: int
    steps_per_epoch: float
    timing: Timing | None
    unmeasured: str | None
    steps_taken: int = 0

    @property
    def steps_left(self) -> int:
        """Steps that the run would take."""
        return self.config.num_steps - self.steps_taken

    @property
    def seconds(self) -> float | None:
        """About how long these take, as the machine is now; reading ahead may hide the reading."""
        if self.timing is None:
            return None
        parts = self.config.accumulate
        return self.timing.features + self.steps_left * parts * self.timing.step

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        found = {k: v for k, v in asdict(self).items() if k != "config"}
        return {"settings": self.config.sections(), **found, "seconds": self.seconds}


def dry_run(
    config: TrainConfig,
    out: Path,
    *,
    resume: bool = False,
    from_step: int | None = None,
    skip: Iterable[int] = (),
    device: torch.device | str = "cpu",
    reporting: Reporting | None = None,
    processes: int = 1,
    measured: bool = True,
) -> DryRun:
    """Find out what `repa.training.train` of these arguments would do; write nothing to its folder.

    `processes` are those that would share each batch; a step is measured for one of them, without
    the exchange of gradients. The checkpoint that a run goes on from is not read, nor are networks
    that only judge it.

    Raises:
        RepaError: As `repa.training.train` does before its first step.
    """
    share = Share(config.batch_size, config.accumulate, Processes(size=processes))
    reporting = reporting or (run_reporting(out) if resume else None) or Reporting()
    plan = plan_run(
        Opening(
            config,
            out,
            resume=resume,
            from_step=from_step,
            skip=tuple(skip),
            device=device,
            reporting=reporting,
            watch=partial(check_regular, reporting=reporting),
        )
    )
    config, data, targets = plan.config, plan.data, plan.targets
    found = sizes_of(config, plan.what.model, processes)
    if plan.start.checkpoint is None:
        check_start(config, plan.what)
    timing, unmeasured = None, None if measured else "not asked for"
    if measured and (unmeasured := _too_large(found, device)) is None:
        try:
            with out_of_memory_in_words(f"in a step: try {less_memory(config, share) or SMALLER}"):
                state = TrainState.create(config, plan.what.model, device)
                room = _room(found, device)
                timing = measured_timing(
                    config, state, data, targets, device, share.part_size, room, plan.start.step
                )
        except RepaError as error:
            unmeasured = str(error)
    shape = [data.in_channels, data.input_size, data.input_size]
    about = {"name": data.name, "count": data.count, "num_classes": data.num_classes}
    return DryRun(
        config,
        {**about, "input": shape},
        found,
        share.part_size,
        found.memory_bytes(share.part_size),
        data.count / config.batch_size,
        timing,
        unmeasured,
        plan.start.step,
    )


def _room(sizes: Sizes, device: torch.device | str) -> int:
    """Return how many images at once have room beside the state, which is there already."""
    free = free_memory(device)
    return sys.maxsize if free is None else (free - sizes.fixed_bytes) // sizes.image_bytes


def _too_large(sizes: Sizes, device: torch.device | str) -> str | None:
    """Say why a step cannot be measured: not even one image has room."""
    free, needed = free_memory(device), sizes.memory_bytes(1)
    if free is None or needed <= free:
        return None
    gib = [f"{size / 2**30:.1f}" for size in (needed, free)]
    return f"a step on one image needs about {gib[0]} GiB, and {gib[1]} GiB are free"
