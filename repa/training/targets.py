"""Target features of a batch's images: kept in memory or in a file, or made by encoders at once.

`open_targets` alone decides where they come from.
"""

import contextlib
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file
from torch import Tensor

from repa.data import Batch, TrainingData
from repa.encoders import Encoder, open_encoders, parse_encoders
from repa.errors import CheckpointFormatError
from repa_base.files import check_room, replacing
from repa_base.memory_map import release_pages

Keeping = Literal["memory", "file", "nowhere"]
"""Where a run keeps its target features: in memory and saved with the run, in a file that is mapped
into memory, or nowhere: the encoders see the images of every batch."""

_SAVED = "target_features.safetensors"
_CHUNK_IMAGES = 64


@dataclass(frozen=True)
class StoredTargets:
    """Features of all images, (count, N, D) an encoder, in memory or mapped; none for "none"."""

    features: list[np.ndarray]

    @property
    def dims(self) -> list[int]:
        """Widths of the features, one an encoder."""
        return [features.shape[2] for features in self.features]

    def __call__(self, batch: Batch) -> list[Tensor]:
        """Return the features float32 (B, N, D) of the batch's images, one tensor an encoder."""
        rows = [torch.from_numpy(features[batch.indices]) for features in self.features]
        for features in self.features:
            release_pages(features)
        return rows


@dataclass(frozen=True)
class EncoderTargets:
    """Features that encoders make of the batch's images on the way."""

    encoders: list[Encoder]
    data: TrainingData
    grid_size: int
    device: torch.device | str

    @property
    def dims(self) -> list[int]:
        """Widths of the features, one an encoder."""
        return [encoder.feature_dim for encoder in self.encoders]

    def __call__(self, batch: Batch) -> list[Tensor]:
        """Return the features float32 (B, N, D) of the batch's images, one tensor an encoder."""
        return self._features(batch.indices)

    def of_all(self) -> Iterator[list[np.ndarray]]:
        """Yield the features of all images in their order, some images at a time."""
        count = self.data.count
        for indices in np.array_split(np.arange(count), -(-count // _CHUNK_IMAGES)):
            yield [features.cpu().numpy() for features in self._features(indices)]

    def _features(self, indices: np.ndarray) -> list[Tensor]:
        images = self.data.images(indices).to(self.device)
        return [encoder(images, grid_size=self.grid_size) for encoder in self.encoders]


TargetSource = StoredTargets | EncoderTargets
"""Called with a batch, it gives the features to align with: float32 (B, N, D), one an encoder."""


def open_targets(
    encoder_names: str, data: TrainingData, folder: Path, grid_size: int, device: torch.device | str
) -> TargetSource:
    """Find a run's features, or what can make them; writes and computes nothing.

    Features that the folder of the run holds are used, unless the encoder to align with is `none`.
    `grid_size` is the side of the model's grid of tokens, each of which gets a feature.

    Raises:
        CheckpointFormatError: The folder's features are damaged, or of other images or tokens.
        SettingError: An encoder does not give this grid, or is none of timm's networks.
        RepaError: It is not on this machine.
    """
    number = len(parse_encoders(encoder_names))
    if number == 0:
        return StoredTargets([])
    for paths in ([folder / _SAVED], _mapped_paths(folder, number)):
        if all(path.exists() for path in paths):
            return StoredTargets(_read(paths, number, (data.count, grid_size**2)))
    encoders = open_encoders(encoder_names, device)
    image_size = data.images(np.arange(1)).shape[1]
    for encoder in encoders:
        encoder.check_grid(grid_size, image_size=image_size)
    return EncoderTargets(encoders, data, grid_size, device)


def keep_targets(
    source: TargetSource, folder: Path, keeping: Keeping, on_note: Callable[[str], None]
) -> TargetSource:
    """Let encoders see all images once, and keep their features in the folder of the run as asked.

    What is no encoder's stays as it is. `on_note` is told when the features have to be computed.
    """
    if not isinstance(source, EncoderTargets) or keeping == "nowhere":
        return source
    count, number = source.data.count, len(source.encoders)
    names = " and ".join(encoder.name for encoder in source.encoders)
    on_note(f"computing {names} features of {count} images, once.")
    if keeping == "memory":
        features = [np.concatenate(parts) for parts in zip(*source.of_all(), strict=True)]
        with replacing(folder / _SAVED) as partial:
            save_file(dict(zip(_keys(number), features, strict=True)), partial)
        return StoredTargets(features)
    shapes = [(count, source.grid_size**2, dim) for dim in source.dims]
    check_room(4 * sum(map(math.prod, shapes)), folder, what="the target features need")
    paths = _mapped_paths(folder, number)
    with contextlib.ExitStack() as stack:
        partials = [stack.enter_context(replacing(path)) for path in paths]
        files = [
            np.lib.format.open_memmap(partial, mode="w+", dtype=np.float32, shape=shape)
            for partial, shape in zip(partials, shapes, strict=True)
        ]
        done = 0
        for parts in source.of_all():
            for file, part in zip(files, parts, strict=True):
                file[done : done + len(part)] = part
            done += len(parts[0])
        for file in files:
            file.flush()
    return StoredTargets(_read(paths, number, shapes[0][:2]))


def _keys(number: int) -> list[str]:
    """Return the names of the features of so many encoders in a file that holds them all."""
    return ["features", *(f"features.{place}" for place in range(1, number))]


def _mapped_paths(folder: Path, number: int) -> list[Path]:
    """Return the files of the features of so many encoders, one each."""
    return [folder / f"target_{key}.npy" for key in _keys(number)]


def _read(paths: list[Path], number: int, expected: tuple[int, int]) -> list[np.ndarray]:
    """Return the features of so many encoders, from one file of all or from one file each."""
    again = "remove it and it is made again."
    found = []
    for path in paths:
        try:
            if path.suffix == ".npy":
                arrays = [np.load(path, mmap_mode="r")]
            else:
                stored = load_file(path)
                arrays = [stored[key] for key in _keys(number)]
        except (SafetensorError, KeyError, ValueError, EOFError) as error:
            raise CheckpointFormatError(f"{path}: damaged ({error}); {again}") from error
        for features in arrays:
            for size, wanted, what in zip(
                features.shape, expected, ("images", "features an image"), strict=False
            ):
                if size != wanted:
                    reason = f"holds {size} {what}, not {wanted}"
                    raise CheckpointFormatError(f"{path}: {reason}; {again}")
        found += arrays
    return found
