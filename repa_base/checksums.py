"""The SHA-256 of a file, remembered until the file changes."""

import hashlib
from collections.abc import Callable
from pathlib import Path

from repa_base.progress import Steps

_PIECE_BYTES = 1 << 20
_MAX_REMEMBERED = 256
_known: dict[tuple[Path, int, int, int], str] = {}


def file_sha256(
    path: Path, progress: Steps | None = None, watch: Callable[[bytes], object] | None = None
) -> str:
    """Return the SHA-256 of a file in hexadecimal, read in pieces.

    Args:
        path: The file. Like `make` and `git`, this trusts size, modification time and inode: within
            a process a file with the same ones as before is not read again.
        progress: Called with the bytes read.
        watch: Is given the whole file piece by piece, which is then read even if its hash is known.

    Raises:
        OSError: The file cannot be read.
    """
    status = path.stat()
    key = (path.absolute(), status.st_size, status.st_mtime_ns, status.st_ino)
    if key not in _known or watch is not None:
        if len(_known) >= _MAX_REMEMBERED:
            _known.clear()
        _known[key] = _read(path, status.st_size, progress, watch)
    return _known[key]


def _read(
    path: Path, size: int, progress: Steps | None, watch: Callable[[bytes], object] | None
) -> str:
    digest = hashlib.sha256()
    with path.open("rb", buffering=0) as stream:
        while piece := stream.read(_PIECE_BYTES):
            digest.update(piece)
            if watch is not None:
                watch(piece)
            if progress is not None:
                progress(stream.tell(), size)
    return digest.hexdigest()
