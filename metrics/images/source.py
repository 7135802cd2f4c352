"""What a source of images is, whatever holds them."""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from stat import S_ISREG
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Int64, UInt8

from metrics.errors import InputError
from repa_base.progress import Steps

ImageBatch = UInt8[np.ndarray, "batch height width 3"]
Batches = Iterator[ImageBatch]

_MAX_BATCH_BYTES = 1 << 28
MAX_SIDE = 8192  # pixels; beyond it a file is a mistake or an attack, but for long photographs


@runtime_checkable
class ImageSource(Protocol):
    """Images in a fixed order.

    Attributes:
        name: Where they come from, for messages and reports.
        count: How many they are; at least one.
        shape: (height, width, 3), or None when the images differ in size.
        labels: The class of each image, where the source tells.
        manifest: How the images were made, where the source tells.
    """

    @property
    def name(self) -> str: ...  # noqa: D102
    @property
    def count(self) -> int: ...  # noqa: D102
    @property
    def shape(self) -> tuple[int, int, int] | None: ...  # noqa: D102
    @property
    def labels(self) -> Int64[np.ndarray, " count"] | None: ...  # noqa: D102
    @property
    def manifest(self) -> Mapping[str, Any] | None: ...  # noqa: D102

    def batches(self, batch_size: int, start: int = 0, stop: int | None = None) -> Batches:
        """Yield images `start` to `stop` in batches of at most `batch_size` images of one size."""
        ...

    def sha256(self, progress: Steps | None = None) -> str:
        """Return a hash of the content, which names it in a cache."""
        ...


@dataclass(frozen=True)
class ImagesOfSource:
    """Images of another source, and what they have from it."""

    images: ImageSource

    @property
    def name(self) -> str:
        """The source's."""
        return self.images.name

    @property
    def shape(self) -> tuple[int, int, int] | None:
        """The source's."""
        return self.images.shape

    @property
    def manifest(self) -> Mapping[str, Any] | None:
        """The source's."""
        return self.images.manifest


@dataclass(frozen=True)
class FirstImages(ImagesOfSource):
    """The first images of a source.

    Attributes:
        images: The source.
        count: How many of them.

    Raises:
        InputError: The source has fewer.
    """

    count: int

    def __post_init__(self) -> None:
        if not 1 <= self.count <= self.images.count:
            raise InputError(
                f"{self.name} holds {self.images.count} images, {self.count} were asked for."
            )

    @property
    def labels(self) -> Int64[np.ndarray, " count"] | None:
        """The class of each image."""
        return None if self.images.labels is None else self.images.labels[: self.count]

    def batches(self, batch_size: int, start: int = 0, stop: int | None = None) -> Batches:
        """Yield images `start` to `stop`."""
        stop = checked_range(self.count, batch_size, start, stop)
        return self.images.batches(batch_size, start, stop)

    def sha256(self, progress: Steps | None = None) -> str:
        """Return the hash of the source's and of the number."""
        content = self.images.sha256(progress)
        return hashlib.sha256(f"first {self.count} of {content}".encode()).hexdigest()


def check_file(path: Path) -> None:
    """Check that a path is no pipe, socket or device, reading which may never end.

    Raises:
        InputError: It is one, or a folder.
        FileNotFoundError: There is nothing.
    """
    if not S_ISREG(path.stat().st_mode):
        raise InputError(f"{path} is neither a file nor a folder of images.")


def bounded_batch(batch_size: int, image_bytes: int) -> int:
    """Return how many images of so many bytes to hold at once: at most as many as asked."""
    return min(batch_size, max(1, _MAX_BATCH_BYTES // image_bytes))


def checked_range(count: int, batch_size: int, start: int, stop: int | None) -> int:
    """Return the end of the range, which must lie within the images."""
    stop = count if stop is None else stop
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}.")
    if not 0 <= start <= stop <= count:
        raise ValueError(f"start and stop must lie in [0, {count}] in order, got {start}, {stop}.")
    return stop
