"""A prepared set as training data: latents drawn from their moments, or pixels, and features.

Row i of everything is of image i.
"""

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from repa.autoencoders.autoencoder import latents_from_moments
from repa.autoencoders.latent_space import PIXELS
from repa.data.held_out import HeldOutReference, remember_held_out
from repa.data.prepared_set import PreparedSet
from repa.data.row_files import ANEW
from repa.data.samples.training_data import (
    Batch,
    RowGenerator,
    drawn_flips,
    pixels_of,
    with_mirrored,
)
from repa.errors import DataError, SettingError
from repa.registry import find_entry, is_registered

_NAME_LETTERS, _HASH_LETTERS = 8, 12


@dataclass
class PreparedData:
    """A prepared set, of latents where moments were prepared, else of pixels.

    It can be handed to other processes: nothing is held open.

    Raises:
        DataError: Labels or moments do not fit the rest.
    """

    prepared: PreparedSet
    flip: bool = False

    def __post_init__(self) -> None:
        prepared = self.prepared
        self.folder, self.identity, self.count = prepared.folder, prepared.identity, prepared.count
        self.name = f"{self.folder.resolve().name}@{self.identity[:_NAME_LETTERS]}"
        held_out = prepared.manifest.get("held_out") or {}
        self.reference: HeldOutReference | None = None
        if "file" in held_out:
            self.reference = HeldOutReference(self.name, held_out["sha256"], held_out["network"])
        self.num_classes, self.image_size = prepared.num_classes, prepared.image_size
        self.latent_space, self.encoders = prepared.latent_space or PIXELS, prepared.encoders
        self.in_channels, self.input_size, self.in_memory = 3, self.image_size, False
        if prepared.moments_shape is not None:
            channels, self.input_size, width = prepared.moments_shape
            self.in_channels = channels // 2
            if channels % 2 or width != self.input_size or prepared.latent_space is None:
                shape = " x ".join(map(str, prepared.moments_shape))
                raise DataError(f"{self.folder}: moments of {shape} are no square mean and std.")
            if prepared.latent_space.num_channels not in (None, self.in_channels):
                has = prepared.latent_space.num_channels
                raise DataError(
                    f"{self.folder}: the latents have {self.in_channels} channels, and their "
                    f"space is one of {has}."
                )
        labels = prepared.labels
        if (
            labels.shape != (self.count,)
            or not 0 <= labels.min() <= labels.max() < self.num_classes
        ):
            raise DataError(
                f"{self.folder}: the labels are not one of {self.num_classes} classes for each of "
                f"{self.count} images; {ANEW}."
            )

    def batch(self, indices: np.ndarray, generator: RowGenerator) -> Batch:
        """Return latents drawn as mean + std * normal and scaled, or pixels; and labels.

        Each row draws whether it is mirrored, if need be, and then its noise.

        Raises:
            DataError: A row is not as it was prepared.
        """
        rows = [generator(row) for row in range(len(indices))]
        mirrored = drawn_flips(rows) if self.flip else None
        labels = torch.from_numpy(self.prepared.labels[indices])
        if self.latent_space.is_pixels:
            images = self.images(indices, mirrored)
            return Batch(indices, pixels_of(images), labels, mirrored, images)
        moments = torch.from_numpy(_rows_of(self.prepared.moments, indices, mirrored))
        shape = (self.in_channels, self.input_size, self.input_size)
        noise = np.stack([row.standard_normal(shape) for row in rows]).astype(np.float32)
        latents = latents_from_moments(moments, torch.from_numpy(noise), self.latent_space)
        return Batch(indices, latents, labels, mirrored)

    def images(self, indices: np.ndarray, mirrored: np.ndarray | None = None) -> Tensor:
        """Return the images uint8 (B, H, W, 3)."""
        return with_mirrored(torch.from_numpy(self.prepared.images(indices)), mirrored)

    def features(
        self, encoder: str, indices: np.ndarray, mirrored: np.ndarray | None = None
    ) -> Tensor:
        """Return an encoder's features float16 (B, N, D).

        Raises:
            DataError: A row is not as it was prepared.
            SettingError: Samples are mirrored, and the features of mirrored images are missing.
        """
        if self.flip and not self.prepared.flip:
            raise SettingError("flip", self._not_flipped(f"{encoder}'s features"))

        def read(rows: np.ndarray, *, flipped: bool = False) -> np.ndarray:
            return self.prepared.features(encoder, rows, flipped=flipped)

        return torch.from_numpy(_rows_of(read, indices, mirrored))

    def flipping(self) -> Self:
        """Return the data with every second sample mirrored, by its own draw.

        Raises:
            SettingError: There are moments, and none of the mirrored images.
        """
        if not (self.latent_space.is_pixels or self.prepared.flip):
            raise SettingError("flip", self._not_flipped("moments"))
        return replace(self, flip=True)

    def record(self, on_note: Callable[[str], None]) -> dict[str, Any] | None:
        """Return what a run remembers, and remember on this machine where its reference is.

        `on_note` is told of features that an encoder made with other weights than the published.
        """
        for name in self._with_other_weights():
            short = str(self.prepared.encoder_weights[name])[:_HASH_LETTERS]
            on_note(
                f"the features of {name} in {self.folder} are of other weights than the published "
                f"ones: of SHA-256 {short}."
            )
        if self.reference is not None:
            file = self.prepared.manifest["held_out"]["file"]
            remember_held_out(self.folder / file, self.reference.sha256)
        return {
            "identity": self.identity,
            "count": self.count,
            "num_classes": self.num_classes,
            "class_names": list(self.prepared.class_names),
            "image_size": self.image_size,
            "latent_space": None if self.latent_space.is_pixels else asdict(self.latent_space),
            "encoders": list(self.encoders),
            "encoder_weights": self.prepared.encoder_weights,
        }

    def _with_other_weights(self) -> Iterator[str]:
        """Yield the encoders whose features are known to be of other weights than registered."""
        for name, found in self.prepared.encoder_weights.items():
            known = None
            if is_registered("encoders", name):
                known = find_entry("encoders", name).get("sha256")
            if None not in (found, known) and found != known:
                yield name

    def _not_flipped(self, what: str) -> str:
        return f"{self.folder} has no {what} of mirrored images: prepare it with --flip."


def _rows_of(
    read: Callable[..., np.ndarray], indices: np.ndarray, mirrored: np.ndarray | None
) -> np.ndarray:
    """Return rows of images, and of mirrored ones where those are wanted, in their order."""
    if mirrored is None or not mirrored.any():
        return read(indices)
    other = read(indices[mirrored], flipped=True)
    rows = np.empty((len(indices), *other.shape[1:]), other.dtype)
    rows[mirrored] = other
    if not mirrored.all():
        rows[~mirrored] = read(indices[~mirrored])
    return rows
