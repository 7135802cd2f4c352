"""What a step consumes: which images, and the random draws that are made for them.

A run is one long row of samples, and step k takes those at positions k * B to (k + 1) * B - 1, B
being the size of a batch. Which image stands at a position, and all that is drawn for it, are
functions of (seed, position) alone. So a step can be repeated, left out or resumed at without any
state, and it makes no difference how many processes share a batch, or in how many parts.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from repa.data import Batch, TrainingData
from repa.errors import SettingError
from repa.training.losses import spatially_normalised, times_from_draws
from repa.training.settings import TrainConfig, Weighting
from repa.training.targets import Needs, TargetSource
from repa_base.device import on_device
from repa_base.processes import Processes
from samplers import Stream, keyed_generator

DRAWS = 2
"""Format of the draws: what is drawn, by what key. It is stored with a run, and raised by a change.

Those of format 1 were keyed by (seed, step) and drawn for a whole batch."""

_ORDER = 0  # index of the training stream; its steps are epochs
_LOOP, _DATA = 0, 1  # steps of the samples' stream, whose indices are positions


@dataclass(frozen=True)
class NoisyBatch:
    """All that one step consumes, or one part of it, on the device.

    Clean data and standard normal noise (B, C, H, W), labels int64 (B,), some of them the null
    label, times (B,), 0 = data, 1 = noise, and features (B, N, D), one tensor an encoder, or none
    where the step has no alignment loss.
    """

    data: Tensor
    labels: Tensor
    noise: Tensor
    times: Tensor
    target_features: list[Tensor]


@dataclass(frozen=True)
class Share:
    """Which samples of a run's batches a process takes, and in how many parts, one after another.

    The first process takes the first samples of each batch, and its first part the first of them.

    Raises:
        SettingError: The processes and their parts do not divide the batch.
    """

    batch_size: int
    parts: int = 1
    processes: Processes = field(default_factory=Processes)

    def __post_init__(self) -> None:
        if self.batch_size % (self.parts * self.processes.size):
            among = [f"{n} {what}" for n, what in self._divisors if n > 1]
            rule = f"cannot be divided among {' of '.join(among)}; it is the size for all together"
            raise SettingError("batch_size", f"batch_size {self.batch_size} {rule}.")

    @property
    def _divisors(self) -> list[tuple[int, str]]:
        return [(self.parts, "accumulated parts"), (self.processes.size, "processes")]

    @property
    def part_size(self) -> int:
        """Samples of a part."""
        return self.batch_size // (self.parts * self.processes.size)

    @property
    def more_parts(self) -> int | None:
        """The next number of parts that could be taken instead; None for parts of one sample."""
        own = self.batch_size // self.processes.size
        return next((n for n in range(self.parts + 1, own + 1) if own % n == 0), None)

    def positions(self, number: int) -> np.ndarray:
        """Return the positions in the run of part `number`, counted over all steps from 0."""
        step, part = divmod(number, self.parts)
        place = self.processes.rank * self.parts + part
        start = step * self.batch_size + place * self.part_size
        return np.arange(start, start + self.part_size)


@dataclass
class EpochOrder:
    """Which image stands at a position of a run: every image once an epoch.

    Epochs are shuffled by (seed, epoch) and strung together. The orders that the latest positions
    span are held, so that each is computed once as steps go by.
    """

    seed: int
    count: int
    _epochs: dict[int, np.ndarray] = field(default_factory=dict, init=False, repr=False)

    def __call__(self, positions: np.ndarray) -> np.ndarray:
        """Return the images (B,) at ascending positions (B,)."""
        epochs, places = np.divmod(positions, self.count)
        self._epochs = {
            epoch: self._epochs[epoch] if epoch in self._epochs else self._shuffled(epoch)
            for epoch in np.unique(epochs).tolist()
        }
        return np.concatenate([o[places[epochs == epoch]] for epoch, o in self._epochs.items()])

    def _shuffled(self, epoch: int) -> np.ndarray:
        return keyed_generator(self.seed, Stream.TRAINING, _ORDER, epoch).permutation(self.count)


class Draws(NamedTuple):
    """What is drawn for samples, float32, on the CPU.

    Numbers (B,) to turn into times, see `repa.training.losses.times_from_draws`; uniform ones (B,)
    in [0, 1), below the dropout where the label becomes the null label; normal ones (B, C, H, W).
    """

    times: Tensor
    dropout: Tensor
    noise: Tensor


def draws_of(
    seed: int, positions: np.ndarray, shape: tuple[int, ...], weighting: Weighting = "uniform"
) -> Draws:
    """Return the draws of the samples at these positions of a run, each of `shape`."""
    times, dropout = np.empty((2, len(positions)), np.float32)
    noise = np.empty((len(positions), *shape), np.float32)
    for row, position in enumerate(positions.tolist()):
        drawn = keyed_generator(seed, Stream.SAMPLES, position, _LOOP)
        draw = drawn.random if weighting == "uniform" else drawn.standard_normal
        times[row] = draw(dtype=np.float32)
        dropout[row] = drawn.random(dtype=np.float32)
        drawn.standard_normal(dtype=np.float32, out=noise[row])
    return Draws(*map(torch.from_numpy, (times, dropout, noise)))


@dataclass(frozen=True)
class PartReader:
    """What a part of a step reads: its samples with all their draws, and what targets need of them.

    It can be handed to another process, and gives the same there. Steps from `aligned_until` on
    have no targets.
    """

    seed: int
    share: Share
    order: EpochOrder
    data: TrainingData
    needs: Needs
    weighting: Weighting = "uniform"
    aligned_until: int | None = None

    def __call__(self, number: int) -> tuple[Batch, Draws]:
        """Return what part `number` reads, counted over all steps from 0, on the CPU."""
        positions = self.share.positions(number)
        batch = self._batch(number // self.share.parts, positions)
        shape = tuple(batch.inputs.shape[1:])
        return batch, draws_of(self.seed, positions, shape, self.weighting)

    def _batch(self, step: int, positions: np.ndarray) -> Batch:
        def own(row: int) -> np.random.Generator:
            return keyed_generator(self.seed, Stream.SAMPLES, int(positions[row]), _DATA)

        indices = self.order(positions)
        batch = self.data.batch(indices, own)
        if self.aligned_until is not None and step >= self.aligned_until:
            return batch
        if self.needs.images and batch.images is None:
            batch = replace(batch, images=self.data.images(indices, batch.mirrored))
        if self.needs.features:
            read = {n: self.data.features(n, indices, batch.mirrored) for n in self.needs.features}
            batch = replace(batch, features=read)
        return batch


@dataclass(frozen=True)
class Batches:
    """The batch of any step of a run, or a process's share of it, part by part.

    `share` is the whole batch in one part if it is not given. `read` gives what a part reads, if
    not `reader` in this process at once.
    """

    config: TrainConfig
    data: TrainingData
    targets: TargetSource
    device: torch.device | str
    own_share: Share | None = None
    read: Callable[[int], tuple[Batch, Draws]] | None = None

    @cached_property
    def share(self) -> Share:
        """Which samples of each batch these are."""
        return self.own_share or Share(self.config.batch_size)

    @cached_property
    def order(self) -> EpochOrder:
        """Which image stands at a position."""
        return EpochOrder(self.config.seed, self.data.count)

    @cached_property
    def reader(self) -> PartReader:
        """What reads the samples of a part."""
        return PartReader(
            self.config.seed,
            self.share,
            self.order,
            self.data,
            self.targets.needs,
            self.config.weighting,
            self.config.align_until or None,
        )

    def __call__(self, step: int, part: int = 0) -> NoisyBatch:
        """Return images, labels and draws of a part of the step after `step` steps."""
        config = self.config
        batch, draws = (self.read or self.reader)(step * self.share.parts + part)
        times = times_from_draws(
            draws.times, weighting=config.weighting, path_type=config.path_type
        )
        labels = torch.where(
            draws.dropout < config.label_dropout, self.data.num_classes, batch.labels
        )
        parts = batch.inputs, labels, draws.noise, times
        data, labels, noise, times = (on_device(part, self.device) for part in parts)
        found = self.targets(batch) if config.is_aligned(step) else []
        targets = [on_device(features, self.device).float() for features in found]
        if config.normalise_targets == "spatial":
            targets = [spatially_normalised(features) for features in targets]
        return NoisyBatch(data, labels, noise, times, targets)
