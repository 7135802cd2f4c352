"""Features and statistics of images on disk, found again by what they were made from.

A key is the images' content, the network, its weights and its preprocessing. Left out is what
moves only the last digits: batch size, device, compilation. An entry is filled in a folder of its
own and renamed when it is complete, so a killed run leaves nothing that could be mistaken for one,
and of several processes that make the same entry the first to finish wins. An entry with a file
that is missing, of another size or unreadable is made anew.
"""

import hashlib
import json
import os
import re
import secrets
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from metrics.extraction.feature_files import (
    KINDS,
    FeatureFiles,
    feature_widths,
    make_feature_files,
    writing,
)
from metrics.formulas.statistics import ReferenceStatistics
from metrics.images.content_hash import content_sha256
from metrics.images.inspection import ImageFindings
from metrics.images.npz import open_npz
from metrics.images.source import ImageSource
from metrics.networks.network import MetricNetwork
from repa_base.files import to_disk
from repa_base.locks import lock_if_free, locked
from repa_base.progress import Progress, steps_of

_FORMAT = 1
"""To be raised when the files, or what a network computes, change in meaning."""

_ENTRY, _STATISTICS, _HASHES = "entry.json", "statistics.npz", "hashes.json"
_FILES = (*(f"{kind}.npy" for kind in KINDS), _STATISTICS, _ENTRY)
_NAME = re.compile(r"[0-9a-f]{32}")
_PARTIAL = ".partial-"


@dataclass(frozen=True)
class FeatureKey:
    """What decides features; `content` and `weights` are the SHA-256 of images and weights."""

    content: str
    network: str
    weights: str
    preprocessing: str

    @property
    def name(self) -> str:
        """The entry's folder."""
        text = json.dumps([_FORMAT, *asdict(self).values()])
        return hashlib.sha256(text.encode()).hexdigest()[:32]


@dataclass(frozen=True, eq=False)
class StoredFeatures:
    """What is kept of images that a network has measured; in a cache, a complete entry."""

    content_sha256: str
    files: FeatureFiles
    statistics: ReferenceStatistics
    findings: ImageFindings
    digests: np.ndarray | None = None
    """Of the images, as `ImageInspector.digests` gives them; None if an earlier version made it."""


@dataclass(frozen=True)
class CacheEntry:
    """What a cache says of an entry.

    Attributes:
        source: Where the images came from; None where the entry is damaged or unfinished.
        count: How many they are.
        network: Name of the network.
        num_bytes: Size on disk.
        made: When it was made, in seconds since 1970.
        path: Its folder.
    """

    source: str | None
    count: int
    network: str
    num_bytes: int
    made: float
    path: Path


class FeatureCache:
    """A folder of features. Instances of it in several processes may use the same folder.

    Args:
        folder: Made when the first entry is.
        read_only: Whether `measure` makes no entries, and only uses those that are there.
    """

    def __init__(self, folder: Path, *, read_only: bool = False) -> None:
        self.folder, self.read_only = folder, read_only
        self._locks: dict[Path, int] = {}

    def key(
        self, images: ImageSource, network: MetricNetwork, progress: Progress | None = None
    ) -> FeatureKey:
        """Return the key of the images' features; hashes the images if they are not known yet.

        Raises:
            InputError: The source is damaged.
        """
        steps = steps_of(progress, f"hash of {images.name}")
        content = content_sha256(images, self.folder / _HASHES, steps)
        return FeatureKey(content, network.name, network.weights_sha256, network.preprocessing)

    def find(self, key: FeatureKey) -> StoredFeatures | None:
        """Open an entry; None if it is not there or is damaged."""
        folder = self.folder / key.name
        try:
            entry = json.loads((folder / _ENTRY).read_bytes())
            arrays = {name: array.read() for name, array in open_npz(folder / _STATISTICS).items()}
            return StoredFeatures(
                content_sha256=key.content,
                files=FeatureFiles.open(folder, entry["count"], entry["widths"]),
                statistics=ReferenceStatistics.from_arrays(arrays),
                findings=ImageFindings.from_dict(entry["findings"]),
                digests=arrays.get("digests"),
            )
        except (OSError, ValueError, LookupError, TypeError, AttributeError):
            return None

    def begin(self, images: ImageSource, network: MetricNetwork) -> Path:
        """Make a folder with unfilled feature files, which only `finish` makes an entry.

        It is locked until `finish` or `discard`, or until this process ends, however it ends; what
        dead processes have left is removed first.

        Raises:
            CacheError: The folder cannot be written, or the disk has no room.
        """
        with writing(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            with locked(self.folder):
                self._sweep()
                partial = self.folder / f"{_PARTIAL}{secrets.token_hex(8)}"
                partial.mkdir()
                self._locks[partial] = descriptor = os.open(partial, os.O_RDONLY)
                lock_if_free(descriptor, partial)
        try:
            with writing(self.folder):
                make_feature_files(partial, images.count, feature_widths(network))
        except BaseException:
            self.discard(partial)
            raise
        return partial

    def finish(
        self,
        partial: Path,
        key: FeatureKey,
        images: ImageSource,
        network: MetricNetwork,
        statistics: ReferenceStatistics,
        findings: ImageFindings,
        digests: np.ndarray,
    ) -> None:
        """Make an entry of a folder whose feature files are filled.

        Raises:
            CacheError: The disk is full.
        """
        entry = {
            "format": _FORMAT,
            "key": asdict(key),
            "source": images.name,
            "count": images.count,
            "widths": feature_widths(network),
            "made": time.time(),
            "findings": findings.to_dict(),
        }
        with writing(self.folder):
            with (partial / _STATISTICS).open("xb") as file:
                arrays: dict[str, Any] = statistics.to_arrays() | {"digests": digests}
                np.savez(file, **arrays)
            (partial / _ENTRY).write_text(json.dumps(entry), encoding="utf-8")
            for name in (_STATISTICS, _ENTRY):
                to_disk(partial / name)
            self._publish(partial, key)

    def discard(self, partial: Path) -> None:
        """Remove an unfinished folder; does nothing if it has been finished."""
        descriptor = self._locks.pop(partial, -1)
        _remove(partial)
        if descriptor >= 0:
            os.close(descriptor)

    def entries(self) -> list[CacheEntry]:
        """Return what is there, the newest first, unfinished folders included."""
        found = []
        for folder in self._own_folders():
            with suppress(FileNotFoundError):  # another process has removed it meanwhile
                found.append(_described(folder))
        return sorted(found, key=lambda entry: -entry.made)

    def clear(self) -> list[CacheEntry]:
        """Remove all entries, and folders that no living process fills; return what was removed.

        Files that are not the cache's are left alone, with their folders.
        """
        before = self.entries()
        if self.folder.is_dir():
            with locked(self.folder):
                self._sweep()
            for folder in self._own_folders():
                if not folder.name.startswith(_PARTIAL):
                    _remove(folder)
        (self.folder / _HASHES).unlink(missing_ok=True)
        return [entry for entry in before if not entry.path.exists()]

    def _publish(self, partial: Path, key: FeatureKey) -> None:
        target = self.folder / key.name
        with locked(self.folder):
            if target.exists() and self.find(key) is None:
                aside = self.folder / f"{_PARTIAL}{secrets.token_hex(8)}"
                target.rename(aside)  # it may hold files that are not ours to remove
                _remove(aside)
            if not target.exists():
                partial.rename(target)
        self.discard(partial)

    def _own_folders(self) -> list[Path]:
        if not self.folder.is_dir():
            return []
        return [
            path
            for path in self.folder.iterdir()
            if path.is_dir() and (_NAME.fullmatch(path.name) or path.name.startswith(_PARTIAL))
        ]

    def _sweep(self) -> None:
        for partial in self.folder.glob(f"{_PARTIAL}*"):
            descriptor = os.open(partial, os.O_RDONLY)
            try:
                if partial not in self._locks and lock_if_free(descriptor, partial):
                    _remove(partial)
            finally:
                os.close(descriptor)


def _described(folder: Path) -> CacheEntry:
    num_bytes = sum(path.stat().st_size for path in folder.iterdir() if path.is_file())
    try:
        entry: dict[str, Any] = json.loads((folder / _ENTRY).read_bytes())
        what = str(entry["source"]), int(entry["count"]), str(entry["key"]["network"])
        return CacheEntry(*what, num_bytes, float(entry["made"]), folder)
    except (OSError, ValueError, LookupError, TypeError):
        return CacheEntry(None, 0, "", num_bytes, folder.stat().st_mtime, folder)


def _remove(folder: Path) -> None:
    """Remove our own files, and the folder if nothing else is in it."""
    for name in _FILES:
        (folder / name).unlink(missing_ok=True)
    with suppress(OSError):
        folder.rmdir()
