"""Picture files as a source of images, whatever holds them: a folder or a zip."""

import json
import operator
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path, PurePath
from typing import Any, TypeVar

import numpy as np
from jaxtyping import Int64

from metrics.errors import InputError
from metrics.images.picture import SUFFIXES, PictureForm
from metrics.images.source import Batches, bounded_batch, checked_range
from repa_base.progress import Steps

Name = TypeVar("Name", str, Path)

LABELS = "dataset.json"
"""The file of a prepared data set that tells the classes of its pictures."""
_NAMED_KINDS = 5  # suffixes that are named, of files that are not taken


@dataclass(frozen=True, kw_only=True)
class PictureFiles(ABC):
    """Picture files, decoded as they are needed, by several threads.

    Attributes:
        shape: (height, width, 3), or None when they differ in size.
        labels: The class of each, where `dataset.json` tells.
        largest_bytes: Of the largest as RGB.
        formats: Of each file, by Pillow's name.
        not_taken: Other files beside them by their suffix.
    """

    shape: tuple[int, int, int] | None
    labels: Int64[np.ndarray, " count"] | None = None
    largest_bytes: int = 1
    formats: tuple[str, ...] = ()
    not_taken: Mapping[str, int] = field(default_factory=dict)
    manifest: None = field(default=None, init=False)

    @property
    @abstractmethod
    def name(self) -> str:
        """What holds them."""

    @property
    @abstractmethod
    def count(self) -> int:
        """Number of images."""

    @abstractmethod
    def sha256(self, progress: Steps | None = None) -> str:
        """Return a hash of the content."""

    @abstractmethod
    def decoded(self, index: int) -> np.ndarray:
        """Return one image, uint8 (height, width, 3).

        Raises:
            InputError: Its file is damaged.
        """

    def batches(self, batch_size: int, start: int = 0, stop: int | None = None) -> Batches:
        """Yield images `start` to `stop` as RGB; a batch ends early where the size changes.

        Grey, palette and CMYK images become RGB and transparency is dropped. Batches of very large
        images are smaller than asked.

        Raises:
            InputError: A file is damaged.
        """
        stop = checked_range(self.count, batch_size, start, stop)
        return self._batches(range(start, stop), bounded_batch(batch_size, self.largest_bytes))

    def _batches(self, indices: range, batch_size: int) -> Batches:
        with ThreadPoolExecutor() as threads:
            for first in range(0, len(indices), batch_size):
                decoded = threads.map(self.decoded, indices[first : first + batch_size])
                for _, images in groupby(decoded, key=lambda i: i.shape):
                    yield np.stack(list(images))


def split_pictures(files: Iterable[Name], holder: Path) -> tuple[list[Name], dict[str, int]]:
    """Return the files that are pictures by their suffix, and how many others of which suffix.

    Raises:
        InputError: `holder` holds no pictures.
    """
    pictures, others = [], Counter()
    for file in files:
        suffix = PurePath(file).suffix.lower()
        if suffix in SUFFIXES:
            pictures.append(file)
        else:
            others[suffix] += 1
    if not pictures:
        beside = f"; {described_not_taken(others)}" if others else ""
        raise InputError(f"{holder} holds no images ({', '.join(SUFFIXES)}){beside}.")
    return pictures, dict(others)


def described_forms(forms: Sequence[PictureForm]) -> dict[str, Any]:
    """Return what `PictureFiles` tells of pictures of these forms."""
    sizes = {form.size for form in forms}
    return {
        "shape": (*next(iter(sizes)), 3) if len(sizes) == 1 else None,
        "largest_bytes": max(height * width * 3 for height, width in sizes),
        "formats": tuple(form.format for form in forms),
    }


def described_not_taken(not_taken: Mapping[str, int]) -> str:
    """Say how many files of which kinds were not taken, the most frequent first."""
    kinds = sorted(not_taken.items(), key=lambda kind: (-kind[1], kind[0]))
    parts = [f"{count} {suffix or 'without a suffix'}" for suffix, count in kinds[:_NAMED_KINDS]]
    rest = sum(count for _, count in kinds[_NAMED_KINDS:])
    parts += [f"{rest} of other kinds"] if rest else []
    total = sum(not_taken.values())
    said = "1 file was" if total == 1 else f"{total} files were"
    return f"{said} not taken: {', '.join(parts)}"


def is_hidden(name: str) -> bool:
    """Whether a file or folder of this name is left out."""
    return name.startswith(".") or name == "__MACOSX"


def read_labels(
    content: bytes, file: str, names: Sequence[str]
) -> Int64[np.ndarray, " count"] | None:
    """Return the classes of pictures by what a `dataset.json`, called `file`, holds; None if none.

    Raises:
        InputError: It is unreadable, or leaves a picture out.
    """
    try:
        pairs = json.loads(content)["labels"] or ()
        labels = {str(name): np.int64(operator.index(label)) for name, label in pairs}
    except (ValueError, TypeError, LookupError, OverflowError, RecursionError) as error:
        raise InputError(
            f'{file} must hold {{"labels": [[file, class], ...]}}, but cannot be read: {error!r}.'
        ) from error
    absent = next((name for name in names if name not in labels), None)
    if labels and absent is not None:
        raise InputError(f"{file} names no class for {absent}; complete it or remove it.")
    return np.array([labels[name] for name in names], np.int64) if labels else None
