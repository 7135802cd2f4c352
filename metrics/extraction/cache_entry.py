"""One entry of the feature cache: a folder that is written, checked, opened and removed.

`entry.json` says what the features are of and holds the SHA-256 of the other files, and its own. It
is written last and removed first, so that a folder without it is no entry.
"""

import json
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from metrics.errors import InputError
from metrics.extraction.feature_files import KINDS, FeatureFiles
from metrics.formulas.statistics import ReferenceStatistics
from metrics.images.inspection import ImageFindings
from metrics.images.npz import open_npz
from repa_base.checksums import file_sha256, parse_json, sealed, unsealed
from repa_base.errors import first_line
from repa_base.files import to_disk

FORMAT = 2
"""To be raised when the files, or what a network computes, change in meaning."""

_ENTRY, _STATISTICS = "entry.json", "statistics.npz"
_FILES = (_ENTRY, _STATISTICS, *(f"{kind}.npy" for kind in KINDS))


@dataclass(frozen=True)
class FeatureKey:
    """What decides features; `content` and `weights` are the SHA-256 of images and weights."""

    content: str
    network: str
    weights: str
    preprocessing: str


@dataclass(frozen=True, eq=False)
class StoredFeatures:
    """What is kept of images that a network has measured; in a cache, a complete entry."""

    content_sha256: str
    files: FeatureFiles
    statistics: ReferenceStatistics
    findings: ImageFindings
    digests: np.ndarray
    """Of the images, as `ImageInspector.digests` gives them."""


@dataclass(frozen=True)
class CacheEntry:
    """What a cache says of an entry.

    Attributes:
        source: Where the images came from; None where the entry is damaged, unfinished or an
            earlier version's.
        count: How many they are.
        network: Name of the network.
        num_bytes: Size on disk.
        made: When it was made, in seconds since 1970.
        used: When it was made or last used, likewise.
        path: Its folder.
    """

    source: str | None
    count: int
    network: str
    num_bytes: int
    made: float
    used: float
    path: Path


def write_entry(
    folder: Path,
    key: FeatureKey,
    source: str,
    widths: Mapping[str, int],
    statistics: ReferenceStatistics,
    findings: ImageFindings,
    digests: np.ndarray,
) -> None:
    """Complete a folder whose feature files are filled and on disk.

    Raises:
        OSError: The disk is full.
    """
    arrays: dict[str, Any] = statistics.to_arrays() | {"digests": digests}
    with (folder / _STATISTICS).open("xb") as file:
        np.savez(file, **arrays)
    to_disk(folder / _STATISTICS)
    names = (_STATISTICS, *(f"{kind}.npy" for kind in widths))
    entry = {
        "format": FORMAT,
        "key": asdict(key),
        "source": source,
        "widths": dict(widths),
        "made": time.time(),
        "findings": findings.to_dict(),
        "sha256": {name: file_sha256(folder / name) for name in names},
    }
    (folder / _ENTRY).write_text(json.dumps(sealed(entry)), encoding="utf-8")
    to_disk(folder / _ENTRY)


def open_entry(folder: Path, key: FeatureKey, *, check: bool = True) -> StoredFeatures:
    """Open an entry; removing it later does not take from its reader what is open.

    Args:
        folder: Where it is.
        key: What it must be of.
        check: Whether to compare all files with their checksums, which reads them once.

    Raises:
        InputError: A file is missing, unreadable or not as it was written; the message names it.
    """
    entry = _read_entry(folder, key)
    for name, recorded in entry["sha256"].items():
        with _naming(folder / name):
            _check_kind(folder / name)
            if check and file_sha256(folder / name) != recorded:
                raise ValueError("it is not as it was written")
    with _naming(folder):
        arrays = {name: array.read() for name, array in open_npz(folder / _STATISTICS).items()}
        findings = ImageFindings.from_dict(entry["findings"])
        return StoredFeatures(
            content_sha256=key.content,
            files=FeatureFiles.open(folder, findings.count, entry["widths"]),
            statistics=ReferenceStatistics.from_arrays(arrays),
            findings=findings,
            digests=arrays["digests"],
        )


def mark_used(folder: Path) -> None:
    """Note that an entry is used now, where that can be noted."""
    with suppress(OSError):
        os.utime(folder / _ENTRY)


def describe_entry(folder: Path) -> CacheEntry:
    """Say what is in a folder, complete or not.

    Raises:
        FileNotFoundError: Another process is removing it.
    """
    num_bytes = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    try:
        entry = _read_entry(folder)
        what = entry["source"], entry["findings"]["count"], entry["key"]["network"]
        used = (folder / _ENTRY).stat().st_mtime
        return CacheEntry(*what, num_bytes, entry["made"], used, folder)
    except (OSError, InputError, LookupError, TypeError):
        changed = folder.stat().st_mtime
        return CacheEntry(None, 0, "", num_bytes, changed, changed, folder)


def move_entry(partial: Path, folder: Path) -> None:
    """Bring a completed entry to its folder, which may hold files of others."""
    folder.mkdir(exist_ok=True)
    remove_entry(folder, keep_folder=True)
    for name in reversed(_FILES):
        if (partial / name).exists():
            (partial / name).replace(folder / name)
    to_disk(folder)


def holds_entry(folder: Path) -> bool:
    """Whether any file of an entry is in a folder, complete or not."""
    return any((folder / name).exists() for name in _FILES)


def remove_entry(folder: Path, *, keep_folder: bool = False) -> None:
    """Remove an entry's files, and the folder if nothing else is in it."""
    for path in (folder / name for name in _FILES):
        if not path.is_dir() or path.is_symlink():  # a folder of that name is not ours
            path.unlink(missing_ok=True)
    if not keep_folder:
        with suppress(OSError):
            folder.rmdir()


def _read_entry(folder: Path, key: FeatureKey | None = None) -> dict[str, Any]:
    with _naming(folder / _ENTRY):
        _check_kind(folder / _ENTRY)
        entry = unsealed(parse_json((folder / _ENTRY).read_bytes()), required=True)
        if entry["format"] != FORMAT or (key is not None and entry["key"] != asdict(key)):
            raise ValueError("it is another entry's, or another version's")
    return entry


def _check_kind(path: Path) -> None:
    """Refuse what is no file before it is opened: opening a FIFO would wait for ever."""
    if not path.is_file():
        raise ValueError("it is no file" if path.exists() else "it is not there")


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Turn what a damaged entry raises into one line that names the file."""
    try:
        yield
    except InputError:
        raise
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        reason = getattr(error, "strerror", None) or first_line(error)
        raise InputError(f"{path}: {reason}") from error
