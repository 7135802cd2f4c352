"""A folder of PNG, JPEG and WebP files as a source of images."""

import hashlib
import json
import operator
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path

import numpy as np
from jaxtyping import Int64, UInt8
from PIL import Image

from metrics.errors import InputError
from metrics.images.source import MAX_SIDE, Batches, bounded_batch, checked_range
from repa_base.checksums import file_sha256
from repa_base.progress import Steps

_LABELS = "dataset.json"
_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
_FORMATS = ("PNG", "JPEG", "WEBP")
_TAIL = 64  # bytes that are searched for a picture's end
# What Pillow raises on damage; the bomb warning comes as an error where warnings are errors.
_UNREADABLE = (
    Image.UnidentifiedImageError,
    Image.DecompressionBombError,
    Image.DecompressionBombWarning,
    SyntaxError,
    ValueError,
)


@dataclass(frozen=True)
class FolderImages:
    """Image files, decoded as they are needed, by several threads."""

    folder: Path
    paths: tuple[Path, ...]
    shape: tuple[int, int, int] | None
    labels: Int64[np.ndarray, " count"] | None = None
    largest_bytes: int = 1
    manifest: None = field(default=None, init=False)

    @property
    def name(self) -> str:
        """The folder."""
        return str(self.folder)

    @property
    def count(self) -> int:
        """Number of images."""
        return len(self.paths)

    def batches(self, batch_size: int, start: int = 0, stop: int | None = None) -> Batches:
        """Yield images `start` to `stop` as RGB; a batch ends early where the size changes.

        Grey, palette and CMYK images become RGB and transparency is dropped. Batches of very large
        images are smaller than asked.

        Raises:
            InputError: A file is damaged.
        """
        stop = checked_range(self.count, batch_size, start, stop)
        batch_size = bounded_batch(batch_size, self.largest_bytes)
        with ThreadPoolExecutor() as threads:
            for first in range(start, stop, batch_size):
                paths = self.paths[first : min(first + batch_size, stop)]
                for _, images in groupby(threads.map(_decode, paths), key=lambda i: i.shape):
                    yield np.stack(list(images))

    def sha256(self, progress: Steps | None = None) -> str:
        """Return the hash of the relative paths and of the files; progress counts files."""
        digest = hashlib.sha256()
        for number, path in enumerate(self.paths, start=1):
            name = path.relative_to(self.folder).as_posix()
            digest.update(f"{file_sha256(path)}  {name}\n".encode())
            if progress is not None:
                progress(number, self.count)
        return digest.hexdigest()


def open_folder(folder: Path) -> FolderImages:
    """Find the images of a folder and its subfolders, in the order of their relative paths.

    Labels are those of a prepared data set's `dataset.json`, if there is one:
    `{"labels": [["00000/img00000000.png", 7], ...]}`, or null for none.

    Raises:
        InputError: There are none, one is cut short, has a damaged header or more than 8 bits a
            channel, or `dataset.json` is unreadable or leaves one out.
    """
    paths = (path for path in folder.rglob("*") if path.suffix.lower() in _SUFFIXES)
    ordered = sorted(paths, key=lambda path: path.relative_to(folder).as_posix())
    if not ordered:
        raise InputError(f"{folder} holds no images ({', '.join(_SUFFIXES)}).")
    with ThreadPoolExecutor() as threads:
        sizes = set(threads.map(_size, ordered))
    shape = (*next(iter(sizes)), 3) if len(sizes) == 1 else None
    largest = max(height * width * 3 for height, width in sizes)
    return FolderImages(folder, tuple(ordered), shape, _read_labels(folder, ordered), largest)


def _read_labels(folder: Path, paths: list[Path]) -> Int64[np.ndarray, " count"] | None:
    file = folder / _LABELS
    if not file.is_file():
        return None
    try:
        pairs = json.loads(file.read_bytes())["labels"] or ()
        labels = {str(name): np.int64(operator.index(label)) for name, label in pairs}
    except (ValueError, TypeError, LookupError, OverflowError, RecursionError) as error:
        raise InputError(
            f'{file} must hold {{"labels": [[file, class], ...]}}, but cannot be read: {error!r}.'
        ) from error
    names = [path.relative_to(folder).as_posix() for path in paths]
    absent = next((name for name in names if name not in labels), None)
    if labels and absent is not None:
        raise InputError(f"{file} names no class for {absent}; complete it or remove it.")
    return np.array([labels[name] for name in names], np.int64) if labels else None


def _size(path: Path) -> tuple[int, int]:
    """Return height and width from the header; a file that seems cut short is decoded as well."""
    with _open_picture(path) as picture:
        size = picture.height, picture.width
    if not _has_its_end(path):
        _decode(path)
    return size


def _has_its_end(path: Path) -> bool:
    """Whether a picture ends as its format says, so that it is not cut short."""
    with path.open("rb") as stream:
        head, length = stream.read(8), stream.seek(0, os.SEEK_END)
        stream.seek(max(0, length - _TAIL))
        tail = stream.read()
    if head.startswith(b"RIFF"):  # WebP
        return int.from_bytes(head[4:], "little") + 8 <= length
    return (b"IEND" if head.startswith(b"\x89PNG") else b"\xff\xd9") in tail


def _decode(path: Path) -> UInt8[np.ndarray, "height width 3"]:
    with _open_picture(path) as picture:
        try:
            # a palette with transparency goes through RGBA, or Pillow warns
            whole = picture.convert("RGBA") if "transparency" in picture.info else picture
            return np.array(whole.convert("RGB"))
        except (OSError, SyntaxError, ValueError) as error:
            raise InputError(f"{path} is a damaged image: {error}.") from error


@contextmanager
def _open_picture(path: Path) -> Iterator[Image.Image]:
    """Open an image whose header is acceptable; its pixels are not read yet."""
    try:
        # Pillow knows other formats too, and starts another program for some of them.
        picture = Image.open(path, formats=_FORMATS)
    except (*_UNREADABLE, OSError) as error:
        if getattr(error, "filename", None) is not None:
            raise  # a file that cannot be opened
        raise InputError(f"{path} is not a readable image: {error}.") from error
    with picture:
        if max(picture.size) > MAX_SIDE:
            raise InputError(
                f"{path} is {picture.size}; a side may have {MAX_SIDE} pixels at most."
            )
        # Pillow opens 16-bit RGB as 8-bit RGB, but its decoder's raw mode tells: "RGB;16B".
        if picture.mode.startswith(("I", "F")) or any(";16" in str(t[3]) for t in picture.tile):
            raise InputError(f"{path} has more than 8 bits a channel; save it with 8.")
        yield picture
