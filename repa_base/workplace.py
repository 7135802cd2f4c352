"""Hidden folders where outputs are made, which no killed process leaves for ever.

`.NAME.XXXXXXXX.part` stands beside the output NAME and holds a lock file, locked while its process
lives. A folder whose lock is free is a dead process's, and may be removed by anybody. Where a file
system has no locks, nothing is removed but by its maker.
"""

import glob
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from repa_base.locks import lock_if_free

_LOCK, _INNER = ".lock", "inner"
_SUFFIX = "." + "[a-z0-9_]" * 8 + ".part"


@contextmanager
def workplace(target: Path) -> Iterator[Path]:
    """Make a hidden folder beside an output, and remove it afterwards with all that is in it.

    Raises:
        OSError: The folder cannot be made.
    """
    outer, lock = _begin(target)
    with os.fdopen(lock):
        try:
            (outer / _INNER).mkdir()
            yield outer / _INNER
        finally:
            with suppress(OSError):
                _remove(outer)


def is_workplace(path: Path) -> bool:
    """Whether a path is called like a hidden folder, a living process's or a dead one's."""
    return path.match(f".*{_SUFFIX}")


def remove_leftovers(folder: Path, name: str | None = None) -> None:
    """Remove what killed processes left of the output `name`, or of all; the living keep theirs."""
    pattern = "*" if name is None else glob.escape(name)
    for outer in folder.glob(f".{pattern}{_SUFFIX}"):
        with suppress(OSError):
            outer.rmdir()  # killed before it had its lock, so that it is empty
        with suppress(OSError), (outer / _LOCK).open("r+") as lock:
            if lock_if_free(lock.fileno(), outer, warn=False):
                _remove(outer)


def _begin(target: Path) -> tuple[Path, int]:
    """Return a new folder and the descriptor that holds its lock."""
    while True:
        outer = Path(tempfile.mkdtemp(".part", f".{target.name}.", target.parent))
        with suppress(FileNotFoundError):  # taken for a dead one's before it had its lock
            lock = os.open(outer / _LOCK, os.O_RDWR | os.O_CREAT)
            if lock_if_free(lock, outer, warn=False) is not False and (outer / _LOCK).exists():
                return outer, lock
            os.close(lock)


def _remove(outer: Path) -> None:
    """Remove a folder, its lock last: without it, what another kill leaves would stay for ever."""
    if (outer / _INNER).exists():
        shutil.rmtree(outer / _INNER)
    shutil.rmtree(outer)
