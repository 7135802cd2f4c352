"""Images to be measured, as batches of uint8: from an NPZ or NPY file, a folder, a zip, or memory.

Every source is read in order and in batches, so memory does not grow with the number of images.
Arrays must be uint8 RGB as they stand: a conversion would be a choice that moves the numbers, so it
is left to whoever made them. Image files are decoded to uint8 RGB: grey and palette images become
RGB, CMYK too, and transparency is dropped; more than 8 bits a channel are refused.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int64

from metrics.errors import InputError
from metrics.images.folder import open_folder
from metrics.images.npz import ArrayEntry, open_npy, open_npz
from metrics.images.picture_files import PictureFiles
from metrics.images.source import (
    MAX_SIDE,
    Batches,
    FirstImages,
    ImageBatch,
    ImagesOfSource,
    ImageSource,
    bounded_batch,
    checked_range,
)
from metrics.images.zipped import open_zip
from repa_base.errors import first_line
from repa_base.progress import Steps

_MAX_MANIFEST_BYTES = 1 << 22


def open_images(source: str | Path | np.ndarray) -> ImageSource:
    """Open images for reading without reading them.

    Args:
        source: An NPZ file whose `arr_0` is uint8 (N, H, W, 3), with labels in `arr_1` and a JSON
            text in `manifest` where it has them; an NPY file or an array of that form; or a folder
            or zip, searched with its subfolders for PNG, JPEG, WebP, GIF, BMP, TIFF and PPM files
            with one picture each, in the order of their paths, with the labels of a prepared data
            set's `dataset.json`. Links are followed, hidden files and folders are left out, and
            the other files are counted in its `not_taken`.

    Raises:
        InputError: The source is not one of these, is damaged, holds something else than uint8
            RGB images, or a part of the folder cannot be read.
        FileNotFoundError: There is no such file or folder.
    """
    if isinstance(source, np.ndarray):
        _check_form("the array", source.shape, source.dtype)
        return ArrayImages(source)
    path = Path(source)
    if path.is_dir():
        return open_folder(path)
    if path.suffix.lower() == ".npy":
        return FileImages(_checked_entry(open_npy(path)))
    if path.suffix.lower() == ".zip":
        return open_zip(path)
    return _open_npz_images(path)


def formats_of(images: ImageSource | None) -> dict[str, int]:
    """Return how many files of which formats images are read from; empty if from none."""
    return dict(Counter(_formats(images)).most_common())


def _formats(images: ImageSource | None) -> tuple[str, ...]:
    match images:
        case PictureFiles():
            return images.formats
        case FirstImages():
            return _formats(images.images)[: images.count]
        case ImagesOfSource():
            return _formats(images.images)
        case _:
            return ()


@dataclass(frozen=True)
class ArrayImages:
    """Images in memory: uint8 (N, H, W, 3)."""

    images: ImageBatch
    name: str = "array"
    labels: Int64[np.ndarray, " count"] | None = None
    manifest: Mapping[str, Any] | None = None

    @property
    def count(self) -> int:
        """Number of images."""
        return len(self.images)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Height, width, 3."""
        return self.images.shape[1:]

    def batches(self, batch_size: int, start: int = 0, stop: int | None = None) -> Batches:
        """Yield copies of the images `start` to `stop`."""
        stop = checked_range(self.count, batch_size, start, stop)
        for first in range(start, stop, batch_size):
            yield self.images[first : min(first + batch_size, stop)].copy()

    def sha256(self, progress: Steps | None = None) -> str:
        """Return the hash of shape and pixels; progress counts images."""
        digest = hashlib.sha256(str(self.images.shape).encode())
        done = 0
        for batch in self.batches(256):
            digest.update(batch.tobytes())
            done += len(batch)
            if progress is not None:
                progress(done, self.count)
        return digest.hexdigest()


@dataclass(frozen=True)
class FileImages:
    """Images of one array in an NPZ or NPY file, read as they are needed."""

    entry: ArrayEntry
    labels: Int64[np.ndarray, " count"] | None = None
    manifest: Mapping[str, Any] | None = None

    @property
    def name(self) -> str:
        """The file."""
        return str(self.entry.path)

    @property
    def count(self) -> int:
        """Number of images."""
        return self.entry.shape[0]

    @property
    def shape(self) -> tuple[int, int, int]:
        """Height, width, 3."""
        _, height, width, channels = self.entry.shape
        return height, width, channels

    def batches(self, batch_size: int, start: int = 0, stop: int | None = None) -> Batches:
        """Yield images `start` to `stop`; batches of very large images are smaller than asked.

        Raises:
            InputError: The file is damaged.
        """
        stop = checked_range(self.count, batch_size, start, stop)
        batch_size = bounded_batch(batch_size, self.entry.row_bytes)
        return self.entry.rows(batch_size, start, stop)

    def sha256(self, progress: Steps | None = None) -> str:
        """Return the hash of the file, which is read once for it and for the images' checksum.

        Progress counts bytes.

        Raises:
            InputError: The data of the images is damaged.
        """
        return self.entry.file_sha256(progress)


def _open_npz_images(path: Path) -> FileImages:
    entries = open_npz(path)
    if "arr_0" not in entries:
        found = ", ".join(sorted(entries)) or "nothing"
        raise InputError(f"{path} has no array arr_0 with images; it holds {found}.")
    images = _checked_entry(entries["arr_0"])
    labels = _read_labels(entries["arr_1"], images.shape[0]) if "arr_1" in entries else None
    manifest = read_json_object(entries["manifest"]) if "manifest" in entries else None
    return FileImages(images, labels, manifest)


def _checked_entry(entry: ArrayEntry) -> ArrayEntry:
    _check_form(str(entry), entry.shape, entry.dtype)
    return entry


def _check_form(name: str, shape: tuple[int, ...], dtype: np.dtype) -> None:
    """Say what is wrong with an array that should be uint8 (N, H, W, 3), and how to mend it."""
    if dtype != np.uint8:
        raise InputError(
            f"{name} is {dtype}; images must be uint8 from 0 to 255. After removing any NaN, "
            "convert x by numpy.rint(x).clip(0, 255).astype('uint8'), where x is 255 * images for "
            "values in [0, 1], 127.5 * images + 127.5 for [-1, 1], images for 0 to 255."
        )
    if len(shape) == 4 and shape[3] != 3 and shape[1] == 3:
        raise InputError(
            f"{name} has shape {shape}; images must be (N, H, W, 3). "
            "Convert by images.transpose(0, 2, 3, 1)."
        )
    if len(shape) != 4 or shape[3] != 3:
        raise InputError(
            f"{name} has shape {shape}; images must be (N, H, W, 3). Repeat a single grey channel "
            "three times, drop an alpha channel."
        )
    if 0 in shape:
        raise InputError(f"{name} has shape {shape}; it holds no images.")
    if max(shape[1:3]) > MAX_SIDE:
        raise InputError(f"{name} has shape {shape}; a side may have {MAX_SIDE} pixels at most.")


def _read_labels(entry: ArrayEntry, count: int) -> Int64[np.ndarray, " count"]:
    if entry.shape != (count,) or entry.dtype.kind not in "iu":
        raise InputError(
            f"{entry} must hold one integer label for each of the {count} images, "
            f"but is {entry.dtype} {entry.shape}."
        )
    return entry.read().astype(np.int64)


def read_json_object(entry: ArrayEntry) -> dict[str, Any]:
    """Return the JSON object in an array that is one text.

    Raises:
        InputError: It is something else.
    """
    if entry.shape != () or entry.dtype.kind != "U" or entry.row_bytes > _MAX_MANIFEST_BYTES:
        raise InputError(f"{entry} must be one JSON text, but is {entry.dtype} {entry.shape}.")
    text = entry.read()
    try:
        value = json.loads(str(text))
    # Python refuses integers of 4,301 digits too, and numpy letters that there are not.
    except (ValueError, RecursionError, SystemError) as error:
        reason = first_line(error)
        raise InputError(f"{entry} is not JSON that can be read: {reason}.") from error
    if not isinstance(value, dict):
        raise InputError(f"{entry} must be a JSON object, not {type(value).__name__}.")
    return value
