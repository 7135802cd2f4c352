"""A file beside unfinished work: whose it is, and which parts of it are on disk.

One line is the header; after it stands a record a part, all of one size, zeros until the part is on
disk. What header and records say is for those who make them.

The file is locked by the process that begins or continues the work. It is replaced as a whole,
never truncated: what a process left over from an earlier start still holds open is no longer the
file.
"""

import contextlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from repa_base.errors import InUseError
from repa_base.files import replacing, write_at
from repa_base.locks import lock_if_free

_PIECE = 1 << 17  # records copied at once


class MarksFile:
    """A file of marks by its open descriptor, which it closes."""

    def __init__(
        self, path: Path, descriptor: int, header: bytes, count: int, record_bytes: int
    ) -> None:
        self.path, self.count = path, count
        self._descriptor, self._header, self._record_bytes = descriptor, header, record_bytes

    @property
    def is_current(self) -> bool:
        """Whether this is still the file under its name."""
        return _is_at(self._descriptor, self.path)

    @property
    def has_its_header(self) -> bool:
        """Whether the header on disk is this one."""
        return os.pread(self._descriptor, len(self._header), 0) == self._header

    def marks(self, first: int, count: int) -> bytes:
        """Return the records of parts first to first + count - 1."""
        return os.pread(self._descriptor, count * self._record_bytes, self._offset(first))

    def mark(self, first: int, marks: bytes) -> None:
        """Set the records of parts first, first + 1, ..., which are on disk; zeros unmark."""
        write_at(self._descriptor, marks, self._offset(first))

    def begin(self) -> None:
        """Write the header, and zeros for every part, into an empty file."""
        os.ftruncate(self._descriptor, self._offset(self.count))
        write_at(self._descriptor, self._header, 0)

    def lock(self) -> None:
        """Lock the file, which nobody else can have."""
        lock_if_free(self._descriptor, self.path)

    def close(self) -> None:
        """Let go of the file and its lock."""
        os.close(self._descriptor)

    def _offset(self, index: int) -> int:
        return len(self._header) + index * self._record_bytes


M = TypeVar("M", bound=MarksFile)


def replace_marks(
    path: Path, make: Callable[[int], M], earlier: MarksFile | None = None, kept: int = 0
) -> M:
    """Put a new, locked file in the place of one whose lock is held.

    `make` gives the file of a descriptor. It keeps the records that an earlier one has of the first
    `kept` parts.
    """
    with contextlib.ExitStack() as on_failure:
        with replacing(path) as partial:
            file = make(os.open(partial, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666))
            on_failure.callback(file.close)
            file.lock()
            file.begin()
            if earlier is not None:
                for first in range(0, kept, _PIECE):
                    file.mark(first, earlier.marks(first, min(_PIECE, kept - first)))
        on_failure.pop_all()
    return file


def attach_marks(path: Path, make: Callable[[int], M]) -> M:
    """Open the file of work that another process has begun or continued.

    Raises:
        InUseError: It is not, or no longer, that work's.
    """
    with contextlib.suppress(FileNotFoundError):
        file = make(os.open(path, os.O_RDWR))
        if file.has_its_header:
            return file
        file.close()
    raise InUseError(f"{path} is another run's by now.")


def lock_marks(path: Path, output: Path) -> int:
    """Return a descriptor that holds the lock of a file of marks, which is made if need be.

    Raises:
        InUseError: Another run holds it; the message names the output.
    """
    while True:
        with contextlib.ExitStack() as on_failure:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
            on_failure.callback(os.close, descriptor)
            if lock_if_free(descriptor, output) is False:
                raise _in_use(output)
            if _is_at(descriptor, path):  # otherwise a run has replaced or removed it meanwhile
                on_failure.pop_all()
                return descriptor


def check_unlocked(path: Path, output: Path) -> None:
    """Raise InUseError, as `lock_marks`, if another run holds the lock; nothing is made or kept."""
    with contextlib.suppress(FileNotFoundError):
        descriptor = os.open(path, os.O_RDWR)
        try:
            if lock_if_free(descriptor, output) is False:
                raise _in_use(output)
        finally:
            os.close(descriptor)


def _in_use(output: Path) -> InUseError:
    remedy = "wait for it, or use another --out"
    return InUseError(f"{output} is being written by another run; {remedy}.")


def _is_at(descriptor: int, path: Path) -> bool:
    with contextlib.suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(descriptor), path.stat())
    return False
