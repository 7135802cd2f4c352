"""Checksums: of a file, remembered until it changes, and seals of folders and of JSON records.

Seals tell whether things are as they were written. They find accidents (a flipped byte, a file cut
short), not forgery: whoever changes a file can change its seal.
"""

import hashlib
import json
import re
import time
import zlib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from repa_base.errors import ChecksumError
from repa_base.progress import Steps

SUMS = "SHA256SUMS"
_LINE = re.compile(r"([0-9a-f]{64}) [ *](.+)")
_CRC = "crc32"
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


def seal_folder(folder: Path) -> None:
    """Write the SHA-256 of each of a folder's files to SHA256SUMS, as `sha256sum -c` reads it."""
    files = sorted(path for path in folder.iterdir() if path.name != SUMS)
    lines = [f"{file_sha256(path)}  {path.name}\n" for path in files]
    (folder / SUMS).write_text("".join(lines), encoding="utf-8")


def check_folder(folder: Path, names: Iterable[str]) -> bool:
    """Check some files of a folder against its SHA256SUMS; return False if it has none.

    Raises:
        ChecksumError: A file is missing, not listed, or not as it was written.
    """
    if not (folder / SUMS).is_file():
        return False
    for name in names:
        if not check_file(folder / name):
            raise ChecksumError(f"{folder / SUMS} does not list {name}")
    return True


def check_file(path: Path) -> bool:
    """Check a file against a SHA256SUMS beside it; return False if none lists it.

    It costs one read of the file, or nothing where this process has its hash already.

    Raises:
        ChecksumError: It is missing, or not as it was written.
    """
    sums = path.parent / SUMS
    lines = sums.read_text("utf-8", errors="replace").splitlines() if sums.is_file() else []
    recorded = {m[2]: m[1] for m in map(_LINE.fullmatch, lines) if m}.get(path.name)
    if recorded is None:
        return False
    if not path.exists():
        raise ChecksumError(f"{path} is missing")
    if file_sha256(path) != recorded:
        raise ChecksumError(f"{path} is not as it was written (see {SUMS} beside it)")
    return True


def sealed(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return a record, to be written as JSON, with a checksum of it."""
    return {**record, _CRC: _crc(record)}


def unsealed(record: Any, *, required: bool = False) -> dict[str, Any]:  # noqa: ANN401
    """Return a record without its checksum.

    Args:
        record: What `sealed` gave, written as JSON and read again.
        required: Whether to refuse a record that has no checksum, which is else returned as it is.

    Raises:
        ValueError: It is no record, has no checksum, or is not as it was written.
    """
    if not isinstance(record, dict):
        raise ValueError("it is no JSON object")
    content = {name: value for name, value in record.items() if name != _CRC}
    if required and _CRC not in record:
        raise ValueError("it has no checksum")
    if _CRC in record and record[_CRC] != _crc(content):
        raise ValueError("it is not as it was written")
    return content


def parse_json(text: str | bytes) -> Any:  # noqa: ANN401
    """Return what a JSON text holds.

    Raises:
        ValueError: It is no JSON, or nested too deeply.
    """
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def _crc(record: Mapping[str, Any]) -> str:
    return f"{zlib.crc32(json.dumps(record, sort_keys=True).encode()):08x}"
