"""A run of sampling: the manifest that says what it makes, and an identity of its own.

Two manifests of the same settings may differ in what belongs to the run that makes the file and
moves no value by more than one grey level: `batch_size`, the images of a block, and `device`, which
it may change before it is finished.
"""

import contextlib
import hashlib
import json
import secrets
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from metrics import ImageSource, InputError, open_images
from repa.generation.sample_files.npz_layout import Member, directory, members_of

MARK_BYTES = 8
_MARKED = 1 << 32  # above the checksum, so that no mark is zero
_COUNT, _BLOCK = "num_images", "batch_size"
_OF_THE_RUN = (_BLOCK, "device")

Manifest = Mapping[str, Any]


@dataclass(frozen=True)
class SampleRun:
    """A run: a random identity, in hexadecimal, and its manifest as JSON text.

    The manifest has `num_images`, `image_size` and `batch_size` among its settings.
    """

    identity: str
    text: str

    @classmethod
    def new(cls, manifest: Manifest) -> "SampleRun":
        """Return a run unlike any other, whatever has been begun with the same manifest."""
        return cls(secrets.token_hex(16), json.dumps(manifest))

    def of(self, manifest: Manifest) -> "SampleRun":
        """Return a run of this identity and block size and of another manifest."""
        return SampleRun(self.identity, json.dumps({**manifest, _BLOCK: self.block_size}))

    @cached_property
    def manifest(self) -> Manifest:
        """The settings that decide the images."""
        return json.loads(self.text)

    @property
    def num_images(self) -> int:
        """How many images it makes."""
        return self.manifest[_COUNT]

    @property
    def block_size(self) -> int:
        """How many images are made at a time, which decides their last digits."""
        return self.manifest[_BLOCK]

    @cached_property
    def members(self) -> tuple[Member, Member, Member]:
        """Where images, labels and manifest stand in the file."""
        return members_of(self.num_images, self.manifest["image_size"], self.text)

    @property
    def file_bytes(self) -> int:
        """Size of the finished file."""
        return self.members[-1].end + len(directory(self.members, [0, 0, 0]))

    @property
    def checksum(self) -> str:
        """Of identity and manifest, in hexadecimal."""
        return hashlib.sha256(f"{self.identity} {self.text}".encode()).hexdigest()

    def mark(self, index: int, image: bytes | memoryview, label: bytes | memoryview) -> bytes:
        """Return what says that this image, of these bytes, is on disk for this run."""
        checksum = zlib.crc32(f"{self.identity} {index} ".encode())
        checksum = zlib.crc32(image, zlib.crc32(label, checksum))
        return (_MARKED | checksum).to_bytes(MARK_BYTES, "little")

    def num_whole(self, count: int) -> int:
        """Return how many of the first `count` images are in blocks without later images."""
        return count // self.block_size * self.block_size


def read_manifest(path: Path) -> Manifest | None:
    """Return the manifest in an NPZ of images, or None when it has none or is no such file."""
    with contextlib.suppress(InputError, OSError):
        return open_images(path).manifest


def same_settings(theirs: object, ours: Manifest) -> bool:
    """Whether two manifests tell of the same images, to within a grey level."""
    return isinstance(theirs, dict) and _decisive(theirs) == _decisive(ours)


def is_beginning(theirs: object, ours: Manifest) -> bool:
    """Whether a manifest tells of the first of our images, in blocks of a size that it tells."""
    if not isinstance(theirs, dict) or not same_settings({**theirs, _COUNT: ours[_COUNT]}, ours):
        return False
    numbers = (theirs.get(_COUNT), theirs.get(_BLOCK))
    return all(type(n) is int and n > 0 for n in numbers) and theirs[_COUNT] < ours[_COUNT]


@dataclass(frozen=True)
class Beginning:
    """A finished file that holds the first images of a longer run, with their labels."""

    manifest: Manifest
    images: ImageSource
    labels: np.ndarray


def open_beginning(path: Path, ours: Manifest) -> Beginning | None:
    """Open a finished file with the first of our images; None if there is no such file."""
    with contextlib.suppress(InputError, OSError):
        images = open_images(path)
        manifest, labels, side = images.manifest, images.labels, ours["image_size"]
        if manifest is None or labels is None or not is_beginning(manifest, ours):
            return None
        if images.count == manifest[_COUNT] and images.shape == (side, side, 3):
            return Beginning(manifest, images, labels)
    return None


def difference(theirs: object, ours: Manifest) -> str:
    """Say how the settings of another file differ from ours."""
    if not isinstance(theirs, dict):
        return "was not made by this command"
    if list(found := _different(theirs, ours)) == [_COUNT]:
        unknown = "" if theirs.get(_BLOCK) else ", in blocks of unknown size"
        there, here = found[_COUNT]
        return f"holds {there} images of these settings, not {here}{unknown}"
    return f"was made by other settings ({differing(theirs, ours)})"


def differing(theirs: Manifest, ours: Manifest) -> str:
    """Name the settings that differ, three at most; empty if none does."""
    found = [
        f"{n} {there} there, {here} here" for n, (there, here) in _different(theirs, ours).items()
    ]
    more = f" and {len(found) - 3} more" if len(found) > 3 else ""
    return ", ".join(found[:3]) + more


def _different(theirs: Manifest, ours: Manifest) -> dict[str, tuple[Any, Any]]:
    """Return by their names the settings that differ, there and here."""
    there, here = (_flat(_decisive(settings)) for settings in (theirs, ours))
    both = {name: (there.get(name), here.get(name)) for name in {**here, **there}}
    return {name: (a, b) for name, (a, b) in both.items() if a != b}


def _decisive(settings: Manifest) -> dict[str, Any]:
    """Return the settings that are not the run's own."""
    return {name: value for name, value in settings.items() if name not in _OF_THE_RUN}


def _flat(settings: Manifest, prefix: str = "") -> dict[str, Any]:
    """Name nested settings by dotted paths."""
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        inner = isinstance(value, dict)
        flat |= _flat(value, f"{prefix}{name}.") if inner else {prefix + name: value}
    return flat
