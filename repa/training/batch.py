"""What a step consumes: which images, and the random draws that are made for them.

All draws of step k are keyed by (seed, k) and made for the whole batch, so that a step can be
repeated, left out or resumed at without any state.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from repa.data import Batch, TrainingData
from repa.training.losses import sample_times, spatially_normalised
from repa.training.settings import TrainConfig
from repa.training.targets import Needs, TargetSource
from samplers import Stream, keyed_generator

_ORDER, _DRAWS, _ROWS = 0, 1, 2  # indices of the training stream; from _ROWS on, one a row


@dataclass(frozen=True)
class NoisyBatch:
    """All that one step consumes, on the device.

    Clean data and standard normal noise (B, C, H, W), labels int64 (B,), some of them the null
    label, times (B,), 0 = data, 1 = noise, and features (B, N, D), one tensor an encoder, or none
    where the step has no alignment loss.
    """

    data: Tensor
    labels: Tensor
    noise: Tensor
    times: Tensor
    target_features: list[Tensor]


@dataclass
class EpochOrder:
    """Which images each step sees: every image once an epoch.

    Epochs are shuffled by (seed, epoch) and strung together; a batch may span several. The orders
    that the latest batch spans are held, so that each is computed once as steps go by.
    """

    seed: int
    count: int
    batch_size: int
    _epochs: dict[int, np.ndarray] = field(default_factory=dict, init=False, repr=False)

    def __call__(self, step: int) -> np.ndarray:
        """Return the images (B,) of the step after `step` steps."""
        positions = np.arange(step * self.batch_size, (step + 1) * self.batch_size)
        epochs, places = np.divmod(positions, self.count)
        self._epochs = {
            epoch: self._epochs[epoch] if epoch in self._epochs else self._shuffled(epoch)
            for epoch in np.unique(epochs).tolist()
        }
        return np.concatenate([o[places[epochs == epoch]] for epoch, o in self._epochs.items()])

    def _shuffled(self, epoch: int) -> np.ndarray:
        return keyed_generator(self.seed, Stream.TRAINING, _ORDER, epoch).permutation(self.count)


@dataclass(frozen=True)
class StepReader:
    """What a step reads: its images' samples, with their own draws, and what targets need of them.

    It can be handed to another process, and gives the same there. Steps from `aligned_until` on
    have no targets.
    """

    seed: int
    order: EpochOrder
    data: TrainingData
    needs: Needs
    aligned_until: int | None = None

    def __call__(self, step: int) -> Batch:
        """Return what the step after `step` steps reads, on the CPU."""
        indices = self.order(step)
        batch = self.data.batch(indices, lambda row: _keyed(self.seed, _ROWS + row, step))
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
    """The batch of any step of a run.

    The loop's draws are PyTorch's on the device, in the order times, noise, dropped labels. A CPU
    keeps 32 bits of their seed, so of millions of steps a few share their draws, for other images.
    `read` gives what a step reads, if not `reader` in this process at once.
    """

    config: TrainConfig
    data: TrainingData
    targets: TargetSource
    device: torch.device | str
    read: Callable[[int], Batch] | None = None

    @cached_property
    def order(self) -> EpochOrder:
        """Which images each step sees."""
        return EpochOrder(self.config.seed, self.data.count, self.config.batch_size)

    @cached_property
    def reader(self) -> StepReader:
        """What reads the samples of a step."""
        needs, until = self.targets.needs, self.config.align_until or None
        return StepReader(self.config.seed, self.order, self.data, needs, until)

    def __call__(self, step: int) -> NoisyBatch:
        """Return images, labels and draws of the step after `step` steps."""
        config, device = self.config, self.device
        batch = (self.read or self.reader)(step)
        data, labels = batch.inputs.to(device), batch.labels.to(device)
        seed = int(_keyed(config.seed, _DRAWS, step).integers(2**63))
        generator = torch.Generator(device).manual_seed(seed)
        times = sample_times(len(labels), config.weighting, config.path_type, generator)
        noise = torch.randn(data.shape, generator=generator, device=device)
        uniform = torch.rand(len(labels), generator=generator, device=device)
        labels = torch.where(uniform < config.label_dropout, self.data.num_classes, labels)
        found = self.targets(batch) if config.is_aligned(step) else []
        targets = [features.to(device).float() for features in found]
        if config.normalise_targets == "spatial":
            targets = [spatially_normalised(features) for features in targets]
        return NoisyBatch(data, labels, noise, times, targets)


def _keyed(seed: int, index: int, step: int) -> np.random.Generator:
    return keyed_generator(seed, Stream.TRAINING, index, step)
