"""Locks that keep processes apart and end with the process that holds them, however it ends.

They are flock on a file or folder that exists for other reasons. Nothing is left behind, so nothing
can outlive a killed process. Where a file system has no locks, one warning says so and the work
goes on without.
"""

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import lock_descriptor

_warned = False


class NoLocksWarning(UserWarning):
    """A file system has no locks, so that nothing keeps two processes apart."""


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Wait for the lock of a file or folder that exists, and hold it for the block."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        _lock(descriptor, path, wait=True)
        yield
    finally:
        os.close(descriptor)


def lock_if_free(descriptor: int, path: Path) -> bool | None:
    """Lock an open file or folder until its descriptor is closed, if nobody else holds the lock.

    Args:
        descriptor: The open file or folder.
        path: Its path, for the warning.

    Returns:
        True if the lock is held now, False if another one holds it, None if there are no locks.
    """
    return _lock(descriptor, path, wait=False)


def _lock(descriptor: int, path: Path, *, wait: bool) -> bool | None:
    global _warned
    try:
        return lock_descriptor(descriptor, blocking=wait)
    except OSError as error:
        if not _warned:
            _warned = True
            warnings.warn(
                f"{path} is on a file system without locks ({error.strerror}): do not start the "
                "same work twice at a time.",
                NoLocksWarning,
                stacklevel=4,
            )
        return None
