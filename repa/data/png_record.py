"""PNG files of one size whatever they show, so that their places in a zip are known beforehand.

RGB of 8 bits, unfiltered, in stored blocks: nothing is compressed, and the pixels can be taken out
without a decoder.
"""

import struct
import zlib
from dataclasses import dataclass
from functools import cached_property

import numpy as np

_BLOCK = 65535  # most bytes of a stored block of deflate
_SIGNATURE = b"\x89PNG\r\n\x1a\n"


@dataclass(frozen=True)
class PngForm:
    """PNG files of square images of `image_size` pixels a side.

    Source:
        W3C PNG specification, second edition; RFC 1950 (zlib), RFC 1951 (stored blocks).
    """

    image_size: int

    @cached_property
    def size(self) -> int:
        """Bytes of every file."""
        return len(self._head) + self._data_bytes + 4 + len(self._end)

    def encode(self, image: np.ndarray) -> bytes:
        """Return the file of an image uint8 (image_size, image_size, 3)."""
        rows = np.zeros((self.image_size, 1 + 3 * self.image_size), np.uint8)  # 0: no filter
        rows[:, 1:] = image.reshape(self.image_size, -1)
        raw = rows.tobytes()
        parts = [b"\x78\x01"]
        for start in range(0, len(raw), _BLOCK):
            piece = raw[start : start + _BLOCK]
            last = start + _BLOCK >= len(raw)
            parts += [struct.pack("<BHH", last, len(piece), len(piece) ^ 0xFFFF), piece]
        parts.append(struct.pack(">I", zlib.adler32(raw)))
        data = b"".join(parts)
        return b"".join(
            [self._head, data, struct.pack(">I", zlib.crc32(b"IDAT" + data)), self._end]
        )

    def decode(self, content: bytes) -> np.ndarray:
        """Return the image of a file that `encode` has made, whose checksum has been checked."""
        start, end = len(self._head) + 2, len(content) - len(self._end) - 8
        view = memoryview(content)[start:end]
        blocks = [view[at + 5 : at + 5 + _BLOCK] for at in range(0, len(view), _BLOCK + 5)]
        rows = np.frombuffer(b"".join(blocks), np.uint8)
        pixels = rows.reshape(self.image_size, -1)[:, 1:]
        return pixels.reshape(self.image_size, self.image_size, 3)

    @cached_property
    def _data_bytes(self) -> int:
        raw = self.image_size * (1 + 3 * self.image_size)
        return 2 + raw + 5 * -(-raw // _BLOCK) + 4

    @cached_property
    def _head(self) -> bytes:
        """All before the data: signature, sizes, and the beginning of the one piece of data."""
        fields = struct.pack(">IIBBBBB", self.image_size, self.image_size, 8, 2, 0, 0, 0)
        return _SIGNATURE + _chunk(b"IHDR", fields) + struct.pack(">I4s", self._data_bytes, b"IDAT")

    @property
    def _end(self) -> bytes:
        return _chunk(b"IEND", b"")


def _chunk(kind: bytes, content: bytes) -> bytes:
    checksum = zlib.crc32(kind + content)
    return struct.pack(">I4s", len(content), kind) + content + struct.pack(">I", checksum)
