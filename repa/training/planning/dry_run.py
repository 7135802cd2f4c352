"""A dry run: what a training would be, how large, and how long, before it is begun."""

import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from repa.checkpoints.settings import CheckpointSettings
from repa.data import TrainingData, open_training_data
from repa.errors import RepaError
from repa.training.batch import Batches, Share
from repa.training.planning.memory import Sizes, sizes_of
from repa.training.run.state import TrainState, check_model, model_settings
from repa.training.settings import TrainConfig
from repa.training.step import train_step
from repa.training.targets import EncoderTargets, JoinedTargets, TargetSource, open_targets
from repa_base.device import free_memory, seconds_of, wait_for
from repa_base.processes import Processes

_ENOUGH = 2.0  # seconds of a measurement
_FEWEST = 8  # images at once, if a share has them: one alone says nothing of what each costs
_REPEATS = 3
_SLOW = 3.0  # seconds of a step that is not repeated


@dataclass(frozen=True)
class Timing:
    """How long parts of a run take on this machine, in seconds.

    Attributes:
        step: A step on the images that are at once in memory, which are read already, with the
            features that encoders make in every step.
        reading: Reading those images; it may be done ahead of the steps.
        features: Making the features of all images once, where they are kept.
        measured_images: Images at once that were measured; of more it is extrapolated.
    """

    step: float
    reading: float
    features: float
    measured_images: int


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
    """

    config: TrainConfig
    data: Mapping[str, Any]
    sizes: Sizes
    share: int
    memory_bytes: int
    steps_per_epoch: float
    timing: Timing | None
    unmeasured: str | None

    @property
    def seconds(self) -> float | None:
        """How long all steps take, one after another; reading ahead may hide the reading."""
        if self.timing is None:
            return None
        parts = self.config.accumulate
        return self.timing.features + self.config.num_steps * parts * self.timing.step

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        found = {k: v for k, v in asdict(self).items() if k != "config"}
        return {"settings": self.config.sections(), **found, "seconds": self.seconds}


def dry_run(
    config: TrainConfig,
    out: Path,
    *,
    device: torch.device | str = "cpu",
    processes: int = 1,
    measured: bool = True,
) -> DryRun:
    """Find out what `repa.training.train` of these arguments would do; write nothing.

    The folder `out` may hold features that a run has kept. `processes` are those that would share
    each batch; a step is measured for one of them, without the exchange of gradients.

    Raises:
        RepaError: As `repa.training.train` does for the settings and the data.
    """
    sizes = check_model(config)
    data = open_training_data(config.data, config.image_size)
    data = data.flipping() if config.flip else data
    grid = data.input_size // sizes["patch_size"]
    targets = open_targets(config.encoder, data, out, grid, device, config.encoder_precision)
    settings = model_settings(config, data, targets.dims)
    what = CheckpointSettings(model=settings, path_type=config.path_type)
    share = _share(config, processes)
    found = sizes_of(config, what.model)
    needed = found.memory_bytes(share)
    timing, unmeasured = None, None if measured else "not asked for"
    if measured and (unmeasured := _too_large(found, device)) is None:
        try:
            state = TrainState.create(config, settings, device)
            room = _room(found, device)
            timing = _timed(config, state, data, targets, device, share, room)
        except RepaError as error:
            unmeasured = str(error)
    shape = [data.in_channels, data.input_size, data.input_size]
    about = {"name": data.name, "count": data.count, "num_classes": data.num_classes}
    return DryRun(
        config,
        {**about, "input": shape},
        found,
        share,
        needed,
        data.count / config.batch_size,
        timing,
        unmeasured,
    )


def _share(config: TrainConfig, processes: int) -> int:
    """Return the images of a step at once, or refuse a batch that cannot be divided."""
    return Share(config.batch_size, config.accumulate, Processes(size=processes)).part_size


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


def _timed(
    config: TrainConfig,
    state: TrainState,
    data: TrainingData,
    targets: TargetSource,
    device: torch.device | str,
    share: int,
    room: int,
) -> Timing:
    """Measure a step on one image, then on as many as fit into seconds and into `room`."""

    def step(count: int) -> tuple[float, float]:
        own = replace(config, batch_size=count, accumulate=1)
        batches, start = Batches(own, data, targets, device), time.perf_counter()
        batch = batches(0)
        wait_for(device)
        reading = time.perf_counter() - start
        first = seconds_of(lambda: train_step(own, state, [batch]), device, 1)
        if first > _SLOW:
            return first, reading
        return seconds_of(lambda: train_step(own, state, [batch]), device, _REPEATS), reading

    one, reading_one = step(1)
    wanted = 2 if one > _SLOW else max(_FEWEST, round(_ENOUGH / max(one, 1e-6)))
    count = max(1, min(share, room, wanted))
    many, reading = step(count) if count > 1 else (one, reading_one)
    if count < share:
        each = (many - one) / (count - 1) if count > 1 else one
        many += max(0.0, each) * (share - count)
    keeping = {encoder.suitable_keeping for encoder in _encoders(targets)}
    if not keeping:
        return Timing(many, reading * share / count, 0.0, count)
    # What was measured as reading is the encoders' work above all: once for all images, or always.
    if "nowhere" in keeping:
        return Timing(many + reading * share / count, 0.0, 0.0, count)
    return Timing(many, 0.0, reading * data.count / count, count)


def _encoders(targets: TargetSource) -> list[EncoderTargets]:
    """Return the sources of targets that are encoders."""
    sources = targets.sources if isinstance(targets, JoinedTargets) else [targets]
    return [source for source in sources if isinstance(source, EncoderTargets)]
