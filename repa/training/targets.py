"""Target features of a batch's images: kept in memory or in a file, or made by the encoder at once.

`open_targets` alone decides where they come from. Beside a file of them stands
target_features.json: what they are of, and a CRC-32 of each image's features, which is checked
whenever they are read. It costs about half a second a gigabyte: of what a step reads if the file is
mapped, else of the whole file once.
"""

import json
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file
from torch import Tensor

from repa.data import Batch, TrainingData
from repa.encoders import Encoder, EncoderName, load_encoder, parse_encoders
from repa.encoders.names import Precision
from repa.errors import CheckpointFormatError, SettingError
from repa_base.checksums import parse_json, sealed, unsealed
from repa_base.device import on_device
from repa_base.files import check_room, replacing, write_text
from repa_base.memory_map import release_pages

Keeping = Literal["memory", "file", "nowhere"]
"""Where a run keeps its target features: in memory and saved with the run, in a file that is mapped
into memory, or nowhere: the encoder sees the images of every batch."""

_SAVED, _MAPPED = "target_features.safetensors", "target_features.npy"
_RECORD = "target_features.json"
_AGAIN = "remove it and it is made again."
CHUNK_IMAGES = 64
"""That an encoder sees at once."""
_MOST_IN_MEMORY = 1 << 30  # bytes


@dataclass(frozen=True)
class Needs:
    """What targets need with a batch: its images, and features that the data hold, by encoder."""

    images: bool = False
    features: tuple[str, ...] = ()


@dataclass(frozen=True)
class StoredTargets:
    """Features of all images, (count, N, D) an encoder, in memory or mapped; none for "none".

    Those that are mapped from `path` are checked as they are read, if there are `checksums`, one an
    image.
    """

    features: list[np.ndarray]
    path: Path | None = None
    checksums: Sequence[int] | None = None
    needs: ClassVar[Needs] = Needs()

    @property
    def dims(self) -> list[int]:
        """Widths of the features, one an encoder."""
        return [features.shape[2] for features in self.features]

    def __call__(self, batch: Batch) -> list[Tensor]:
        """Return the features float32 (B, N, D) of the batch's images, one tensor an encoder.

        Raises:
            CheckpointFormatError: Those of an image are not as they were written.
        """
        rows = [features[batch.indices] for features in self.features]
        for features in self.features:
            release_pages(features)
        if self.path is not None and self.checksums is not None:
            for part in rows:
                _check(self.path, part, batch.indices.tolist(), self.checksums)
        return [torch.from_numpy(part) for part in rows]


@dataclass(frozen=True)
class EncoderTargets:
    """Features that the encoder makes of the batch's images on the way."""

    encoder: Encoder
    data: TrainingData
    grid_size: int
    device: torch.device | str
    needs: ClassVar[Needs] = Needs(images=True)

    @property
    def dims(self) -> list[int]:
        """Width of the features."""
        return [self.encoder.feature_dim]

    @property
    def suitable_keeping(self) -> Keeping:
        """In memory up to 1 GiB; features of mirrored images would be others."""
        size = 4 * self.data.count * self.grid_size**2 * self.encoder.feature_dim
        return "nowhere" if self.data.flip or size > _MOST_IN_MEMORY else "memory"

    def __call__(self, batch: Batch) -> list[Tensor]:
        """Return the encoder's features of the batch's images."""
        if batch.images is None:
            return [self.of(batch.indices)]
        return [self._features(batch.images)]

    def of(self, indices: np.ndarray) -> Tensor:
        """Return the features of images that it reads itself, on the device."""
        return self._features(self.data.images(indices))

    def of_all(self) -> Iterator[np.ndarray]:
        """Yield the features of all images in their order, some images at a time."""
        count = self.data.count
        for indices in np.array_split(np.arange(count), -(-count // CHUNK_IMAGES)):
            yield self.of(indices).cpu().numpy()

    def _features(self, images: Tensor) -> Tensor:
        return self.encoder(on_device(images, self.device), grid_size=self.grid_size)


@dataclass
class PreparedTargets:
    """Features that the data hold of an encoder's, and that come with each batch."""

    encoder: EncoderName
    data: TrainingData
    grid_size: int

    def __post_init__(self) -> None:
        if self.encoder.weights is not None:
            raise SettingError(
                "encoder",
                f"{self.data.name} holds features of {self.encoder.name} already: leave out "
                f"={self.encoder.weights}, or prepare the set anew with these weights and "
                "--overwrite.",
            )
        _, tokens, dim = self.data.features(self.encoder.name, np.arange(1)).shape
        if tokens != self.grid_size**2:
            side, wanted = round(tokens**0.5), self.grid_size
            size = self.data.image_size * side // wanted
            raise SettingError(
                "model",
                f"{self.data.name} holds {side} x {side} features of {self.encoder.name} an image, "
                f"and the model has {wanted} x {wanted} tokens: with this model, images of {size} "
                "pixels would do; or choose another patch size, or prepare the set anew with "
                f"--grid-size {wanted} and --overwrite.",
            )
        self.dims = [dim]

    @property
    def needs(self) -> Needs:
        """The features."""
        return Needs(features=(self.encoder.name,))

    def __call__(self, batch: Batch) -> list[Tensor]:
        """Return the features of the batch's images."""
        return [batch.features[self.encoder.name]]


OneSource = StoredTargets | EncoderTargets | PreparedTargets


@dataclass(frozen=True)
class JoinedTargets:
    """Features of several encoders, each from a source of its own."""

    sources: list[OneSource]

    @property
    def dims(self) -> list[int]:
        """Widths of the features, one an encoder."""
        return [dim for source in self.sources for dim in source.dims]

    @property
    def needs(self) -> Needs:
        """What any of them needs."""
        all_needs = [source.needs for source in self.sources]
        features = tuple(name for needs in all_needs for name in needs.features)
        return Needs(any(needs.images for needs in all_needs), features)

    def __call__(self, batch: Batch) -> list[Tensor]:
        """Return the features of the batch's images, one tensor an encoder."""
        return [features for source in self.sources for features in source(batch)]


TargetSource = OneSource | JoinedTargets
"""Called with a batch, it gives the features to align with, (B, N, D), one an encoder: float32, or
as prepared float16. `needs` is what the batch must hold for that."""


def open_targets(
    encoders: str,
    data: TrainingData,
    folder: Path,
    grid_size: int,
    device: torch.device | str,
    precision: Precision = "fp32",
) -> TargetSource:
    """Find a run's features, or what can make them; writes and computes nothing.

    Features that the data hold of an encoder are used, else those that the folder of the run holds,
    unless the encoder to align with is `none`. `grid_size` is the side of the model's grid of
    tokens, each of which gets a feature; `precision` is what the encoders compute in. Of several
    encoders, see `repa.encoders.names`, each after the first has a folder in that of the run.

    Raises:
        CheckpointFormatError: The folder's features are damaged, or of other images, tokens or
            encoder.
        SettingError: An encoder, or what the data hold of its features, does not give this grid, or
            it is none of timm's networks.
        RepaError: It is not on this machine.
    """
    names = parse_encoders(encoders)
    if not names:
        return StoredTargets([])
    sources = [
        _open_one(name, data, _folder_of(place, folder), grid_size, device, precision)
        for place, name in enumerate(names)
    ]
    return sources[0] if len(sources) == 1 else JoinedTargets(sources)


def _open_one(
    name: EncoderName,
    data: TrainingData,
    folder: Path,
    grid_size: int,
    device: torch.device | str,
    precision: Precision,
) -> OneSource:
    if name.name in data.encoders:
        if precision != "fp32":
            rule = f"must be fp32, in which {data.name} holds the features of {name.name}"
            raise SettingError("encoder_precision", f"encoder_precision {rule}, got {precision}.")
        return PreparedTargets(name, data, grid_size)
    for path in (folder / _SAVED, folder / _MAPPED):
        if path.exists():
            what = _what(name.name, data, precision)
            return _read(path, (data.count, grid_size**2), what)
    encoder = load_encoder(str(name), device, precision=precision)
    encoder.check_grid(grid_size, image_size=data.images(np.arange(1)).shape[1])
    return EncoderTargets(encoder, data, grid_size, device)


def keep_targets(
    source: TargetSource, folder: Path, keeping: Keeping | None, on_note: Callable[[str], None]
) -> TargetSource:
    """Let encoders see all images once, and keep their features in the folder of the run as asked.

    Without `keeping` they are kept in memory if they are small, and if no image is mirrored. What
    is no encoder's stays as it is. `on_note` is told when the features have to be computed.
    """
    if not isinstance(source, JoinedTargets):
        return _keep_one(source, folder, keeping, on_note)
    if keeping == "nowhere":
        return source
    parts = []
    for place, part in enumerate(source.sources):
        parts.append(_keep_one(part, _folder_of(place, folder), keeping, on_note))
    return JoinedTargets(parts)


def _folder_of(place: int, folder: Path) -> Path:
    """Return where the features of a run's encoders are kept: the first one's in its folder."""
    return folder / f"encoder-{place + 1}" if place else folder


def _keep_one(
    source: OneSource,
    folder: Path,
    keeping: Keeping | None,
    on_note: Callable[[str], None],
) -> OneSource:
    if not isinstance(source, EncoderTargets):
        return source
    keeping = keeping or source.suitable_keeping
    if keeping == "nowhere":
        return source
    encoder, count = source.encoder, source.data.count
    what = _what(encoder.name, source.data, encoder.precision)
    on_note(f"computing {encoder.name} features of {count} images, once.")
    shape = (count, source.grid_size**2, encoder.feature_dim)
    if keeping == "memory":
        features = np.empty(shape, np.float32)
        checksums = _filled(features, source)
        with replacing(folder / _SAVED) as partial:
            save_file({"features": features}, partial)
            _write_record(folder, what, checksums)
        return StoredTargets([features])
    check_room(4 * int(np.prod(shape)), folder, what="the target features need")
    with replacing(folder / _MAPPED) as partial:
        file = np.lib.format.open_memmap(partial, mode="w+", dtype=np.float32, shape=shape)
        checksums = _filled(file, source)
        file.flush()
        _write_record(folder, what, checksums)
    return _read(folder / _MAPPED, shape[:2], what)


def _filled(features: np.ndarray, source: EncoderTargets) -> list[int]:
    """Fill an array with the features of all images; return a checksum of each image's."""
    checksums: list[int] = []
    for part in source.of_all():
        features[len(checksums) : len(checksums) + len(part)] = part
        checksums += _checksums(part)
    return checksums


def _what(encoder_name: str, data: TrainingData, precision: Precision) -> dict[str, Any]:
    """Return what features are of, as it is recorded beside them; of float32 as ever."""
    what = {"encoder": encoder_name, "data": data.name, "input_size": data.input_size}
    return what if precision == "fp32" else {**what, "encoder_precision": precision}


def _write_record(folder: Path, what: dict[str, Any], checksums: list[int]) -> None:
    """Record what features are of; before their file has its name, which is none without it."""
    write_text(folder / _RECORD, json.dumps(sealed({**what, "checksums": checksums})) + "\n")


def _read(path: Path, shape: tuple[int, int], what: dict[str, Any]) -> StoredTargets:
    """Open the features of `shape[0]` images, `shape[1]` each; old ones have no record."""
    mapped, record = path.suffix == ".npy", path.with_name(_RECORD)
    try:
        features = np.load(path, mmap_mode="r") if mapped else load_file(path)["features"]
        written = unsealed(parse_json(record.read_text("utf-8"))) if record.exists() else {}
        checksums = written.pop("checksums", None)
    except (SafetensorError, KeyError, ValueError, EOFError) as error:
        raise CheckpointFormatError(f"{path}: damaged ({error}); {_AGAIN}") from error
    if features.dtype != np.float32 or features.ndim != 3:
        found = f"{features.dtype} of shape {features.shape}"
        raise CheckpointFormatError(f"{path}: damaged (holds {found}); {_AGAIN}")
    for found, wanted, name in zip(features.shape, shape, ("images", "features an image")):  # noqa: B905
        if found != wanted:
            raise CheckpointFormatError(f"{path}: holds {found} {name}, not {wanted}; {_AGAIN}")
    for name, found in written.items():
        if found != what.get(name):
            other = f"is of {name} {found}, not {what.get(name)}"
            raise CheckpointFormatError(f"{path}: {other}; {_AGAIN}")
    if mapped or checksums is None:
        return StoredTargets([features], path, checksums)
    _check(path, features, range(len(features)), checksums)
    return StoredTargets([features])


def _checksums(features: np.ndarray) -> list[int]:
    """Return a CRC-32 of each image's features."""
    return [zlib.crc32(np.ascontiguousarray(image).data) for image in features]


def _check(path: Path, found: np.ndarray, images: Sequence[int], checksums: Sequence[int]) -> None:
    """Raise CheckpointFormatError unless the features of these images are as they were written."""
    for image, checksum in zip(images, _checksums(found), strict=True):
        if checksum != checksums[image]:
            what = f"the features of image {image} are not as they were written"
            raise CheckpointFormatError(f"{path}: damaged ({what}); {_AGAIN}")
