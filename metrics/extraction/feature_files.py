"""Features of a set of images in a folder: NPY files that are written and read in pieces.

Rows stand in the order of the images. The files are made whole at first and then filled from any
row on, by several processes if need be; written through files rather than memory maps, so that the
pages do not count as memory and a full disk is an error rather than a crash.
"""

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float32

from metrics.errors import CacheError, InputError
from metrics.images.npz import ArrayEntry, open_npy
from metrics.networks.network import Features, MetricNetwork
from repa_base.files import check_room

KINDS = ("pool", "spatial", "probabilities")
"""The attributes of `Features`, each of which has a file KIND.npy where the network has it."""

_TYPE = np.dtype("<f4")


def feature_widths(network: MetricNetwork) -> dict[str, int]:
    """Return the width of each kind of features that a network has."""
    widths = (network.pool_dim, network.spatial_dim, network.num_classes)
    return {kind: width for kind, width in zip(KINDS, widths, strict=True) if width}


def feature_bytes(count: int, widths: Mapping[str, int]) -> int:
    """Return how many bytes the features of `count` images take."""
    return sum(widths.values()) * count * _TYPE.itemsize


def make_feature_files(folder: Path, count: int, widths: Mapping[str, int]) -> None:
    """Make the files for `count` images, unfilled.

    Raises:
        OSError: The disk has no room for them (ENOSPC), or the folder cannot be written.
    """
    check_room(feature_bytes(count, widths), folder, what="features need")
    for kind, width in widths.items():
        with _path(folder, kind).open("xb") as file:
            header = {"descr": _TYPE.str, "fortran_order": False, "shape": (count, width)}
            np.lib.format.write_array_header_1_0(file, header)
            file.truncate(file.tell() + count * width * _TYPE.itemsize)


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Name the folder in whatever keeps the block from writing there, as a `CacheError`."""
    try:
        yield
    except OSError as error:
        raise CacheError(f"{folder}: {error.strerror or error}.") from error


class FeatureWriter:
    """Fills what `make_feature_files` made, from row `start` on; leaving it brings all to disk.

    Raises:
        CacheError: A file is not there (this process does not see the others' folder), or the disk
            is full; raised on leaving, too.
    """

    def __init__(self, folder: Path, kinds: Iterable[str], start: int) -> None:
        self._folder, self._files = folder, ExitStack()
        self._streams = {}
        with writing(folder):
            for kind in kinds:
                entry = open_npy(_path(folder, kind))
                stream = self._files.enter_context(entry.path.open("r+b"))
                stream.seek(entry.data_start + start * entry.row_bytes)
                self._streams[kind] = stream

    def write(self, features: Features) -> None:
        """Write the features of the next images."""
        for kind, stream in self._streams.items():
            rows = np.ascontiguousarray(getattr(features, kind), _TYPE)
            with writing(self._folder):
                stream.write(rows.data)

    def __enter__(self) -> "FeatureWriter":
        return self

    def __exit__(self, kind: object, error: object, traceback: object) -> None:
        with writing(self._folder), self._files:
            for stream in self._streams.values() if error is None else ():
                stream.flush()
                os.fsync(stream.fileno())


@dataclass(frozen=True, eq=False)
class FeatureFiles:
    """Features that are kept, as memory maps of files or as arrays; None where they are not."""

    pool: Float32[np.ndarray, "images pool_dim"]
    spatial: Float32[np.ndarray, "images spatial_dim"] | None
    probabilities: Float32[np.ndarray, "images classes"] | None

    @classmethod
    def open(cls, folder: Path, count: int, widths: Mapping[str, int]) -> "FeatureFiles":
        """Open files of `count` rows.

        Raises:
            InputError: A file is damaged, or of another size.
            FileNotFoundError: A file is missing.
        """
        maps = {kind: _map(open_npy(_path(folder, kind)), widths[kind], count) for kind in widths}
        return cls(maps["pool"], maps.get("spatial"), maps.get("probabilities"))


def _map(entry: ArrayEntry, width: int, count: int) -> np.ndarray:
    if entry.shape != (count, width) or entry.dtype != _TYPE:
        raise InputError(
            f"{entry} must hold {count} rows of {width} float32 numbers, "
            f"but is {entry.dtype} {entry.shape}."
        )
    return np.memmap(entry.path, _TYPE, mode="r", offset=entry.data_start, shape=entry.shape)


def _path(folder: Path, kind: str) -> Path:
    return folder / f"{kind}.npy"
