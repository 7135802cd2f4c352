"""The bytes of a zip whose members are stored, not deflated: pure arithmetic, touches no file.

Where a member stands is known before its content, so that files can be filled in any order. All
have the fixed date 1980-01-01, so that equal contents are equal files.

Source:
    PKWARE APPNOTE 6.3.10, sections 4.3.7 (local header), 4.3.12 (directory), 4.3.14 to 4.3.16
    (ends of directory), 4.5.3 (64-bit sizes).
"""

import struct

LOCAL_HEADER_BYTES, WIDE_BYTES = 30, 20
"""Sizes of a local header without its name, and of the 64-bit sizes that may follow that."""

# Python's zipfile turns to 64-bit fields from 2 GiB on, for readers with signed sizes.
_WIDE_FROM = (1 << 31) - 1
_MOST_MEMBERS = (1 << 16) - 1
_VERSION = 45  # the first version of the format with 64-bit sizes
_PLAIN_VERSION = 20
_DATE = (1 << 5) | 1  # 1980-01-01
_REGULAR_FILE = 0o600 << 16
_UNIX = 3
_IN_EXTRA = 0xFFFFFFFF
_COUNT_ELSEWHERE = 0xFFFF


def local_header(name: str, size: int, crc: int, *, wide: bool = True) -> bytes:
    """Return what stands before a member's content: with 64-bit sizes if `wide`."""
    version = _VERSION if wide else _PLAIN_VERSION
    sizes = (_IN_EXTRA, _IN_EXTRA) if wide else (size, size)
    fixed = (b"PK\3\4", version, 0, 0, 0, _DATE, crc, *sizes, len(name), WIDE_BYTES * wide)
    extra = struct.pack("<2H2Q", 1, 16, size, size) if wide else b""
    return struct.pack("<4s5H3I2H", *fixed) + name.encode("ascii") + extra


def directory_entry(name: str, size: int, crc: int, offset: int, *, wide: bool = True) -> bytes:
    """Return a member's entry in the directory; `wide` as in its local header."""
    large, version = [], _VERSION if wide else _PLAIN_VERSION
    if size > _WIDE_FROM:
        large, size = [size, size], _IN_EXTRA
    if offset > _WIDE_FROM:
        large, offset, version = [*large, offset], _IN_EXTRA, _VERSION
    extra = struct.pack(f"<2H{len(large)}Q", 1, 8 * len(large), *large) if large else b""
    fixed = (b"PK\1\2", version, _UNIX, version, 0, 0, 0, 0, _DATE, crc, size, size)
    fixed += (len(name), len(extra), 0, 0, 0, _REGULAR_FILE, offset)
    return struct.pack("<4s4B4H3I5H2I", *fixed) + name.encode("ascii") + extra


def end_of_directory(count: int, size: int, offset: int) -> bytes:
    """Return the end of a zip: of `count` members, the directory of `size` bytes at `offset`."""
    ends = b""
    if offset > _WIDE_FROM or count > _MOST_MEMBERS:
        end64 = (b"PK\6\6", 44, _VERSION, _VERSION, 0, 0, count, count, size, offset)
        ends = struct.pack("<4sQ2H2I4Q", *end64)
        ends += struct.pack("<4sIQI", b"PK\6\7", 0, offset + size, 1)
    count = min(count, _COUNT_ELSEWHERE)
    last = (b"PK\5\6", 0, 0, count, count, size, min(offset, _IN_EXTRA), 0)
    return ends + struct.pack("<4s4H2IH", *last)
