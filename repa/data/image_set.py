"""Pictures with their classes, wherever they lie: what is known of them before one is decoded."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol

import numpy as np

from metrics import InputError
from metrics.images.picture import Picture, PictureForm, decode_content
from repa.data import crop
from repa.data.crop import center_crop
from repa.errors import DataError

Kind = Literal["class folders", "flat folder", "class folders in a zip", "flat zip"]


class Files(Protocol):
    """The files of a set, by their place in it."""

    def title(self, index: int) -> str:
        """Return what messages call the file."""
        ...

    def read(self, index: int) -> bytes:
        """Return the content of a file."""
        ...

    def form(self, index: int) -> PictureForm:
        """Return what a picture is by its header."""
        ...

    def stamp(self, index: int) -> bytes:
        """Return what changes when the file does, without reading it."""
        ...


@dataclass(frozen=True)
class ImageSet:
    """Picture files in the order of their names, and the class of each.

    Attributes:
        name: The folder's or the file's own name, without the path to it.
        kind: What the source is.
        names: Of the pictures, with the folders they lie in, `/` between them.
        labels: int64 (N,) from 0; None where the source knows no classes.
        class_names: By label; empty where classes have numbers alone, or there are none.
        files: Where they are.
        not_taken: How many other files there are, by their suffix.
    """

    name: str
    kind: Kind
    names: tuple[str, ...]
    labels: np.ndarray | None
    class_names: tuple[str, ...]
    files: Files = field(repr=False)
    not_taken: Mapping[str, int] = field(default_factory=dict)

    @property
    def count(self) -> int:
        """Number of pictures."""
        return len(self.names)

    @property
    def num_classes(self) -> int:
        """Number of classes; 1 where the source knows none."""
        if self.labels is None:
            return 1
        return len(self.class_names) or int(self.labels.max()) + 1

    def title(self, index: int) -> str:
        """Return what messages call a picture."""
        return self.files.title(index)

    def read(self, index: int) -> bytes:
        """Return the content of a picture's file.

        Raises:
            DataError: It cannot be read; the message names it.
        """
        try:
            return self.files.read(index)
        except OSError as error:
            raise DataError(f"{self.title(index)} cannot be read: {error.strerror}.") from error

    def form(self, index: int) -> PictureForm:
        """Return what a picture is by its header, which costs little.

        Raises:
            DataError: As for `picture`, but for damage between its header and its end.
        """
        try:
            return self.files.form(index)
        except OSError as error:
            raise DataError(f"{self.title(index)} cannot be read: {error.strerror}.") from error
        except InputError as error:
            raise DataError(str(error)) from error

    def stamp(self, index: int) -> bytes:
        """Return what changes when a picture's file does, without reading it.

        Raises:
            DataError: It is not there any more.
        """
        try:
            return self.files.stamp(index)
        except OSError as error:
            raise DataError(f"{self.title(index)} cannot be read: {error.strerror}.") from error

    def picture(self, index: int) -> Picture:
        """Read and decode a picture.

        Raises:
            DataError: It cannot be read, does not decode, holds several pictures, has more than 8
                bits a channel or is too large; the message names it.
        """
        return decoded(self.read(index), self.title(index))

    def image(self, index: int, image_size: int) -> np.ndarray:
        """Read, decode and crop a picture: uint8 (image_size, image_size, 3).

        Raises:
            DataError: As for `picture` and `center_crop`.
        """
        return cropped(self.picture(index), image_size, self.title(index))


def decoded(content: bytes, title: str) -> Picture:
    """Decode a picture's file, called `title` in messages.

    Raises:
        DataError: As for `ImageSet.picture`.
    """
    try:
        return decode_content(content, title)
    except InputError as error:
        raise DataError(str(error)) from error


def cropped(picture: Picture, image_size: int, title: str) -> np.ndarray:
    """Crop a picture by `center_crop`, whose errors then name it.

    Raises:
        DataError: As for `center_crop`.
    """
    check_sides(picture.pixels, title)
    return center_crop(picture.pixels, image_size)


def check_sides(pixels: np.ndarray, title: str) -> None:
    """Refuse a picture (H, W, 3), called `title`, that `center_crop` would refuse.

    Raises:
        DataError: One side is too long for the other.
    """
    height, width = pixels.shape[:2]
    try:
        crop.check_sides(width, height)
    except DataError as error:
        raise DataError(f"{title} {error}.") from error
