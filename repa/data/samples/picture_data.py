"""Pictures as they lie, in a folder or a zip, as training data: cropped on the way, as pixels."""

import hashlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from repa.autoencoders.latent_space import PIXELS
from repa.data.headers import read_headers
from repa.data.held_out import HeldOutReference
from repa.data.image_set import ImageSet
from repa.data.samples.training_data import AsPixels, with_mirrored
from repa.data.sources import FolderFiles

_NAME_LETTERS = 8
_SECONDS_TO_TELL = 60
_SLOW_BYTES = 1 << 28  # to hash, which takes a second or so
_MOST_BYTES = 1 << 31  # whose content is hashed whole
_SAMPLED = 1000  # pictures whose content is, of more


@dataclass
class PictureData(AsPixels):
    """The pictures of a source, read and cropped to `image_size` whenever they are asked for."""

    pictures: ImageSet
    image_size: int

    def __post_init__(self) -> None:
        self.count, self.num_classes = self.pictures.count, self.pictures.num_classes
        self.input_size, self.in_channels, self.latent_space = self.image_size, 3, PIXELS
        self.reference: HeldOutReference | None = None
        self.in_memory, self.encoders = False, ()
        self.name = f"{self.pictures.name}@{self._short_digest()}"
        given = self.pictures.labels
        self.labels = np.zeros(self.count, np.int64) if given is None else given

    def _short_digest(self) -> str:
        """Return the beginning of a hash of the names, which no registered data set's name has."""
        names = repr((self.pictures.names, self.pictures.class_names))
        return hashlib.sha256(names.encode()).hexdigest()[:_NAME_LETTERS]

    @cached_property
    def identity(self) -> str:
        """SHA-256 of names, classes and contents, the latter of large folders by a sample.

        In zips the content counts by the sizes and checksums of the directory. Of folders of more
        than 2 GiB, all sizes count, and the content of 1,000 pictures or a few more.
        """
        digest = hashlib.sha256(repr(self.pictures.class_names).encode())
        for index, content in enumerate(self._contents()):
            record = self.pictures.names[index], int(self.labels[index]), content
            digest.update(repr(record).encode())
        return digest.hexdigest()

    def images(self, indices: np.ndarray, mirrored: np.ndarray | None = None) -> Tensor:
        """Return the images uint8 (B, H, W, 3)."""
        images = [self.pictures.image(index, self.image_size) for index in indices.tolist()]
        return with_mirrored(torch.from_numpy(np.stack(images)), mirrored)

    def labels_of(self, indices: np.ndarray) -> Tensor:
        """Return the labels int64 (B,)."""
        return torch.from_numpy(self.labels[indices])

    def record(self, on_note: Callable[[str], None]) -> dict[str, Any] | None:
        """Return what a run remembers of the data; large folders are read for it.

        The header of every picture is read before. `on_note` is told what becomes of some of them.

        Raises:
            DataError: Pictures cannot be used; see `repa.data.headers.read_headers`.
        """
        headers = read_headers(self.pictures, self._telling(on_note))
        for note in headers.notes(self.image_size):
            on_note(note)
        if self._sizes is not None and sum(self._sizes) > _SLOW_BYTES:
            on_note(f"reading {self.pictures.name} once, so that a change is noticed.")
        return {
            "identity": self.identity,
            "count": self.count,
            "num_classes": self.num_classes,
            "class_names": list(self.pictures.class_names),
        }

    def _telling(self, on_note: Callable[[str], None]) -> Callable[[float, int], None]:
        """Return what tells, once a minute, how many pictures were looked at."""
        told = time.monotonic()

        def tell(done: float, total: int) -> None:
            nonlocal told
            if time.monotonic() - told > _SECONDS_TO_TELL:
                told = time.monotonic()
                on_note(f"looked at {done:,} of {total:,} pictures of {self.pictures.name}.")

        return tell

    @cached_property
    def _sizes(self) -> list[int] | None:
        """Bytes of each picture's file; None of those in a zip, whose directory tells."""
        files = self.pictures.files
        if not isinstance(files, FolderFiles):
            return None
        return [(files.folder / name).stat().st_size for name in files.names]

    def _contents(self) -> Iterator[object]:
        """Yield of each picture what stands for its content."""
        if self._sizes is None:
            yield from self.pictures.files.places[:, 2:].tolist()  # pyright: ignore
            return
        every = max(1, self.count // _SAMPLED) if sum(self._sizes) > _MOST_BYTES else 1
        for index, size in enumerate(self._sizes):
            whole = index % every == 0
            yield size, hashlib.sha256(self.pictures.read(index)).digest() if whole else None
