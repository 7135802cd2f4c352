"""Training data: indices to inputs of the network, labels and what an encoder sees of an image."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, Self

import numpy as np
import torch
from torch import Tensor

from repa.autoencoders.latent_space import PIXELS, LatentSpace
from repa.data.held_out import HeldOutReference

RowGenerator = Callable[[int], np.random.Generator]
"""Row of a batch to the generator of its own draws: no row's draws depend on another's."""


@dataclass(frozen=True)
class Batch:
    """The samples `indices` (B,) of a data set, on the CPU, with labels int64 (B,).

    Inputs are float32 (B, in_channels, input_size, input_size), pixels in [-1, 1] or latents.
    `mirrored`, bool (B,), tells which are of the mirrored image; None for none. `images`, uint8
    (B, H, W, 3), and `features`, (B, N, D) by encoder, are of the same images, mirrored where the
    inputs are, and are there if they were asked for.
    """

    indices: np.ndarray
    inputs: Tensor
    labels: Tensor
    mirrored: np.ndarray | None = None
    images: Tensor | None = None
    features: Mapping[str, Tensor] = field(default_factory=dict)


class TrainingData(Protocol):
    """What the training loop asks of a data set; inputs are pixels or latents alike.

    `name` is that in the registry, or one that no registered data set has, `count` the number of
    images, `input_size` the side of an input, `image_size` that of its image and `latent_space`
    where the inputs live. `flip` tells whether samples are mirrored at random, `in_memory` whether
    reading them costs next to nothing, `encoders` whose features the data hold, and `reference`
    what images of a model of them are judged by, where some were held out.
    """

    name: str
    count: int
    num_classes: int
    in_channels: int
    input_size: int
    image_size: int
    latent_space: LatentSpace
    flip: bool
    in_memory: bool
    encoders: tuple[str, ...]
    reference: HeldOutReference | None

    def batch(self, indices: np.ndarray, generator: RowGenerator) -> Batch:
        """Return the samples of these images; `generator` is for what is random in a sample."""
        ...

    def images(self, indices: np.ndarray, mirrored: np.ndarray | None = None) -> Tensor:
        """Return the images uint8 (B, H, W, 3) that an encoder sees."""
        ...

    def features(
        self, encoder: str, indices: np.ndarray, mirrored: np.ndarray | None = None
    ) -> Tensor:
        """Return what the data hold of an encoder's features, float16 (B, N, D)."""
        ...

    def flipping(self) -> Self:
        """Return the data with every second sample mirrored, by its own draw.

        Raises:
            SettingError: They hold nothing of mirrored images.
        """
        ...

    def record(self, on_note: Callable[[str], None]) -> dict[str, Any] | None:
        """Return what a run remembers of the data, JSON with a hash of all; None if they are fixed.

        `on_note` is told if that takes long.
        """
        ...


@dataclass
class AsPixels(ABC):
    """Images that are trained on as pixels in [-1, 1], with no features beside them.

    Nothing of them is random but, with `flip`, whether an image is mirrored. Subclasses say where
    an image and its label come from, and set what `TrainingData` lists.
    """

    flip: bool = field(default=False, kw_only=True)

    @abstractmethod
    def images(self, indices: np.ndarray, mirrored: np.ndarray | None = None) -> Tensor:
        """Return the images uint8 (B, H, W, 3)."""

    @abstractmethod
    def labels_of(self, indices: np.ndarray) -> Tensor:
        """Return the labels int64 (B,)."""

    def batch(self, indices: np.ndarray, generator: RowGenerator) -> Batch:
        """Return pixels and labels.

        Raises:
            DataError: A picture cannot be read any more.
        """
        rows = map(generator, range(len(indices)))
        mirrored = drawn_flips(rows) if self.flip else None
        images = self.images(indices, mirrored)
        return Batch(indices, pixels_of(images), self.labels_of(indices), mirrored, images)

    def features(
        self, encoder: str, indices: np.ndarray, mirrored: np.ndarray | None = None
    ) -> Tensor:
        """Raise KeyError: there are none."""
        raise KeyError(encoder)

    def flipping(self) -> Self:
        """Return the data with every second image mirrored, by its own draw."""
        return replace(self, flip=True)


@dataclass
class PixelData(AsPixels):
    """Images held in memory."""

    name: str
    all_images: Tensor
    all_labels: Tensor
    num_classes: int
    in_channels: int = 3
    latent_space: LatentSpace = PIXELS
    in_memory: bool = field(default=True, init=False)
    encoders: tuple[str, ...] = field(default=(), init=False)
    reference: HeldOutReference | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        self.count, self.input_size = self.all_images.shape[:2]
        self.image_size = self.input_size

    def images(self, indices: np.ndarray, mirrored: np.ndarray | None = None) -> Tensor:
        """Return the images uint8 (B, H, W, 3)."""
        return with_mirrored(self.all_images[indices], mirrored)

    def labels_of(self, indices: np.ndarray) -> Tensor:
        """Return the labels int64 (B,)."""
        return self.all_labels[indices]

    def record(self, on_note: Callable[[str], None]) -> dict[str, Any] | None:
        """Return None: they come with a package."""
        return None


def drawn_flips(rows: Iterable[np.random.Generator]) -> np.ndarray:
    """Return which rows of a batch are mirrored, bool (B,), each by the first draw of its own."""
    return np.array([row.random() < 0.5 for row in rows])


def with_mirrored(images: Tensor, mirrored: np.ndarray | None) -> Tensor:
    """Return images (B, H, W, 3) with those rows mirrored, left to right."""
    if mirrored is None or not mirrored.any():
        return images
    return torch.where(torch.from_numpy(mirrored)[:, None, None, None], images.flip(2), images)


def pixels_of(images: Tensor) -> Tensor:
    """Return images uint8 (B, H, W, 3) as pixels float32 (B, 3, H, W) in [-1, 1]."""
    return (images.permute(0, 3, 1, 2).float() / 127.5 - 1).contiguous()
