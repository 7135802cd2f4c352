"""The files of a prepared set that hold a row an image, and where every row stands.

All is known before the first row exists, so that rows are written in any order, by any number of
processes, and read one by one. A row's checksum is the CRC-32 of its bytes: of an image, those of
its PNG file.
"""

import io
import json
import math
import os
import re
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import ClassVar

import numpy as np

from repa.data.png_record import PngForm
from repa.errors import DataError
from repa_base.in_place import stored_zip

IMAGES, MOMENTS, HELD_OUT = "images", "moments", "held-out"
ANEW = "prepare the set anew with --overwrite"
"""What mends damage."""

_FLIPPED = "-flipped"
_PER_ENTRY = 10_000  # of the directory, joined at once
_MOST = 10**8  # images whose names have the same length


@dataclass(frozen=True)
class ImageZip:
    """A zip of PNG files in the form of StyleGAN's and EDM2's tools, with labels or without.

    Source:
        REPA preprocessing/dataset_tools.py: `00012/img00012345.png` and `dataset.json`, last.
    """

    key: str
    image_size: int
    count: int
    labels: Sequence[int] | np.ndarray | None
    dtype: ClassVar[str] = "|u1"

    @property
    def row_shape(self) -> tuple[int, ...]:
        """Of an image."""
        return self.image_size, self.image_size, 3

    @property
    def name(self) -> str:
        """Of the file, below the set's folder."""
        return f"{self.key}.zip"

    @cached_property
    def form(self) -> PngForm:
        """The form of its images."""
        return PngForm(self.image_size)

    @property
    def row_bytes(self) -> int:
        """Bytes of one image's PNG file."""
        return self.form.size

    @property
    def head(self) -> bytes:
        """What stands before the rows."""
        return b""

    @cached_property
    def prefix_bytes(self) -> int:
        """Bytes before each row."""
        return stored_zip.LOCAL_HEADER_BYTES + len(member_name(0))

    def prefix(self, index: int, checksum: int) -> bytes:
        """Return what stands before a row."""
        return stored_zip.local_header(member_name(index), self.row_bytes, checksum, wide=False)

    def tail(self, checksums: Iterable[int]) -> Iterator[bytes]:
        """Yield what stands behind the rows: the list of labels and the directory."""
        text = self.labels_text
        crc = zlib.crc32(text)
        header = stored_zip.local_header("dataset.json", len(text), crc, wide=False)
        yield header + text
        stride, size, entries = self.prefix_bytes + self.row_bytes, 0, []
        for index, checksum in enumerate(checksums):
            name, offset = member_name(index), index * stride
            args = name, self.row_bytes, int(checksum), offset
            entries.append(stored_zip.directory_entry(*args, wide=False))
            if len(entries) == _PER_ENTRY:
                size += sum(map(len, entries))
                yield b"".join(entries)
                entries = []
        end = self.count * stride
        args = "dataset.json", len(text), crc, end
        entries.append(stored_zip.directory_entry(*args, wide=False))
        size += sum(map(len, entries))
        start = end + len(header) + len(text)
        yield b"".join(entries) + stored_zip.end_of_directory(self.count + 1, size, start)

    @cached_property
    def labels_text(self) -> bytes:
        """The content of `dataset.json`."""
        pairs = None
        if self.labels is not None:
            pairs = [[member_name(i), int(label)] for i, label in enumerate(self.labels)]
        return json.dumps({"labels": pairs}).encode("ascii")

    def encode(self, row: np.ndarray) -> bytes:
        """Return the bytes of an image uint8 (image_size, image_size, 3)."""
        return self.form.encode(row)

    def decode(self, content: bytes) -> np.ndarray:
        """Return the image of such bytes."""
        return self.form.decode(content)


@dataclass(frozen=True)
class ArrayFile:
    """An NPY file, an array's row an image; `row_shape` without the first axis."""

    key: str
    count: int
    row_shape: tuple[int, ...]
    dtype: str

    @property
    def name(self) -> str:
        """Of the file, below the set's folder."""
        return f"{self.key}.npy"

    @property
    def row_bytes(self) -> int:
        """Bytes of one row."""
        return math.prod(self.row_shape) * np.dtype(self.dtype).itemsize

    @cached_property
    def head(self) -> bytes:
        """What stands before the rows: numpy's header."""
        buffer, shape = io.BytesIO(), (self.count, *self.row_shape)
        described = {"descr": self.dtype, "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(buffer, described)
        return buffer.getvalue()

    @property
    def prefix_bytes(self) -> int:
        """Bytes before each row."""
        return 0

    def prefix(self, index: int, checksum: int) -> bytes:
        """Return what stands before a row: nothing."""
        return b""

    def tail(self, checksums: Iterable[int]) -> Iterator[bytes]:
        """Yield what stands behind the rows: nothing."""
        return iter(())

    def encode(self, row: np.ndarray) -> bytes:
        """Return the bytes of a row."""
        return np.ascontiguousarray(row, self.dtype).tobytes()

    def decode(self, content: bytes) -> np.ndarray:
        """Return the row of such bytes."""
        return np.frombuffer(content, self.dtype).reshape(self.row_shape)


RowFile = ImageZip | ArrayFile


@dataclass(frozen=True, kw_only=True)
class Layout:
    """What a prepared set holds, and so which files.

    Attributes:
        image_size: Side of the images in pixels.
        labels: int64 (N,), or None where there are no classes.
        count: N.
        held_out: How many images are held out, with their labels.
        moments_shape: (2 C, h, w), or None without them.
        features: Number of tokens and width, by encoder.
        flip: Whether moments and features of the mirrored images are there too.
    """

    image_size: int
    count: int
    labels: np.ndarray | None
    held_out: int = 0
    held_out_labels: np.ndarray | None = None
    moments_shape: tuple[int, int, int] | None = None
    features: Mapping[str, tuple[int, int]]
    flip: bool = False

    def __post_init__(self) -> None:
        if max(self.count, self.held_out) > _MOST:
            raise DataError(f"a prepared set holds {_MOST:,} images at most, not {self.count:,}.")

    @cached_property
    def files(self) -> dict[str, RowFile]:
        """The files of a row an image, by key, without what is held out."""
        found: list[RowFile] = [ImageZip(IMAGES, self.image_size, self.count, self.labels)]
        for flipped in (False, True)[: 1 + self.flip]:
            if self.moments_shape is not None:
                key = moments_key(flipped=flipped)
                found.append(ArrayFile(key, self.count, self.moments_shape, "<f4"))
            for encoder, shape in self.features.items():
                key = features_key(encoder, flipped=flipped)
                found.append(ArrayFile(key, self.count, shape, "<f2"))
        return {file.key: file for file in found}

    @cached_property
    def held_out_file(self) -> ImageZip | None:
        """The file of the images that are held out, if any are."""
        if not self.held_out:
            return None
        return ImageZip(HELD_OUT, self.image_size, self.held_out, self.held_out_labels)

    @cached_property
    def all_files(self) -> dict[str, RowFile]:
        """All files, by key."""
        held = {HELD_OUT: self.held_out_file} if self.held_out_file else {}
        return {**self.files, **held}


def member_name(index: int) -> str:
    """Return the name of an image in a zip."""
    return f"{index // 1000:05d}/img{index:08d}.png"


def moments_key(*, flipped: bool = False) -> str:
    """Return the key of the moments' file."""
    return MOMENTS + _FLIPPED * flipped


def features_key(encoder: str, *, flipped: bool = False) -> str:
    """Return the key of an encoder's features; of its name what a file may be called is kept."""
    return f"features{_FLIPPED * flipped}/{re.sub(r'[^A-Za-z0-9._-]+', '-', encoder)}"


def row_offset(file: RowFile, index: int) -> int:
    """Return where a row begins, behind what stands before it."""
    return len(file.head) + index * (file.prefix_bytes + file.row_bytes) + file.prefix_bytes


def rows_end(file: RowFile) -> int:
    """Return where the last row ends."""
    return len(file.head) + file.count * (file.prefix_bytes + file.row_bytes)


def read_rows(
    folder: Path, file: RowFile, indices: Iterable[int], checksums: np.ndarray
) -> np.ndarray:
    """Read rows at their places, and compare each with its checksum.

    Raises:
        DataError: A row is not as it was written, or the file cannot be read.
    """
    path, rows = folder / file.name, []
    try:
        with path.open("rb", buffering=0) as stream:
            for index in indices:
                content = os.pread(stream.fileno(), file.row_bytes, row_offset(file, index))
                if len(content) != file.row_bytes or zlib.crc32(content) != checksums[index]:
                    raise DataError(f"{path}: row {index} is not as it was written; {ANEW}.")
                rows.append(file.decode(content))
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}.") from error
    return np.stack(rows) if rows else np.empty((0, *file.row_shape), file.dtype)


def read_labels(folder: Path, file: RowFile) -> np.ndarray:
    """Return the labels int64 (N,) in a zip of images, behind its last image.

    Raises:
        DataError: They are damaged.
    """
    path = folder / file.name
    try:
        with path.open("rb") as stream:
            stream.seek(rows_end(file))
            header = stream.read(30)
            name, extra = (int.from_bytes(header[at : at + 2], "little") for at in (26, 28))
            stream.seek(name + extra, 1)
            text = stream.read(int.from_bytes(header[22:26], "little"))
        labels = np.array([label for _, label in json.loads(text)["labels"]], np.int64)
    except (OSError, ValueError, TypeError, LookupError, OverflowError) as error:
        raise DataError(f"{path}: its labels are damaged; {ANEW}.") from error
    if labels.shape != (file.count,):
        raise DataError(f"{path}: its labels are not those of {file.count} images; {ANEW}.")
    return labels
