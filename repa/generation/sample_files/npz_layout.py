"""Where every byte of an NPZ of images stands, known before the first image exists.

The file is what `numpy.savez(arr_0=images, arr_1=labels, manifest=text)` would write: stored, not
deflated, with 64-bit sizes where they are needed and the fixed date 1980-01-01. Pure arithmetic
and bytes; touches no file.

Source:
    numpy.lib.format for the array headers; for the rest see `repa_base.in_place.stored_zip`.
"""

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from repa_base.in_place import stored_zip


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
        before = stored_zip.LOCAL_HEADER_BYTES + len(self.name) + stored_zip.WIDE_BYTES
        return self.offset + before

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
        return stored_zip.local_header(self.name, self.content_bytes, crc)

    def directory_entry(self, crc: int) -> bytes:
        """Return the member's entry in the directory, given the content's CRC-32."""
        return stored_zip.directory_entry(self.name, self.content_bytes, crc, self.offset)


def members_of(num_images: int, image_size: int, manifest: str) -> tuple[Member, Member, Member]:
    """Lay out RGB images of `image_size` by `image_size` pixels, labels and a manifest's text."""
    images = _member("arr_0.npy", "|u1", (num_images, image_size, image_size, 3), 0)
    labels = _member("arr_1.npy", "<i8", (num_images,), images.end)
    return images, labels, _member("manifest.npy", f"<U{len(manifest)}", (), labels.end)


def directory(members: Sequence[Member], crcs: Sequence[int]) -> bytes:
    """Return all that stands after the last member, given the members' CRC-32s."""
    entries = b"".join(map(Member.directory_entry, members, crcs))
    return entries + stored_zip.end_of_directory(len(members), len(entries), members[-1].end)


def _member(name: str, dtype: str, shape: tuple[int, ...], offset: int) -> Member:
    buffer, described = io.BytesIO(), {"descr": dtype, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(buffer, described)
    return Member(name, buffer.getvalue(), math.prod(shape) * np.dtype(dtype).itemsize, offset)
