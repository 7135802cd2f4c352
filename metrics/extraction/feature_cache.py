"""Features and statistics of images on disk, found again by what they were made from.

A key is the images' content, the network, its weights and its preprocessing. Left out is what
moves only the last digits: batch size, device, compilation. An entry is filled in a hidden folder
of its own and gets its name when it is complete, so a killed run leaves nothing that could be
mistaken for one, and of several processes that make the same entry the first to finish wins. Every
byte of an entry is compared with its checksum before it is used; an entry that differs is named,
removed and made anew.
"""

import hashlib
import json
import re
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from dataclasses import astuple
from pathlib import Path

import numpy as np

from metrics.errors import InputError
from metrics.extraction.cache_entry import (
    FORMAT,
    CacheEntry,
    FeatureKey,
    StoredFeatures,
    describe_entry,
    holds_entry,
    mark_used,
    move_entry,
    open_entry,
    remove_entry,
    write_entry,
)
from metrics.extraction.feature_files import (
    feature_bytes,
    feature_widths,
    make_feature_files,
    writing,
)
from metrics.formulas.statistics import ReferenceStatistics
from metrics.images.content_hash import content_sha256
from metrics.images.inspection import ImageFindings
from metrics.images.source import ImageSource
from metrics.networks.network import MetricNetwork
from repa_base.locks import locked
from repa_base.progress import Progress, steps_of
from repa_base.workplace import is_workplace, remove_leftovers, workplace

_HASHES = "hashes.json"
# Entries, and what killed runs of earlier versions left.
_ENTRY_NAME = re.compile(r"[0-9a-f]{32}|\.partial-[0-9a-f]{16}")
_IN_USE_SECONDS = 60
"""An entry used so lately stays: another process may be opening it, and then no longer needs it."""


class FeatureCache:
    """A folder of features. Instances of it in several processes may use the same folder.

    Args:
        folder: Made when the first entry is.
        read_only: Whether `measure` makes no entries, and only uses those that are there.
        limit: Bytes that all entries may take; before another is made, those that have not been
            used for the longest time are removed. What this instance has used stays, as does what
            any process has used within the last minute, even if that is more. None for no limit.
        on_damage: Is told of every entry that was damaged, in one line that names its file.
    """

    def __init__(
        self,
        folder: Path,
        *,
        read_only: bool = False,
        limit: int | None = None,
        on_damage: Callable[[str], object] | None = None,
    ) -> None:
        self.folder, self.read_only, self.limit = folder, read_only, limit
        self._on_damage = on_damage or (lambda reason: None)
        self._used: set[Path] = set()

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

    def find(self, key: FeatureKey, *, check: bool = True) -> StoredFeatures | None:
        """Open an entry; None if it is not there, or was damaged, which `on_damage` is told.

        Args:
            key: What the features are of.
            check: Whether to compare its bytes with their checksums; of several processes that
                open it at once, one needs to.
        """
        folder = self._folder_of(key)
        for last in (False, True):
            if not folder.is_dir():
                return None
            # Entries come and go under the lock: what fails without it may have been on its way.
            with locked(self.folder) if last else nullcontext():
                try:
                    found = open_entry(folder, key, check=check)
                except InputError as error:
                    if last and holds_entry(folder):
                        self._drop(folder, error)
                    continue
            self._used.add(folder)
            if not self.read_only:
                mark_used(folder)
            return found
        return None

    @contextmanager
    def making(
        self, key: FeatureKey, images: ImageSource, network: MetricNetwork
    ) -> Iterator[Path]:
        """Make a hidden folder with unfilled feature files, which only `finish` makes an entry.

        Room is made for it within the limit. It is removed after the block or, if this process is
        killed, by the next one that makes an entry.

        Raises:
            CacheError: The folder cannot be written, or the disk has no room.
        """
        widths = feature_widths(network)
        with ExitStack() as stack:
            with writing(self.folder):
                self.folder.mkdir(parents=True, exist_ok=True)
                covariances = 8 * (network.pool_dim**2 + network.spatial_dim**2)
                self._make_room(feature_bytes(images.count, widths) + covariances)
                partial = stack.enter_context(workplace(self._folder_of(key)))
                make_feature_files(partial, images.count, widths)
            yield partial

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
        with writing(self.folder):
            folder, widths = self._folder_of(key), feature_widths(network)
            write_entry(partial, key, images.name, widths, statistics, findings, digests)
            with locked(self.folder):
                if not _is_whole(folder, key):
                    move_entry(partial, folder)
                mark_used(folder)

    def entries(self) -> list[CacheEntry]:
        """Return what is there, the newest first, unfinished folders included."""
        found = []
        for folder in self._own_folders():
            with suppress(FileNotFoundError):  # another process has removed it meanwhile
                found.append(describe_entry(folder))
        return sorted(found, key=lambda entry: -entry.made)

    def clear(self) -> list[CacheEntry]:
        """Remove all entries, and folders that no living process fills; return what was removed.

        Files that are not the cache's are left alone, with their folders.
        """
        before = self.entries()
        if self.folder.is_dir():
            with locked(self.folder):
                remove_leftovers(self.folder)
                for entry in before:
                    if not is_workplace(entry.path):
                        remove_entry(entry.path)
        (self.folder / _HASHES).unlink(missing_ok=True)
        return [entry for entry in before if not entry.path.exists()]

    def _make_room(self, needed: int) -> None:
        """Remove what killed processes left and, to keep the limit, what was used longest ago."""
        with locked(self.folder):
            remove_leftovers(self.folder)
            entries = sorted(self.entries(), key=lambda entry: entry.used)
            excess = sum(entry.num_bytes for entry in entries) + needed - (self.limit or 0)
            for entry in entries if self.limit is not None else ():
                free = not is_workplace(entry.path) and entry.path not in self._used
                if excess > 0 and free and time.time() - entry.used > _IN_USE_SECONDS:
                    remove_entry(entry.path)
                    excess -= entry.num_bytes

    def _drop(self, folder: Path, error: InputError) -> None:
        self._on_damage(str(error))
        if not self.read_only:
            with suppress(OSError):  # who makes it anew will meet that, and say so
                remove_entry(folder)

    def _folder_of(self, key: FeatureKey) -> Path:
        text = json.dumps([FORMAT, *astuple(key)])
        return self.folder / hashlib.sha256(text.encode()).hexdigest()[:32]

    def _own_folders(self) -> list[Path]:
        if not self.folder.is_dir():
            return []
        return [path for path in self.folder.iterdir() if _is_own(path) and path.is_dir()]


def _is_own(path: Path) -> bool:
    """Whether a folder is called like an entry, or like one in the making."""
    name = path.name.split(".")[1] if is_workplace(path) else path.name
    return _ENTRY_NAME.fullmatch(name) is not None


def _is_whole(folder: Path, key: FeatureKey) -> bool:
    try:
        open_entry(folder, key)
    except InputError:
        return False
    return True
