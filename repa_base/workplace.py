"""Hidden folders where outputs are made, which no killed process leaves for ever.

`.NAME.XXXXXXXX.part` stands beside the output NAME and holds a lock file, locked while its process
lives. A folder whose lock is free is a dead process's, and may be removed by anybody. Where a file
system has no locks, nothing is removed but by its maker.
"""

import glob
import os
import secrets
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from repa_base.locks import lock_if_free

_LOCK = ".lock"


@contextmanager
def workplace(target: Path) -> Iterator[tuple[Path, int]]:
    """Make a locked folder beside an output, and remove it afterwards.

    Yields:
        The folder, and the permissions that the system gives new files there.

    Raises:
        OSError: The folder cannot be made.
    """
    place, lock = _begin(target)
    try:
        yield place, stat.S_IMODE(os.fstat(lock).st_mode)
    finally:
        with suppress(OSError):
            _remove(place)
        os.close(lock)


def hidden_prefix(target: Path) -> str:
    """Return how the paths of an output's hidden folders begin."""
    return str(target.with_name(f".{target.name}."))


def remove_leftovers(folder: Path, name: str | None = None) -> None:
    """Remove the hidden folders of processes that were killed; the living keep theirs.

    Args:
        folder: Where the outputs are.
        name: The output's name; None for all outputs.
    """
    pattern = "*" if name is None else glob.escape(name)
    for place in folder.glob(f".{pattern}.{'[0-9a-f]' * 8}.part"):
        with suppress(OSError):
            _remove_if_dead(place)


def _begin(target: Path) -> tuple[Path, int]:
    """Return a new folder and the descriptor that holds its lock."""
    while True:
        place = Path(f"{hidden_prefix(target)}{secrets.token_hex(4)}.part")
        place.mkdir()
        try:
            lock = os.open(place / _LOCK, os.O_RDWR | os.O_CREAT, 0o666)
        except FileNotFoundError:
            continue  # taken for a dead one's before it had its lock
        except OSError:
            place.rmdir()
            raise
        if lock_if_free(lock, place, warn=False) is not False and (place / _LOCK).exists():
            return place, lock
        os.close(lock)


def _remove_if_dead(place: Path) -> None:
    try:
        lock = os.open(place / _LOCK, os.O_RDWR)
    except FileNotFoundError:
        place.rmdir()  # killed before it had its lock, so that it is empty
        return
    try:
        if lock_if_free(lock, place, warn=False):
            _remove(place)
    finally:
        os.close(lock)


def _remove(place: Path) -> None:
    """Remove a folder, its lock last: without it, what another kill leaves would stay for ever."""
    for path in place.iterdir():
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        elif path.name != _LOCK:
            path.unlink()
    (place / _LOCK).unlink()
    place.rmdir()
