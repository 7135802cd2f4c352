"""Training data: indices to inputs of the network, labels and the images that an encoder sees."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from repa.data.digits import load_digits
from repa.errors import DataError


class TrainingData(Protocol):
    """What the training loop asks of a data set; inputs are pixels or latents alike."""

    @property
    def name(self) -> str:
        """Name in the registry."""
        ...

    @property
    def count(self) -> int:
        """Number of images."""
        ...

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        ...

    @property
    def in_channels(self) -> int:
        """Channels of an input."""
        ...

    @property
    def input_size(self) -> int:
        """Side of an input."""
        ...

    @property
    def autoencoder(self) -> str | None:
        """Name of what decodes inputs to pixels; None when they are pixels."""
        ...

    def batch(self, indices: np.ndarray) -> tuple[Tensor, Tensor]:
        """Return inputs float32 (B, in_channels, input_size, input_size) and labels int64 (B,)."""
        ...

    def images(self, indices: np.ndarray) -> Tensor:
        """Return the images uint8 (B, H, W, 3) that the encoder sees."""
        ...


@dataclass(frozen=True)
class PixelData:
    """Images held in memory and trained on as pixels in [-1, 1]."""

    name: str
    all_images: Tensor
    all_labels: Tensor
    num_classes: int
    in_channels: int = 3
    autoencoder: str | None = None

    @property
    def count(self) -> int:
        """Number of images."""
        return len(self.all_images)

    @property
    def input_size(self) -> int:
        """Side of the images in pixels."""
        return self.all_images.shape[1]

    def batch(self, indices: np.ndarray) -> tuple[Tensor, Tensor]:
        """Return pixels float32 (B, 3, H, W) in [-1, 1] and labels int64 (B,)."""
        pixels = self.all_images[indices].permute(0, 3, 1, 2).float() / 127.5 - 1
        return pixels.contiguous(), self.all_labels[indices]

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
