"""Write an NPZ of images that survives a kill: in place, image by image, resumable.

While a run lasts there are two files beside the output: `NAME.npz.part`, laid out as the finished
file from the first moment, and `NAME.npz.progress`, one line of JSON with the settings and then
one byte an image, 1 when it is safely on disk. Images may be written in any order, by several
processes at once, and the finished file is the same bytes whatever happened on the way. The output
appears under its own name whole or not at all. Memory does not depend on the number of images.
"""

import contextlib
import json
import os
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from metrics import InputError, open_images
from repa.errors import InUseError, OutputExistsError
from repa.generation.npz_layout import Member, directory, members_of
from repa_base.files import check_output, reserve, write_at
from repa_base.locks import lock_if_free

_CHUNK_BYTES = 1 << 20
_REMEDY = "use --overwrite to replace it, or another --out"


class NpzWriter(contextlib.AbstractContextManager["NpzWriter"]):
    """The NPZ in the making; a context manager.

    The manifest, JSON values, tells the settings that decide the images: an unfinished run of the
    same settings is continued, one of other settings refused, or with `overwrite` replaced. To
    `attach` is to join in when another process has made the files.

    Raises:
        OutputExistsError: The output, or its unfinished part, is there and was made by other
            settings or is no output of ours; or another process is writing it.
        OSError: The folder cannot be written, or the disk has no room for the whole file.
    """

    def __init__(
        self,
        path: Path,
        *,
        num_images: int,
        image_size: int,
        manifest: Mapping[str, Any],
        overwrite: bool = False,
        attach: bool = False,
    ) -> None:
        self.path = path
        self._part_path = path.with_name(f"{path.name}.part")
        self._progress_path = path.with_name(f"{path.name}.progress")
        self._overwrite = overwrite
        self._text = json.dumps(manifest)
        self._settings = json.loads(self._text)
        self._marks_offset = len(self._text) + 1
        self._num_images, self._image_shape = num_images, (image_size, image_size, 3)
        self._members = members_of(num_images, image_size, self._text)
        self._total_bytes = self._members[-1].end + len(directory(self._members, [0, 0, 0]))
        self._files = contextlib.ExitStack()
        self._part = self._progress = -1
        self.finished = False
        """Whether the output was complete, with these settings, before this run."""
        try:
            if not attach:
                self._prepare()
            elif not self._is_finished():
                self._progress = self._open(self._progress_path, os.O_RDWR)
            if not self.finished:
                self._part = self._open(self._part_path, os.O_RDWR)
        except BaseException:
            self._files.close()
            raise

    def num_done(self) -> int:
        """Return how many images are on disk."""
        if self.finished:
            return self._num_images
        # Nothing stands behind the marks, so that the last piece ends where they end.
        starts = range(0, self._num_images, _CHUNK_BYTES)
        return sum(self._marks(start, _CHUNK_BYTES).count(1) for start in starts)

    def is_done(self, first: int, count: int) -> bool:
        """Whether images first to first + count - 1 are all on disk."""
        return self.finished or self._marks(first, count) == b"\1" * count

    def write(self, first: int, images: np.ndarray, labels: np.ndarray) -> None:
        """Put images first, first + 1, ... in their places, and mark them when they are on disk.

        The images are uint8 (B, H, W, 3), their labels int64 (B,).

        Raises:
            ValueError: Shape, dtype or index does not fit the file.
        """
        count = len(images)
        shape = (count, *self._image_shape)
        if images.shape != shape or images.dtype != np.uint8:
            raise ValueError(f"images must be uint8 {shape}, got {images.dtype} {images.shape}.")
        if labels.shape != (count,) or labels.dtype != np.int64:
            raise ValueError(f"labels must be int64 {(count,)}, got {labels.dtype} {labels.shape}.")
        if not 0 <= first <= self._num_images - count:
            raise ValueError(f"images {first} to {first + count - 1} are not all in the file.")
        for member, rows in zip(self._members[:2], (images, labels), strict=True):
            row_bytes = member.data_bytes // self._num_images
            write_at(self._part, rows.tobytes(), member.data_offset + first * row_bytes)
        # The mark must not reach the disk before the image does.
        os.fsync(self._part)
        write_at(self._progress, b"\1" * count, self._marks_offset + first)

    def finish(self) -> None:
        """Complete the file (headers, checksums, directory) and give it its name.

        Raises:
            ValueError: An image is missing.
            OutputExistsError: Another file has taken the name meanwhile.
        """
        if self.finished:
            return
        if missing := self._num_images - self.num_done():
            raise ValueError(f"{missing} of {self._num_images} images are not written yet.")
        text = self._members[-1]
        write_at(self._part, np.array(self._text).tobytes(), text.data_offset)
        crcs = [self._complete(member) for member in self._members]
        write_at(self._part, directory(self._members, crcs), text.end)
        os.fsync(self._part)
        if self.path.exists() and not self._overwrite:
            raise OutputExistsError(f"{self.path} has appeared during the run; {_REMEDY}.")
        self._part_path.replace(self.path)
        self._progress_path.unlink()
        self.finished = True

    def close(self) -> None:
        """Let go of the files; an unfinished run can be continued later."""
        self._files.close()

    def __exit__(self, *error: object) -> None:
        self.close()

    def _prepare(self) -> None:
        """Find out whether to stop, to go on or to start, and make the files if need be."""
        check_sample_file(self.path, overwrite=self._overwrite)
        if self._found_finished():
            return
        if not self._overwrite and self._part_path.exists() and not self._progress_path.exists():
            raise OutputExistsError(f"{self._part_path} is no unfinished run of ours; remove it.")
        self._lock()
        begun = self._part_path.exists()
        # Another run may have finished between the first look and the lock.
        if self._found_finished():
            if not begun:
                self._progress_path.unlink()
            return
        begun_settings = self._read_settings() if begun else self._settings
        if begun_settings != self._settings and not self._overwrite:
            difference = self._difference(begun_settings)
            raise OutputExistsError(f"{self._part_path} {difference}; {_REMEDY}.")
        whole = begun and self._part_path.stat().st_size == self._total_bytes
        if begun_settings != self._settings or not whole:
            self._start()

    def _found_finished(self) -> bool:
        """Note whether the output is complete; refuse one of other settings."""
        if not self._is_finished() and self.path.exists() and not self._overwrite:
            difference = self._difference(read_manifest(self.path))
            raise OutputExistsError(f"{self.path} {difference}; {_REMEDY}.")
        return self.finished

    def _is_finished(self) -> bool:
        self.finished = self.path.exists() and read_manifest(self.path) == self._settings
        return self.finished

    def _start(self) -> None:
        """Write the settings, with no image done, and reserve the whole file."""
        self._part_path.unlink(missing_ok=True)
        # The settings come first: a part without them could not be told from a stranger's file.
        os.ftruncate(self._progress, 0)
        os.ftruncate(self._progress, self._marks_offset + self._num_images)
        write_at(self._progress, self._text.encode("ascii") + b"\n", 0)
        os.fsync(self._progress)
        try:
            with self._part_path.open("xb") as part:
                reserve(part.fileno(), self._total_bytes, self._part_path)
        except BaseException:
            self._part_path.unlink(missing_ok=True)
            self._progress_path.unlink()
            raise

    def _lock(self) -> None:
        """Open the progress file, and keep other runs off until this process ends, however."""
        while True:
            self._progress = self._open(self._progress_path, os.O_RDWR | os.O_CREAT)
            if lock_if_free(self._progress, self.path) is False:
                remedy = "wait for it, or use another --out"
                raise InUseError(f"{self.path} is being written by another run; {remedy}.")
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(self._progress), self._progress_path.stat()):
                    return  # otherwise a run that has finished meanwhile has removed it

    def _open(self, path: Path, flags: int) -> int:
        descriptor = os.open(path, flags, 0o666)
        self._files.callback(os.close, descriptor)
        return descriptor

    def _read_settings(self) -> Any:  # noqa: ANN401
        """Return the settings in the progress file, or None when they cannot be read."""
        with self._progress_path.open("rb") as file, contextlib.suppress(ValueError):
            return json.loads(file.readline(_CHUNK_BYTES))

    def _marks(self, first: int, count: int) -> bytes:
        return os.pread(self._progress, count, self._marks_offset + first)

    def _complete(self, member: Member) -> int:
        """Write a member's headers; return its CRC-32."""
        write_at(self._part, member.array_header, member.content_offset)
        crc, position = 0, member.content_offset
        while chunk := os.pread(self._part, min(_CHUNK_BYTES, member.end - position), position):
            crc = zlib.crc32(chunk, crc)
            position += len(chunk)
        write_at(self._part, member.local_header(crc), member.offset)
        return crc

    def _difference(self, other: Any) -> str:  # noqa: ANN401
        """Say how another run's settings differ from these."""
        if not isinstance(other, dict):
            return "was not made by this command"
        ours, theirs = _flat(self._settings), _flat(other)
        names = [n for n in {**ours, **theirs} if ours.get(n) != theirs.get(n)]
        listed = ", ".join(f"{n} {theirs.get(n)} there, {ours.get(n)} here" for n in names[:3])
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        return f"was made by other settings ({listed}{more})"


def read_manifest(path: Path) -> Mapping[str, Any] | None:
    """Return the manifest in an NPZ of images, or None when it has none or is no such file."""
    with contextlib.suppress(InputError, OSError):
        return open_images(path).manifest


def check_sample_file(path: Path, *, overwrite: bool = False) -> None:
    """Find out early whether an output can be written; make its folder.

    Raises:
        OutputExistsError: A folder, or a file that is no output of ours, has the name.
        OSError: No file can be made in the folder.
    """
    ours = path.is_file() and read_manifest(path) is not None
    if path.is_file() and not ours and not overwrite:
        raise OutputExistsError(f"{path} was not made by this command; {_REMEDY}.")
    check_output(path, overwrite=overwrite or ours)


def _flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Name nested settings by dotted paths."""
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        inner = isinstance(value, dict)
        flat |= _flat(value, f"{prefix}{name}.") if inner else {prefix + name: value}
    return flat
