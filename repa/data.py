"""Training data: indices to inputs of the network, labels and the images that an encoder sees.

`digits` is scikit-learn's copy of the UCI handwritten digits (1,797 grey images of 8 by 8 pixels,
10 classes), enlarged to a square RGB image and trained on in pixel space.
"""

from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from repa.errors import DataError, MissingPackageError

Split = Literal["train", "heldout"]


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


def load_digits(split: Split, image_size: int) -> tuple[np.ndarray, np.ndarray]:
    """Return one half of scikit-learn's digits: uint8 (N, H, W, 3) and labels int64 (N,).

    Within each class, images go to the halves by turns (training first), so the split is fixed and
    stratified: 901 to train on, 896 held out, in the order of the file. White on black, enlarged by
    bicubic interpolation.

    Raises:
        MissingPackageError: scikit-learn is not installed.
    """
    try:
        from sklearn.datasets import load_digits as load
    except ImportError as error:
        raise MissingPackageError(
            "the digits come with scikit-learn: pip install 'repa-toolkit[demo]'"
        ) from error
    pixels, target = load(return_X_y=True)
    labels = target.astype(np.int64)
    turn = np.zeros(len(labels), dtype=np.int64)
    for label in range(10):
        members = np.flatnonzero(labels == label)
        turn[members] = np.arange(len(members)) % 2
    chosen = np.flatnonzero(turn == ("train", "heldout").index(split))
    grey = np.rint(pixels[chosen].reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8)
    size = (image_size, image_size)
    images = np.stack(
        [np.asarray(Image.fromarray(g).resize(size, Image.Resampling.BICUBIC)) for g in grey]
    )
    return np.repeat(images[..., None], 3, axis=3), labels[chosen]
