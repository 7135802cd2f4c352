"""Write an NPZ of images that survives a kill: in place, image by image, resumable.

While a run lasts there are two files beside the output: `NAME.npz.part`, laid out as the finished
file from the first moment, and `NAME.npz.progress`, see `progress_file`. Images may be written in
any order, by several processes at once, and the finished file is the same bytes whatever happened
on the way: what is not on disk as it was written is found when the file is completed. The output
appears under its own name whole or not at all. Memory does not depend on the number of images. How
the files are begun and found again: `opening`.
"""

import contextlib
import os
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from repa.errors import InUseError, OutputExistsError
from repa.generation.sample_files.npz_layout import directory
from repa.generation.sample_files.progress_file import ProgressFile
from repa.generation.sample_files.sample_run import MARK_BYTES, open_beginning
from repa_base.files import to_disk, write_at

REMEDY = "use --overwrite to replace it, or another --out"
_CHUNK_BYTES = 1 << 20


def part_path(output: Path) -> Path:
    """Return where the images of an unfinished output stand."""
    return output.with_name(f"{output.name}.part")


class NpzWriter(contextlib.AbstractContextManager["NpzWriter"]):
    """The NPZ in the making, by its open files, which it closes; a context manager."""

    def __init__(
        self, path: Path, progress: ProgressFile, part: int, *, overwrite: bool = False
    ) -> None:
        self.path, self.run = path, progress.run
        self.num_taken_over = 0
        """Images that were copied, when it was opened, from the shorter file that it extends."""
        self._progress, self._part, self._overwrite = progress, part, overwrite
        self._members = self.run.members
        self._row_bytes = [m.data_bytes // self.run.num_images for m in self._members[:2]]

    def num_done(self) -> int:
        """Return how many images are marked as being on disk."""
        return self._progress.num_marked(0, self.run.num_images)

    def is_done(self, first: int, count: int, step: int = 1) -> bool:
        """Whether images first, first + step, ..., so many, are all marked as being on disk."""
        if step == 1:
            return self._progress.num_marked(first, count) == count
        places = range(first, first + count * step, step)
        return all(self._progress.num_marked(place, 1) for place in places)

    def write(self, first: int, images: np.ndarray, labels: np.ndarray, step: int = 1) -> None:
        """Put images first, first + step, ... in their places, and mark them when on disk.

        The images are uint8 (B, H, W, 3), their labels int64 (B,).

        Raises:
            ValueError: Shape, dtype or index does not fit the file.
            InUseError: Another process has begun the run anew, or continued it.
        """
        if step == 1:
            self.mark(first, self.put(first, images, labels))
            return
        places = range(first, first + len(images) * step, step)
        rows = zip(
            places, np.split(images, len(images)), np.split(labels, len(labels)), strict=True
        )
        marks = [self.put(*row) for row in rows]
        os.fsync(self._part)
        for place, mark in zip(places, marks, strict=True):
            self._progress.mark(place, mark)

    def put(self, first: int, images: np.ndarray, labels: np.ndarray) -> bytes:
        """Put images in their places as `write` does; return their marks, for `mark`."""
        self._check_form(first, images, labels)
        self._check_current()
        rows = images.tobytes(), labels.tobytes()
        for member, size, row in zip(self._members, self._row_bytes, rows, strict=False):
            write_at(self._part, row, member.data_offset + first * size)
        return b"".join(self._marks(first, *rows))

    def mark(self, first: int, marks: bytes) -> None:
        """Bring what was put to disk, and only then mark it."""
        os.fsync(self._part)
        self._progress.mark(first, marks)

    def finish(self) -> int:
        """Complete the file (headers, checksums, directory) and give it its name.

        Returns:
            How many images are not on disk as they were written. If any, they have lost their
            marks and have to be written again; the file is not complete.

        Raises:
            ValueError: An image is missing.
            OutputExistsError: Another file has taken the name meanwhile.
            InUseError: Another process has begun the run anew, or continued it.
        """
        self._check_current()
        if missing := self.run.num_images - self.num_done():
            raise ValueError(f"{missing} of {self.run.num_images} images are not written yet.")
        crcs, num_damaged = self._verify()
        if num_damaged:
            return num_damaged
        text = self._members[-1]
        write_at(self._part, self._text_bytes(), text.data_offset)
        for member, crc in zip(self._members, crcs, strict=True):
            write_at(self._part, member.local_header(crc) + member.array_header, member.offset)
        write_at(self._part, directory(self._members, crcs), text.end)
        os.ftruncate(self._part, self.run.file_bytes)
        os.fsync(self._part)
        self._check_current()
        if self.path.exists() and not self._may_replace():
            raise OutputExistsError(f"{self.path} has appeared during the run; {REMEDY}.")
        part_path(self.path).replace(self.path)
        to_disk(self.path.parent)
        self._progress.path.unlink()
        return 0

    def close(self) -> None:
        """Let go of the files; an unfinished run can be continued later."""
        os.close(self._part)
        self._progress.close()

    def __exit__(self, *error: object) -> None:
        self.close()

    def _verify(self) -> tuple[list[int], int]:
        """Compare every image with its mark, which it loses if they differ.

        Returns the CRC-32s of the members, of the very bytes that were compared, and how many
        images differ.
        """
        crcs = [zlib.crc32(member.array_header) for member in self._members]
        crcs[-1] = zlib.crc32(self._text_bytes(), crcs[-1])
        num_damaged, step = 0, max(1, _CHUNK_BYTES // self._row_bytes[0])
        for first in range(0, self.run.num_images, step):
            count = min(step, self.run.num_images - first)
            rows = self._rows(0, first, count), self._rows(1, first, count)
            crcs[:2] = map(zlib.crc32, rows, crcs[:2])
            marks = self._progress.marks(first, count)
            for place, mark in enumerate(self._marks(first, *rows)):
                if marks[place * MARK_BYTES : (place + 1) * MARK_BYTES] != mark:
                    self._progress.mark(first + place, bytes(MARK_BYTES))
                    num_damaged += 1
        return crcs, num_damaged

    def _rows(self, which: int, first: int, count: int) -> bytes:
        """Return images (0) or labels (1) as they stand in the file, zeros where it is cut."""
        size = self._row_bytes[which]
        offset = self._members[which].data_offset + first * size
        return os.pread(self._part, count * size, offset).ljust(count * size, b"\0")

    def _marks(self, first: int, images: bytes, labels: bytes) -> Iterator[bytes]:
        """Yield the marks of images, given the bytes of all and of their labels."""
        rows = [memoryview(images), memoryview(labels)]
        for place in range(len(labels) // self._row_bytes[1]):
            slices = [slice(place * size, (place + 1) * size) for size in self._row_bytes]
            yield self.run.mark(first + place, rows[0][slices[0]], rows[1][slices[1]])

    def _text_bytes(self) -> bytes:
        return np.array(self.run.text).tobytes()

    def _check_form(self, first: int, images: np.ndarray, labels: np.ndarray) -> None:
        count, size = len(images), self.run.manifest["image_size"]
        shape = (count, size, size, 3)
        if images.shape != shape or images.dtype != np.uint8:
            raise ValueError(f"images must be uint8 {shape}, got {images.dtype} {images.shape}.")
        if labels.shape != (count,) or labels.dtype != np.int64:
            raise ValueError(f"labels must be int64 {(count,)}, got {labels.dtype} {labels.shape}.")
        if not 0 <= first <= self.run.num_images - count:
            raise ValueError(f"images {first} to {first + count - 1} are not all in the file.")

    def _check_current(self) -> None:
        if not self._progress.is_current:
            raise InUseError(f"{self.path} is being written by another run by now.")

    def _may_replace(self) -> bool:
        """Whether what stands under the name may go: on request, or because this extends it."""
        return self._overwrite or open_beginning(self.path, self.run.manifest) is not None
