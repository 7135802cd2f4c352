"""The hash of a file."""

import hashlib
from pathlib import Path

from metrics.progress import Steps

_PIECE = 1 << 20


def file_sha256(path: Path, progress: Steps | None = None) -> str:
    """Return the SHA-256 of a file in hexadecimal, read in pieces; progress counts bytes."""
    digest, size = hashlib.sha256(), path.stat().st_size
    with path.open("rb", buffering=0) as stream:
        while piece := stream.read(_PIECE):
            digest.update(piece)
            if progress is not None:
                progress(stream.tell(), size)
    return digest.hexdigest()
