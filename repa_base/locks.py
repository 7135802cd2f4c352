"""Locks that keep processes apart and end with the process that holds them, however it ends.

They are flock on a file or folder: the system lets go of it with its process, whatever file is left
behind. Where a lock cannot be had, as on file systems without them, one warning says so and the
work goes on without.
"""

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_warned = False


class NoLocksWarning(UserWarning):
    """A file system has no locks, so that nothing keeps two processes apart."""


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Wait for the lock of a file or folder that exists, and hold it for the block."""
    # NFS locks only what is open for writing, which a folder cannot be.
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        _lock(descriptor, path, wait=True)
        yield
    finally:
        os.close(descriptor)


def lock_if_free(descriptor: int, path: Path, *, warn: bool = True) -> bool | None:
    """Lock an open file or folder until its descriptor is closed, if nobody else holds the lock.

    Args:
        descriptor: The open file or folder; a file is open for writing, which NFS asks for.
        path: Its path, for the warning.
        warn: Whether to warn where there are no locks.

    Returns:
        True if the lock is held now, False if another one holds it, None if there are no locks.
    """
    return _lock(descriptor, path, wait=False, warn=warn)


def _lock(descriptor: int, path: Path, *, wait: bool, warn: bool = True) -> bool | None:
    global _warned
    from filelock import lock_descriptor  # --help comes by here, and locks nothing

    try:
        return lock_descriptor(descriptor, blocking=wait)
    except OSError as error:
        if warn and not _warned:
            _warned = True
            warnings.warn(
                f"{path} is on a file system without locks ({error.strerror}): do not start the "
                "same work twice at a time.",
                NoLocksWarning,
                stacklevel=4,
            )
        return None
