"""Seals: whether a folder's files, or a record, are as they were written.

They find accidents (a flipped byte, a file cut short), not forgery: whoever changes a file can
change its seal.
"""

import json
import re
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from repa_base.checksums import file_sha256
from repa_base.errors import ChecksumError

SUMS = "SHA256SUMS"
_LINE = re.compile(r"([0-9a-f]{64}) [ *](.+)")
_CRC = "crc32"


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


def unsealed(record: Any) -> dict[str, Any]:  # noqa: ANN401
    """Return a record without its checksum; one without a checksum is returned as it is.

    Raises:
        ValueError: It is no record, or not as it was written.
    """
    if not isinstance(record, dict):
        raise ValueError("it is no JSON object")
    content = {name: value for name, value in record.items() if name != _CRC}
    if _CRC in record and record[_CRC] != _crc(content):
        raise ValueError("it is not as it was written")
    return content


def parse_json(text: str) -> Any:  # noqa: ANN401
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
