"""Where every byte of an NPZ of images stands, known before the first image exists.

The file is what `numpy.savez(arr_0=images, arr_1=labels, manifest=text)` would write: stored, not
deflated, with 64-bit sizes where they are needed and the fixed date 1980-01-01. Pure arithmetic
and bytes; touches no file.

Source:
    PKWARE APPNOTE 6.3.10, sections 4.3.7 (local header), 4.3.12 (directory), 4.3.14 to 4.3.16
    (ends of directory), 4.5.3 (64-bit sizes); numpy.lib.format for the array headers.
"""

import io
import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

# Python's zipfile turns to 64-bit fields from 2 GiB on, for readers with signed sizes.
_ZIP64_LIMIT = (1 << 31) - 1
_VERSION = 45  # the first version of the format with 64-bit sizes
_DATE = (1 << 5) | 1  # 1980-01-01, so that equal contents are equal files
_REGULAR_FILE = 0o600 << 16
_UNIX = 3
_IN_EXTRA = 0xFFFFFFFF


@dataclass(frozen=True)
class Member:
    """One array of the file: its name, numpy's header before its data, and where it begins."""

    name: str
    array_header: bytes
    data_bytes: int
    offset: int

    @property
    def content_offset(self) -> int:
        """Where the .npy content begins: after the local header, the name and the 64-bit sizes."""
        return self.offset + 30 + len(self.name) + 20

    @property
    def content_bytes(self) -> int:
        """Size of the .npy content."""
        return len(self.array_header) + self.data_bytes

    @property
    def data_offset(self) -> int:
        """Where the array's own bytes begin."""
        return self.content_offset + len(self.array_header)

    @property
    def end(self) -> int:
        """Where the next member, or the directory, begins."""
        return self.content_offset + self.content_bytes

    def local_header(self, crc: int) -> bytes:
        """Return the bytes from `offset` to `content_offset`, given the content's CRC-32."""
        fixed = (b"PK\3\4", _VERSION, 0, 0, 0, _DATE, crc, _IN_EXTRA, _IN_EXTRA, len(self.name), 20)
        sizes = struct.pack("<2H2Q", 1, 16, self.content_bytes, self.content_bytes)
        return struct.pack("<4s5H3I2H", *fixed) + self.name.encode("ascii") + sizes

    def directory_entry(self, crc: int) -> bytes:
        """Return the member's entry in the directory, given the content's CRC-32."""
        large, size, offset = [], self.content_bytes, self.offset
        if size > _ZIP64_LIMIT:
            large, size = [size, size], _IN_EXTRA
        if offset > _ZIP64_LIMIT:
            large, offset = [*large, offset], _IN_EXTRA
        extra = struct.pack(f"<2H{len(large)}Q", 1, 8 * len(large), *large) if large else b""
        fixed = (b"PK\1\2", _VERSION, _UNIX, _VERSION, 0, 0, 0, 0, _DATE, crc, size, size)
        fixed += (len(self.name), len(extra), 0, 0, 0, _REGULAR_FILE, offset)
        return struct.pack("<4s4B4H3I5H2I", *fixed) + self.name.encode("ascii") + extra


def members_of(num_images: int, image_size: int, manifest: str) -> tuple[Member, Member, Member]:
    """Lay out RGB images of `image_size` by `image_size` pixels, labels and a manifest's text."""
    images = _member("arr_0.npy", "|u1", (num_images, image_size, image_size, 3), 0)
    labels = _member("arr_1.npy", "<i8", (num_images,), images.end)
    return images, labels, _member("manifest.npy", f"<U{len(manifest)}", (), labels.end)


def directory(members: Sequence[Member], crcs: Sequence[int]) -> bytes:
    """Return all that stands after the last member, given the members' CRC-32s."""
    entries = b"".join(map(Member.directory_entry, members, crcs))
    count, size, offset = len(members), len(entries), members[-1].end
    ends = b""
    if offset > _ZIP64_LIMIT:
        end64 = (b"PK\6\6", 44, _VERSION, _VERSION, 0, 0, count, count, size, offset)
        ends = struct.pack("<4sQ2H2I4Q", *end64)
        ends += struct.pack("<4sIQI", b"PK\6\7", 0, offset + size, 1)
    last = (b"PK\5\6", 0, 0, count, count, size, min(offset, _IN_EXTRA), 0)
    return entries + ends + struct.pack("<4s4H2IH", *last)


def _member(name: str, dtype: str, shape: tuple[int, ...], offset: int) -> Member:
    buffer, described = io.BytesIO(), {"descr": dtype, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(buffer, described)
    return Member(name, buffer.getvalue(), math.prod(shape) * np.dtype(dtype).itemsize, offset)
