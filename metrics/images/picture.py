"""One picture in a file: what it is by its header, and its pixels as uint8 RGB.

Still pictures of the formats that Pillow decodes by itself, without another program. What a file
is, its content says, not its name.
"""

import io
import os
import struct
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, cast

import numpy as np
from jaxtyping import UInt8
from PIL import Image, UnidentifiedImageError

from metrics.errors import InputError
from metrics.images.source import MAX_SIDE
from repa_base.errors import first_line

SUFFIXES = (".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".gif", ".bmp", ".tif", ".tiff")
SUFFIXES += (".ppm", ".pgm", ".pbm", ".pnm")
"""Of the files that are taken for pictures, whatever their case."""

LOSSLESS_WEBP = "lossless WEBP"
"""The format of a WebP file that has lost nothing."""

_FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM")
_TAIL = 64  # bytes that are searched for a picture's end
# What Pillow raises on damage; its warnings come as errors where warnings are errors.
_DAMAGE = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    LookupError,
    ArithmeticError,
    RuntimeError,
    EOFError,
    MemoryError,
    struct.error,
    Image.DecompressionBombError,
    Warning,
)


_TRANSPARENT = ("RGBA", "LA", "PA", "RGBa", "La")
_GREYS_AND_INKS = ("1", "L", "LA", "La", "P", "PA", "CMYK", "YCbCr", "LAB", "HSV")
_ORIENTATION, _TURNED = 0x0112, range(2, 9)  # of EXIF

# Pillow warns of damaged EXIF as it opens a picture, and no pixel depends on that. A filter for the
# length of a call would change what other threads warn of.
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.TiffImagePlugin")


@dataclass(frozen=True)
class PictureForm:
    """What a picture is, and is no more when it is decoded.

    Attributes:
        size: Height and width in pixels.
        format: By Pillow's name.
        was_transparent: Whether it has transparency, which is dropped.
        was_other_colours: Whether it is grey, of a palette or of inks, which become RGB.
        is_turned: Whether its EXIF asks to turn or mirror it, which is not done.
    """

    size: tuple[int, int]
    format: str
    was_transparent: bool = False
    was_other_colours: bool = False
    is_turned: bool = False


@dataclass(frozen=True)
class Picture(PictureForm):
    """A decoded picture, RGB; what became of what it was before is for the reader to say."""

    pixels: UInt8[np.ndarray, "height width 3"] = field(kw_only=True)


def read_form(path: Path) -> PictureForm:
    """Read a picture's header; one that may be cut short, for all that its end tells, is decoded.

    EXIF that stands behind a PNG's pixels is not seen.

    Raises:
        InputError: The file cannot be read, is damaged, holds several pictures or more than 8 bits
            a channel, or is too large.
    """
    try:
        stream = path.open("rb")
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}.") from error
    with stream:
        return read_open_form(stream, str(path))


def read_open_form(stream: io.BufferedIOBase, name: str) -> PictureForm:
    """Read as `read_form` does the picture in an open file, called `name`.

    Raises:
        InputError: As for `read_form`.
    """
    form = read_content_form(stream, name)
    stream.seek(0)
    head, length = stream.read(16), stream.seek(0, os.SEEK_END)
    stream.seek(max(0, length - _TAIL))
    tail = stream.read()
    if form.format == "WEBP" and head.endswith(b"VP8L"):
        form = replace(form, format=LOSSLESS_WEBP)
    if not _has_its_end(head, length, tail):
        with _opened(stream, name) as picture:
            height, width, _ = _as_rgb(picture).shape
        form = replace(form, size=(height, width))
    return form


def read_content_form(content: io.BufferedIOBase, name: str) -> PictureForm:
    """Read the header of a picture in an open file, called `name`; its end is not looked at.

    Raises:
        InputError: As for `read_form`, but for what is cut short.
    """
    with _opened(content, name) as picture:
        return _form_of(picture, name)


def _form_of(picture: Image.Image, name: str) -> PictureForm:
    form = picture.format or ""
    if form == "MPO":  # a JPEG file that carries others, such as a preview, behind the picture
        form = "JPEG"
    elif getattr(picture, "is_animated", False):
        raise InputError(_several(name))
    alpha = picture.mode in _TRANSPARENT or "transparency" in picture.info
    size, other_colours = (picture.height, picture.width), picture.mode in _GREYS_AND_INKS
    # Of a PNG, getexif would decode the pixels, to look for EXIF behind them.
    if form == "PNG" and "exif" not in picture.info:
        return PictureForm(size, form, alpha, other_colours)
    return PictureForm(size, form, alpha, other_colours, _is_turned(picture))


def _is_turned(picture: Image.Image) -> bool:
    try:
        return picture.getexif().get(_ORIENTATION) in _TURNED
    except _DAMAGE:  # of the EXIF alone
        return False


def decode_content(content: bytes, name: str) -> Picture:
    """Decode the content of a picture's file; refuses what `read_form` refuses.

    Raises:
        InputError: As `read_form`; the message begins with `name`.
    """
    with _opened(io.BytesIO(content), name) as picture:
        form = _form_of(picture, name)
        pixels = _as_rgb(picture)
        told = {**vars(form), "is_turned": _is_turned(picture)}
    return Picture(**told, pixels=pixels)


def decode(path: Path) -> UInt8[np.ndarray, "height width 3"]:
    """Return a picture's pixels: grey, palette and CMYK become RGB, transparency is dropped.

    Raises:
        InputError: As for `read_form`, but for several pictures, of which the first is returned.
    """
    with _opened(path, path) as picture:
        return _as_rgb(picture)


def _as_rgb(picture: Image.Image) -> UInt8[np.ndarray, "height width 3"]:
    # a palette with transparency goes through RGBA, or Pillow warns
    whole = picture.convert("RGBA") if "transparency" in picture.info else picture
    return np.array(whole.convert("RGB"))


def _several(name: object) -> str:
    return f"{name} holds several pictures; save those that count as one PNG each."


def _has_its_end(head: bytes, length: int, tail: bytes) -> bool:
    """Whether a picture ends as its format says; False where the format has no such end."""
    if head.startswith(b"RIFF"):  # WebP
        return int.from_bytes(head[4:8], "little") + 8 <= length
    if head.startswith(b"\x89PNG"):
        return b"IEND" in tail
    return head.startswith(b"\xff\xd8") and b"\xff\xd9" in tail  # JPEG


@contextmanager
def _opened(file: Path | io.BufferedIOBase, name: object) -> Iterator[Image.Image]:
    """Open a picture whose header is acceptable; what goes wrong in the block is the file's fault.

    Its pixels are not read yet; errors begin with `name`.
    """
    try:
        # Pillow knows other formats too, and starts another program for some of them.
        with Image.open(cast("Path | IO[bytes]", file), formats=_FORMATS) as picture:
            _check(name, picture)
            yield picture
    except InputError:
        raise
    except UnidentifiedImageError as error:
        kinds = ", ".join(_FORMATS)
        raise InputError(
            f"{name} is not a readable image: none of {kinds} by its content."
        ) from error
    except _DAMAGE as error:
        if isinstance(error, OSError) and error.filename is not None:
            raise InputError(f"{name} cannot be read: {error.strerror}.") from error
        raise InputError(f"{name} is not a readable image: {first_line(error)}.") from error


def _check(name: object, picture: Image.Image) -> None:
    width, height = picture.size
    if max(width, height) > 2 * MAX_SIDE or width * height > MAX_SIDE**2:
        most = f"a side may have {2 * MAX_SIDE} pixels at most, and all {MAX_SIDE**2:,}"
        raise InputError(f"{name} is {picture.size}; {most}.")
    # Pillow opens some pictures of 16 bits as of 8; what it gives the decoder tells: "RGB;16B" of
    # a PNG or TIFF, the greatest value of a PPM. A BMP's "BGR;16" has 16 bits a pixel.
    given = [tile[3] for tile in getattr(picture, "tile", ())]
    match picture.format:
        case "BMP":
            deep = False
        case "PPM":
            deep = any(isinstance(each, tuple) and int(each[1]) > 255 for each in given)
        case _:
            deep = any(";16" in str(each) for each in given)
    if deep or picture.mode.startswith(("I", "F")):
        raise InputError(f"{name} has more than 8 bits a channel; save it with 8.")
