"""Arrays in NPZ and NPY files, read in pieces and without trust in what the file declares.

An array here is a place in a file, not memory: `ArrayEntry.rows` reads it chunk by chunk. Stored
entries are read at their position; deflated ones have no positions and are inflated from their
beginning. Headers are checked against the bytes that are really there before anything is allocated,
and nothing is ever unpickled. The file knows nothing of images.
"""

import io
import math
import struct
import tokenize
import warnings
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np

from metrics.errors import InputError
from metrics.images.archive import PassingMember, stored_start
from metrics.images.source import check_file
from repa_base.checksums import file_sha256
from repa_base.errors import first_line
from repa_base.progress import Steps

# Deflate codes at most 258 bytes in 2 bits, so no honest entry expands by more than about 1032.
_MAX_INFLATION = 1032
_MAX_HEADER = 1 << 16  # bytes looked at for a header, whatever length it declares
_PIECE = 1 << 22  # bytes read at once
_ARCHIVE, _EMPTY_ARCHIVE = b"PK\3\4", b"PK\5\6"
# What zipfile raises on damaged data, and numpy and zipfile on damaged headers and directories.
_DATA_DAMAGE = (zipfile.BadZipFile, zlib.error, struct.error, EOFError, NotImplementedError)
_HEADER_DAMAGE = (
    *_DATA_DAMAGE,
    tokenize.TokenError,
    SyntaxError,
    RecursionError,
    ValueError,
    TypeError,
    OverflowError,
    IndexError,
    KeyError,
    MemoryError,
)


@runtime_checkable
class _Stream(Protocol):
    def read(self, size: int = -1, /) -> bytes: ...


@dataclass(frozen=True)
class ArrayEntry:
    """One array of a file: an NPY file itself, or a member (without ".npy") of an NPZ file.

    The shape is as declared, checked against the size of the data; the type is never an object
    type. `data_start` is the position of the first element in the file, or in the inflated member.
    """

    path: Path
    member: str | None
    shape: tuple[int, ...]
    dtype: np.dtype
    data_start: int
    deflated: bool = False

    def __str__(self) -> str:
        return str(self.path) if self.member is None else f"{self.path}: {self.member}"

    @property
    def row_bytes(self) -> int:
        """Bytes of one row, which is one element of the first axis."""
        return math.prod(self.shape[1:]) * self.dtype.itemsize

    def read(self) -> np.ndarray:
        """Return the whole array; for the small ones.

        Raises:
            InputError: The data is damaged.
        """
        array = np.empty(self.shape, self.dtype)
        with _damage_as_input_error(self.path, _DATA_DAMAGE), self._open(0) as stream:
            _fill(stream, array)
        return array

    def file_sha256(self, progress: Steps | None = None) -> str:
        """Return the SHA-256 of the file, whose array is compared with its checksum on the way.

        Args:
            progress: Called with the bytes read; the file is read once for both.

        Raises:
            InputError: The data is damaged; in an NPY file, which has no checksum, nothing tells.
        """
        if self.member is None:
            return file_sha256(self.path, progress)
        with _damage_as_input_error(self.path, _DATA_DAMAGE):
            member = PassingMember(self.path, f"{self.member}.npy")
            content = file_sha256(self.path, progress, member.update)
            member.finish()
        return content

    def rows(self, chunk_size: int, start: int, stop: int) -> Iterator[np.ndarray]:
        """Yield rows `start` to `stop` in arrays of at most `chunk_size` rows.

        A pass from row 0 to the end checks the member's checksum.

        Raises:
            InputError: The data is damaged.
        """
        with (
            _damage_as_input_error(self.path, _DATA_DAMAGE),
            self._open(start * self.row_bytes) as stream,
        ):
            for first in range(start, stop, chunk_size):
                count = min(chunk_size, stop - first)
                chunk = np.empty((count, *self.shape[1:]), self.dtype)
                _fill(stream, chunk)
                yield chunk

    @contextmanager
    def _open(self, position: int) -> Iterator[_Stream]:
        """Open the array's data at a byte position; from 0 on, NPZ members check their checksum."""
        if self.member is None or (position and not self.deflated):
            with self.path.open("rb") as stream:
                stream.seek(self._file_position() + position)
                yield stream
            return
        with zipfile.ZipFile(self.path) as archive, archive.open(f"{self.member}.npy") as stream:
            _skip(stream, self.data_start + position)
            yield stream

    def _file_position(self) -> int:
        """Return the position of the first element in the file itself, for stored data."""
        if self.member is None:
            return self.data_start
        with zipfile.ZipFile(self.path) as archive:
            info = archive.getinfo(f"{self.member}.npy")
        return stored_start(self.path, info) + self.data_start


def open_npy(path: Path) -> ArrayEntry:
    """Read the header of an NPY file.

    Raises:
        InputError: The file is not an NPY file, is cut short, or holds Python objects.
    """
    check_file(path)
    with _damage_as_input_error(path, _HEADER_DAMAGE), path.open("rb") as stream:
        entry = _read_header(stream, path, None)
    return _checked(entry, path.stat().st_size)


def open_npz(path: Path) -> dict[str, ArrayEntry]:
    """Read the headers of all arrays of an NPZ file.

    Raises:
        InputError: The file is not an NPZ file, is cut short, declares more data than it can hold,
            is compressed otherwise than by deflate, or holds Python objects.
    """
    check_file(path)
    _check_beginning(path)
    with _damage_as_input_error(path, _HEADER_DAMAGE), zipfile.ZipFile(path) as archive:
        infos = [info for info in archive.infolist() if info.filename.endswith(".npy")]
        return {info.filename.removesuffix(".npy"): _member(path, archive, info) for info in infos}


def _check_beginning(path: Path) -> None:
    """Tell a file that is no archive from one whose directory, at the end, is missing."""
    with path.open("rb") as stream:
        beginning = stream.read(len(_ARCHIVE))
    if not beginning:
        raise InputError(f"{path} is empty.")
    if beginning not in (_ARCHIVE, _EMPTY_ARCHIVE):
        remedy = "name an NPZ or NPY file, or a folder or zip of images"
        raise InputError(f"{path} is no NPZ file; {remedy}.")
    if not zipfile.is_zipfile(path):
        raise InputError(f"{path} is an NPZ file that is cut short: its end is missing.")


def _member(path: Path, archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> ArrayEntry:
    name = info.filename.removesuffix(".npy")
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise InputError(
            f"{path}: {name} is compressed by method {info.compress_type}; "
            "only stored and deflated NPZ files can be read."
        )
    if info.flag_bits & 1:
        raise InputError(f"{path}: {name} is encrypted.")
    deflated = info.compress_type == zipfile.ZIP_DEFLATED
    if not deflated:
        held = min(info.compress_size, path.stat().st_size - stored_start(path, info))
    else:
        held = min(info.compress_size, path.stat().st_size) * _MAX_INFLATION
    if info.file_size > held:
        raise InputError(
            f"{path}: {name} declares {info.file_size} bytes and cannot hold more than {held}; "
            "the file is cut short or damaged."
        )
    with archive.open(info) as stream:
        entry = _read_header(stream, path, name, deflated)
    return _checked(entry, info.file_size)


def _read_header(
    stream: _Stream, path: Path, member: str | None, deflated: bool = False
) -> ArrayEntry:
    beginning = io.BytesIO(stream.read(_MAX_HEADER))
    version = np.lib.format.read_magic(beginning)
    readers = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }
    if version not in readers:
        raise InputError(f"{path}: NPY format {version} is not supported, only 1.0 and 2.0.")
    with warnings.catch_warnings():
        # numpy warns of headers written by Python 2, which are read all the same
        warnings.simplefilter("ignore")
        shape, fortran_order, dtype = readers[version](beginning)
    entry = ArrayEntry(path, member, shape, dtype, beginning.tell(), deflated)
    if dtype.hasobject:
        raise InputError(f"{entry} holds Python objects, which are never loaded.")
    if fortran_order and len(shape) > 1:
        raise InputError(f"{entry} is in Fortran order; save numpy.ascontiguousarray(array).")
    return entry


def _checked(entry: ArrayEntry, size: int) -> ArrayEntry:
    """Return the entry if its header's shape accounts for every one of its `size` bytes."""
    if any(length < 0 for length in entry.shape):
        raise InputError(f"{entry} declares the shape {entry.shape}.")
    declared = entry.data_start + math.prod(entry.shape) * entry.dtype.itemsize
    if declared != size:
        raise InputError(
            f"{entry} declares shape {entry.shape} and type {entry.dtype}, {declared} bytes, "
            f"but holds {size}; the file is {'cut short' if size < declared else 'damaged'}."
        )
    return entry


def _fill(stream: _Stream, array: np.ndarray) -> None:
    flat = array.reshape(-1).view(np.uint8)
    filled = 0
    while filled < flat.size:
        piece = stream.read(min(flat.size - filled, _PIECE))
        if not piece:
            raise EOFError("the data ends early")
        flat[filled : filled + len(piece)] = np.frombuffer(piece, np.uint8)
        filled += len(piece)


def _skip(stream: _Stream, count: int) -> None:
    while count:
        piece = len(stream.read(min(count, _PIECE)))
        if not piece:
            raise EOFError("the data ends early")
        count -= piece


@contextmanager
def _damage_as_input_error(path: Path, damage: tuple[type[Exception], ...]) -> Iterator[None]:
    """Turn what damaged files raise into one line that names the file."""
    try:
        yield
    except InputError:
        raise
    except (OSError, *damage) as error:
        if isinstance(error, OSError) and error.filename is not None:
            raise  # it says itself which file it is of, as one that is not there
        raise InputError(
            f"{path} is not a readable NPZ or NPY file: {first_line(error)}."
        ) from error
