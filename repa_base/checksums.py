"""The SHA-256 of a file, remembered until the file changes."""

import hashlib
import time
from collections.abc import Callable
from pathlib import Path

from repa_base.progress import Steps

_PIECE_BYTES = 1 << 20
_MAX_REMEMBERED = 256
_SETTLED_SECONDS = 0.1
_known: dict[tuple[Path, int, int, int, int], str] = {}


def file_sha256(
    path: Path, progress: Steps | None = None, watch: Callable[[bytes], object] | None = None
) -> str:
    """Return the SHA-256 of a file in hexadecimal, read in pieces.

    Args:
        path: The file. Like `make` and `git`, this trusts size, times and inode: within a process a
            file with the same ones as before is not read again. Files below 1 MiB are, and so are
            those that changed just before they were read, since a second change within the same
            tick of the clock leaves no trace.
        progress: Called with the bytes read.
        watch: Is given the whole file piece by piece, which is then read even if its hash is known.

    Raises:
        OSError: The file cannot be read.
    """
    status, now = path.stat(), time.time_ns()
    size, changed = status.st_size, max(status.st_mtime_ns, status.st_ctime_ns)
    key = (path.absolute(), size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino)
    if key in _known and watch is None:
        return _known[key]
    digest = hashlib.sha256()
    with path.open("rb", buffering=0) as stream:
        while piece := stream.read(_PIECE_BYTES):
            digest.update(piece)
            if watch is not None:
                watch(piece)
            if progress is not None:
                progress(stream.tell(), size)
    if size >= _PIECE_BYTES and now - changed > _SETTLED_SECONDS * 1e9:
        if len(_known) >= _MAX_REMEMBERED:
            _known.clear()
        _known[key] = digest.hexdigest()
    return digest.hexdigest()
