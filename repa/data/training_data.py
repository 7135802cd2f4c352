"""Training data: indices to inputs of the network, labels and the images that an encoder sees."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from repa.autoencoders.latent_space import PIXELS, LatentSpace
from repa.data.digits import load_digits
from repa.errors import DataError

RowGenerator = Callable[[int], np.random.Generator]
"""Row of a batch to the generator of its own draws: no row's draws depend on another's."""


@dataclass(frozen=True)
class Batch:
    """The samples `indices` (B,) of a data set, on the CPU, with labels int64 (B,).

    Inputs are float32 (B, in_channels, input_size, input_size), pixels in [-1, 1] or latents.
    """

    indices: np.ndarray
    inputs: Tensor
    labels: Tensor


class TrainingData(Protocol):
    """What the training loop asks of a data set; inputs are pixels or latents alike.

    `name` is that in the registry, `count` the number of images, `input_size` the side of an input
    and `latent_space` where the inputs live.
    """

    name: str
    count: int
    num_classes: int
    in_channels: int
    input_size: int
    latent_space: LatentSpace

    def batch(self, indices: np.ndarray, generator: RowGenerator) -> Batch:
        """Return the samples of these images; `generator` is for what is random in a sample."""
        ...

    def images(self, indices: np.ndarray) -> Tensor:
        """Return the images uint8 (B, H, W, 3) that the encoder sees."""
        ...


@dataclass
class PixelData:
    """Images held in memory and trained on as pixels in [-1, 1]; nothing of them is random."""

    name: str
    all_images: Tensor
    all_labels: Tensor
    num_classes: int
    in_channels: int = 3
    latent_space: LatentSpace = PIXELS

    def __post_init__(self) -> None:
        self.count, self.input_size = self.all_images.shape[:2]

    def batch(self, indices: np.ndarray, generator: RowGenerator) -> Batch:
        """Return pixels and labels."""
        pixels = self.images(indices).permute(0, 3, 1, 2).float() / 127.5 - 1
        return Batch(indices, pixels.contiguous(), self.all_labels[indices])

    def images(self, indices: np.ndarray) -> Tensor:
        """Return the images uint8 (B, H, W, 3)."""
        return self.all_images[indices]


def open_training_data(name: str, image_size: int) -> TrainingData:
    """Open a data set for training by its name.

    Raises:
        DataError: No such data set.
        MissingPackageError: The package that holds it is not installed.
    """
    if name != "digits":
        raise DataError(f"no training data is called {name!r}.")
    images, labels = load_digits("train", image_size)
    return PixelData(name, torch.from_numpy(images), torch.from_numpy(labels), num_classes=10)
