"""Members of ZIP archives: where their bytes lie, and whether those are what the directory says.

For what `zipfile` does not do: reading at a position, and checking a member while the whole file is
read for something else.
"""

import struct
import zipfile
import zlib
from pathlib import Path

_LOCAL_HEADER = struct.Struct("<26xHH")  # the lengths of the name and of the extra field
_MAX_INFLATED = 1 << 22  # bytes inflated at once


def stored_start(path: Path, info: zipfile.ZipInfo) -> int:
    """Return where a member's bytes begin: its local header may differ from the directory's."""
    with path.open("rb") as stream:
        stream.seek(info.header_offset)
        name_size, extra_size = _LOCAL_HEADER.unpack(stream.read(_LOCAL_HEADER.size))
    return info.header_offset + _LOCAL_HEADER.size + name_size + extra_size


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
