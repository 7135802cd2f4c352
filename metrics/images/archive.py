"""Members of ZIP archives: where their bytes lie, and whether those are what the directory says.

For what `zipfile` does not do: reading at a position, by any number of threads and processes,
checking a member while the whole file is read for something else, and refusing an archive that is
made to fill memory or time.
"""

import io
import os
import struct
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from metrics.errors import InputError
from metrics.images.picture_files import is_hidden
from repa_base.errors import first_line

MAX_MEMBER_BYTES = 1 << 28
"""More than the largest picture that is accepted, uncompressed."""

Place = tuple[int, int, int, int, int]
"""Of a member: where its local header is, compressed and whole size, method, CRC-32."""

_LOCAL_HEADER = struct.Struct("<26xHH")  # the lengths of the name and of the extra field
_LOCAL_HEADER_BYTES = 30
_STORED, _DEFLATED = zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED
_MAX_INFLATED = 1 << 22  # bytes inflated at once
_OTHER = "is damaged: it is not what the zip's directory says."


def stored_start(path: Path, info: zipfile.ZipInfo) -> int:
    """Return where a member's bytes begin: its local header may differ from the directory's."""
    with path.open("rb") as stream:
        stream.seek(info.header_offset)
        name_size, extra_size = _LOCAL_HEADER.unpack(stream.read(_LOCAL_HEADER.size))
    return info.header_offset + _LOCAL_HEADER.size + name_size + extra_size


def shown_members(path: Path) -> dict[str, zipfile.ZipInfo]:
    """Return the members of an archive by name, in its order, without what is hidden.

    Raises:
        InputError: It is no archive, or its members cannot all be read, or overlap.
        OSError: It cannot be read.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            infos = [
                i for i in archive.infolist() if not any(map(is_hidden, i.filename.split("/")))
            ]
    except (zipfile.BadZipFile, NotImplementedError, ValueError, EOFError) as error:
        raise InputError(f"{path} is no readable zip: {first_line(error).rstrip('.')}.") from error
    repeated = [name for name, times in Counter(i.filename for i in infos).items() if times > 1]
    if repeated:
        raise InputError(f"{path} holds {repeated[0]} twice.")
    if sum(info.compress_size for info in infos) > path.stat().st_size:
        raise InputError(f"{path} is a zip bomb: its members overlap.")
    for info in infos:
        if info.flag_bits & 1:
            raise InputError(f"{path}: {info.filename} is encrypted.")
        if info.compress_type not in (_STORED, _DEFLATED):
            reason = "is compressed in a way that only some can read; zip it anew"
            raise InputError(f"{path}: {info.filename} {reason}.")
    return {info.filename: info for info in infos}


def place_of(info: zipfile.ZipInfo) -> Place:
    """Return where a member is, for `read_member`."""
    sizes = info.compress_size, info.file_size
    return info.header_offset, *sizes, info.compress_type, info.CRC


def check_member_size(title: str, size: int, most: int = MAX_MEMBER_BYTES) -> None:
    """Refuse what is too large to be what it should be.

    Raises:
        InputError: It is; the message begins with `title`.
    """
    if size > most:
        raise InputError(f"{title} is a zip bomb: it would be {size:,} bytes.")


def read_member(path: Path, title: str, place: Place, *, most: int = MAX_MEMBER_BYTES) -> bytes:
    """Return the content of a member of at most so many bytes.

    Raises:
        InputError: It is larger, or not what the directory says; the message begins with `title`.
        OSError: The archive cannot be read.
    """
    _, packed, size, method, crc = place
    check_member_size(title, max(size, packed), most)
    with path.open("rb", buffering=0) as file:
        content = os.pread(file.fileno(), packed, _start_of(file, title, place))
    try:
        if method == _DEFLATED:
            content = zlib.decompressobj(-zlib.MAX_WBITS).decompress(content, size + 1)
    except zlib.error as error:
        raise InputError(f"{title} is damaged: {error}.") from error
    if len(content) != size or zlib.crc32(content) != crc:
        raise InputError(f"{title} {_OTHER}")
    return content


@contextmanager
def opened_member(path: Path, title: str, place: Place) -> Iterator[io.BufferedIOBase]:
    """Open a member for the block, to be read in parts where it is stored, without its checksum.

    Raises:
        InputError: As for `read_member`, but what is stored is not compared with its checksum.
        OSError: The archive cannot be read.
    """
    _, packed, size, method, _ = place
    if method == _DEFLATED:
        yield io.BytesIO(read_member(path, title, place))
        return
    check_member_size(title, max(size, packed))
    with path.open("rb", buffering=0) as file:
        start = _start_of(file, title, place)
        yield io.BufferedReader(_Part(file.fileno(), start, size))


def _start_of(file: io.FileIO, title: str, place: Place) -> int:
    """Return where a member's bytes begin, behind its local header."""
    header = os.pread(file.fileno(), _LOCAL_HEADER_BYTES, place[0])
    if len(header) < _LOCAL_HEADER_BYTES or header[:4] != b"PK\3\4":
        raise InputError(f"{title} {_OTHER}")
    return place[0] + _LOCAL_HEADER_BYTES + sum(_LOCAL_HEADER.unpack(header))


class _Part(io.RawIOBase):
    """A part of an open file, to be read as a file."""

    def __init__(self, descriptor: int, start: int, size: int) -> None:
        self._descriptor, self._start, self._size, self._position = descriptor, start, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._size}[whence]
        self._position = max(0, base + offset)
        return self._position

    def readinto(self, buffer: Any) -> int:  # noqa: ANN401
        count = max(0, min(len(buffer), self._size - self._position))
        content = os.pread(self._descriptor, count, self._start + self._position)
        buffer[: len(content)] = content
        self._position += len(content)
        return len(content)


class PassingMember:
    """The checksum of a member whose whole file passes by, from its first byte on."""

    def __init__(self, path: Path, name: str) -> None:
        with zipfile.ZipFile(path) as archive:
            self._info = archive.getinfo(name)
        self._start = stored_start(path, self._info)
        deflated = self._info.compress_type == zipfile.ZIP_DEFLATED
        self._inflater = zlib.decompressobj(-zlib.MAX_WBITS) if deflated else None
        self._position = self._size = self._checksum = 0

    def update(self, piece: bytes) -> None:
        """Look at the next piece of the file."""
        first = max(self._start - self._position, 0)
        end = max(self._start + self._info.compress_size - self._position, 0)
        self._position += len(piece)
        data = piece[first:end]
        if self._inflater is None:
            self._add(data)
        while data and self._inflater is not None:
            self._add(self._inflater.decompress(data, _MAX_INFLATED))
            data = self._inflater.unconsumed_tail

    def finish(self) -> None:
        """Compare what has passed with what the archive's directory says."""
        if self._inflater is not None:
            self._add(self._inflater.flush())
        if (self._checksum, self._size) != (self._info.CRC, self._info.file_size):
            raise zipfile.BadZipFile(f"Bad CRC-32 for file {self._info.filename!r}")

    def _add(self, data: bytes) -> None:
        self._checksum, self._size = zlib.crc32(data, self._checksum), self._size + len(data)
