"""The hash of a source's content, remembered while the files that hold it do not change.

A file of 50,000 images takes some ten seconds to hash. Like `make` and `git`, this trusts size,
modification time and inode: a file changed without a trace in any of them is taken for the old one.
"""

import hashlib
import json
from contextlib import suppress
from pathlib import Path

from metrics.images.arrays import FileImages
from metrics.images.folder import FolderImages
from metrics.images.source import ImagesOfSource, ImageSource
from metrics.images.zipped import ZipImages
from repa_base.checksums import parse_json, sealed, unsealed
from repa_base.files import write_text
from repa_base.progress import Steps

_MAX_REMEMBERED = 1000


def content_sha256(images: ImageSource, memory: Path, progress: Steps | None = None) -> str:
    """Return `images.sha256()`, from memory where the files are as they were.

    Args:
        images: A source; one that is not held by files is hashed every time.
        memory: File of earlier hashes, made if it can be, and anew if damaged. Several processes
            may use it.
        progress: Called while images are hashed.

    Raises:
        InputError: The source is damaged.
    """
    mark = fingerprint(images)
    if mark is None:
        return images.sha256(progress)
    known = _read(memory)
    if mark not in known:
        known = {mark: images.sha256(progress), **_read(memory)}
        with suppress(OSError):  # a full disk costs no more than hashing again
            latest = dict(list(known.items())[:_MAX_REMEMBERED])
            write_text(memory, json.dumps(sealed(latest)))
    return known[mark]


def fingerprint(images: ImageSource) -> str | None:
    """Return a short text that changes when the files of a source do; None if there are none."""
    paths = _files(images)
    if not paths:
        return None
    digest = hashlib.sha256(f"{images.count}".encode())
    for path in paths:
        status = path.stat()
        seen = (str(path.absolute()), status.st_size, status.st_mtime_ns, status.st_ino)
        digest.update(repr(seen).encode())
    return digest.hexdigest()


def _files(images: ImageSource) -> tuple[Path, ...]:
    match images:
        case FileImages():
            return (images.entry.path,)
        case FolderImages():
            return images.paths
        case ZipImages():
            return (images.path,)
        case ImagesOfSource():
            return _files(images.images)
        case _:
            return ()


def _read(memory: Path) -> dict[str, str]:
    try:
        return unsealed(parse_json(memory.read_bytes()), required=True)
    except (OSError, ValueError):
        return {}
