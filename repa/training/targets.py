"""Target features of a batch's images: kept in memory or in a file, or made by the encoder at once.

`open_targets` alone decides where they come from.
"""

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
from repa.encoders import Encoder, load_encoder, parse_encoders
from repa.errors import CheckpointFormatError
from repa_base.files import check_room, replacing
from repa_base.memory_map import release_pages

Keeping = Literal["memory", "file", "nowhere"]
"""Where a run keeps its target features: in memory and saved with the run, in a file that is mapped
into memory, or nowhere: the encoder sees the images of every batch."""

_SAVED, _MAPPED = "target_features.safetensors", "target_features.npy"
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
    """Features that the encoder makes of the batch's images on the way."""

    encoder: Encoder
    data: TrainingData
    grid_size: int
    device: torch.device | str

    @property
    def dims(self) -> list[int]:
        """Width of the features."""
        return [self.encoder.feature_dim]

    def __call__(self, batch: Batch) -> list[Tensor]:
        """Return the encoder's features of the batch's images."""
        return [self._features(batch.indices)]

    def of_all(self) -> Iterator[np.ndarray]:
        """Yield the features of all images in their order, some images at a time."""
        count = self.data.count
        for indices in np.array_split(np.arange(count), -(-count // _CHUNK_IMAGES)):
            yield self._features(indices).cpu().numpy()

    def _features(self, indices: np.ndarray) -> Tensor:
        images = self.data.images(indices).to(self.device)
        return self.encoder(images, grid_size=self.grid_size)


@dataclass(frozen=True)
class JoinedTargets:
    """Features of several encoders, each from a source of its own."""

    sources: list[StoredTargets | EncoderTargets]

    @property
    def dims(self) -> list[int]:
        """Widths of the features, one an encoder."""
        return [dim for source in self.sources for dim in source.dims]

    def __call__(self, batch: Batch) -> list[Tensor]:
        """Return the features of the batch's images, one tensor an encoder."""
        return [features for source in self.sources for features in source(batch)]


TargetSource = StoredTargets | EncoderTargets | JoinedTargets
"""Called with a batch, it gives the features to align with: float32 (B, N, D), one an encoder."""


def open_targets(
    encoders: str, data: TrainingData, folder: Path, grid_size: int, device: torch.device | str
) -> TargetSource:
    """Find a run's features, or what can make them; writes and computes nothing.

    Features that the folder of the run holds are used, unless the encoder to align with is `none`.
    `grid_size` is the side of the model's grid of tokens, each of which gets a feature. Of several
    encoders, see `repa.encoders.names`, each after the first has a folder in that of the run.

    Raises:
        CheckpointFormatError: The folder's features are damaged, or of other images or tokens.
        SettingError: An encoder does not give this grid, or is none of timm's networks.
        RepaError: It is not on this machine.
    """
    names = parse_encoders(encoders)
    if not names:
        return StoredTargets([])
    sources = [
        _open_one(str(name), data, _folder_of(place, folder), grid_size, device)
        for place, name in enumerate(names)
    ]
    return sources[0] if len(sources) == 1 else JoinedTargets(sources)


def _open_one(
    encoder_name: str, data: TrainingData, folder: Path, grid_size: int, device: torch.device | str
) -> StoredTargets | EncoderTargets:
    for path in (folder / _SAVED, folder / _MAPPED):
        if path.exists():
            return StoredTargets([_read(path, (data.count, grid_size**2))])
    encoder = load_encoder(encoder_name, device)
    encoder.check_grid(grid_size, image_size=data.images(np.arange(1)).shape[1])
    return EncoderTargets(encoder, data, grid_size, device)


def keep_targets(
    source: TargetSource, folder: Path, keeping: Keeping, on_note: Callable[[str], None]
) -> TargetSource:
    """Let encoders see all images once, and keep their features in the folder of the run as asked.

    What is no encoder's stays as it is. `on_note` is told when the features have to be computed.
    """
    if not isinstance(source, JoinedTargets):
        return _keep_one(source, folder, keeping, on_note)
    folders = [_folder_of(place, folder) for place in range(len(source.sources))]
    for each in folders:
        each.mkdir(exist_ok=True)
    parts = zip(source.sources, folders, strict=True)
    return JoinedTargets([_keep_one(part, each, keeping, on_note) for part, each in parts])


def _folder_of(place: int, folder: Path) -> Path:
    """Return where the features of a run's encoders are kept: the first one's in its folder."""
    return folder / f"encoder-{place + 1}" if place else folder


def _keep_one(
    source: StoredTargets | EncoderTargets,
    folder: Path,
    keeping: Keeping,
    on_note: Callable[[str], None],
) -> StoredTargets | EncoderTargets:
    if not isinstance(source, EncoderTargets) or keeping == "nowhere":
        return source
    count = source.data.count
    on_note(f"computing {source.encoder.name} features of {count} images, once.")
    if keeping == "memory":
        features = np.concatenate(list(source.of_all()))
        with replacing(folder / _SAVED) as partial:
            save_file({"features": features}, partial)
        return StoredTargets([features])
    shape = (count, source.grid_size**2, source.encoder.feature_dim)
    check_room(4 * int(np.prod(shape)), folder, what="the target features need")
    with replacing(folder / _MAPPED) as partial:
        file = np.lib.format.open_memmap(partial, mode="w+", dtype=np.float32, shape=shape)
        done = 0
        for part in source.of_all():
            file[done : done + len(part)] = part
            done += len(part)
        file.flush()
    return StoredTargets([_read(folder / _MAPPED, shape[:2])])


def _read(path: Path, expected: tuple[int, int]) -> np.ndarray:
    again = "remove it and it is made again."
    mapped = path.suffix == ".npy"
    try:
        features = np.load(path, mmap_mode="r") if mapped else load_file(path)["features"]
    except (SafetensorError, KeyError, ValueError, EOFError) as error:
        raise CheckpointFormatError(f"{path}: damaged ({error}); {again}") from error
    for found, wanted, what in zip(features.shape, expected, ("images", "features an image")):  # noqa: B905
        if found != wanted:
            raise CheckpointFormatError(f"{path}: holds {found} {what}, not {wanted}; {again}")
    return features
