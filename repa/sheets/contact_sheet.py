"""Contact sheets: many images on one PNG under their captions, for people to look at.

The texts are drawn in Pillow's own font, which knows Latin letters alone.
"""

import math
from collections.abc import Sequence
from functools import cache
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from repa.errors import RepaError
from repa_base.files import replacing

_GAP, _MARGIN = 4, 4
_SMALLEST_TEXT = 10  # pixels of a letter's height, about
LARGEST_TILE = 512
"""Pixels of the longer side of an image; larger ones are reduced."""
_WIDE_ENOUGH = 128  # pixels of a tile that is widened for its captions' sake
_MIXED = (256, 256)
MAX_PIXELS = 80_000_000
"""Below the size (89 million) from which Pillow takes a picture for an attack."""


class SheetCanvas:
    """A contact sheet whose texts are written and whose images are still to come, in any order.

    Small images are enlarged by a whole factor, pixels staying square; those of more than 512
    pixels are reduced to fit. A caption that is too long runs over the captions behind it in its
    row that are empty, and is then cut.

    Args:
        captions: A text for each image, perhaps of several lines.
        shape: Height and width of all images; None if they differ: then each is fitted into a cell
            of 256 pixels.
        columns: Images in a row.
        min_size: Pixels that the shorter side of an image has at least.
        title: Written above, in as many lines as it needs.

    Raises:
        RepaError: The sheet would be too large to be opened.
    """

    def __init__(
        self,
        captions: Sequence[str],
        shape: tuple[int, int] | None,
        *,
        columns: int = 10,
        min_size: int = 64,
        title: str = "",
    ) -> None:
        self._columns = columns = min(columns, len(captions))
        lines = [[" ".join(line.split()) for line in text.split("\n")] for text in captions]
        self._tile_height, self._tile_width = _tile_size(shape or _MIXED, min_size, lines)
        self._text_size = max(_SMALLEST_TEXT, self._tile_width // 13)
        line_height = self._text_size * 7 // 5
        self._caption_height = line_height * max(map(len, lines))
        rows, title_size = -(-len(captions) // columns), self._text_size * 13 // 10
        width = columns * (self._tile_width + _GAP) + _GAP
        if title:
            width = max(width, 24 * title_size)
        title_lines = _wrapped(title, _font(title_size), width - 2 * _MARGIN)
        self._top = len(title_lines) * title_size * 3 // 2 + (_MARGIN if title_lines else 0)
        size = (width, self._top + rows * self._row_height + _GAP)
        if size[0] * size[1] > MAX_PIXELS:
            much = f"{len(captions):,} images make a sheet of {size[0]:,} x {size[1]:,} pixels"
            raise RepaError(f"{much}, too many for a picture; draw fewer.")
        self.picture = Image.new("RGB", size, "white")
        self._draw = ImageDraw.Draw(self.picture)
        for number, line in enumerate(title_lines):
            place = (_MARGIN, _MARGIN + number * title_size * 3 // 2)
            self._draw.text(place, line, fill="black", font=_font(title_size))
        for number in range(len(lines)):
            self._write(number, lines)

    def put(self, number: int, image: np.ndarray) -> None:
        """Draw an image, uint8 (H, W, 3), in its place."""
        left, top = self._place(number)
        tile, room = Image.fromarray(image), (self._tile_width, self._tile_height)
        factor = min(room[0] // tile.width, room[1] // tile.height)
        if factor:
            tile = tile.resize(
                (tile.width * factor, tile.height * factor), Image.Resampling.NEAREST
            )
        else:
            tile.thumbnail(room, Image.Resampling.LANCZOS, reducing_gap=None)
        left += (room[0] - tile.width) // 2
        self.picture.paste(tile, (left, top + self._caption_height + (room[1] - tile.height) // 2))

    @property
    def _row_height(self) -> int:
        return self._tile_height + self._caption_height + _GAP

    def _place(self, number: int) -> tuple[int, int]:
        """Return left and top of an image's cell, where its caption begins."""
        row, column = divmod(number, self._columns)
        left = _GAP + column * (self._tile_width + _GAP)
        return left, self._top + _GAP + row * self._row_height

    def _write(self, number: int, lines: list[list[str]]) -> None:
        font, (left, top) = _font(self._text_size), self._place(number)
        end = (number // self._columns + 1) * self._columns
        for at, line in enumerate(lines[number]):
            behind = lines[number + 1 : end]
            free = next(
                (n for n, other in enumerate(behind) if any(other[at : at + 1])), len(behind)
            )
            room = (free + 1) * (self._tile_width + _GAP) - _GAP
            place = (left, top + at * self._text_size * 7 // 5)
            self._draw.text(place, _cut(line, font, room), fill="black", font=font)


def contact_sheet(
    images: np.ndarray,
    labels: Sequence[object],
    *,
    columns: int = 10,
    min_size: int = 64,
    title: str = "",
) -> Image.Image:
    """Lay images out row by row on RGB, each under its label, the title above; see `SheetCanvas`.

    The images are uint8 (N, H, W, 3), with N labels.

    Raises:
        ValueError: No images, or not as many labels as images.
        RepaError: The sheet would be too large to be opened.
    """
    if not len(images) or len(images) != len(labels):
        raise ValueError(f"{len(images)} images and {len(labels)} labels make no contact sheet.")
    height, width = images.shape[1:3]
    captions = [str(label) for label in labels]
    sheet = SheetCanvas(captions, (height, width), columns=columns, min_size=min_size, title=title)
    for number, image in enumerate(images):
        sheet.put(number, image)
    return sheet.picture


def stacked_sheets(sheets: Sequence[Image.Image]) -> Image.Image:
    """Set sheets one below another, each with its own title: raw weights under an average, say."""
    width, height = max(s.width for s in sheets), sum(s.height for s in sheets)
    whole = Image.new("RGB", (width, height), "white")
    top = 0
    for sheet in sheets:
        whole.paste(sheet, (0, top))
        top += sheet.height
    return whole


def save_png(image: Image.Image, path: Path, **options: Any) -> None:  # noqa: ANN401
    """Write a PNG that is there whole or not at all; `options` are Pillow's."""
    with replacing(path) as partial:
        image.save(partial, format="PNG", **options)


def _tile_size(shape: tuple[int, int], min_size: int, lines: list[list[str]]) -> tuple[int, int]:
    """Return height and width of an image on the sheet."""
    height, width = shape
    if max(shape) > LARGEST_TILE:
        scale = LARGEST_TILE / max(shape)
        return max(1, round(height * scale)), max(1, round(width * scale))
    # Lines that can run over empty ones behind them need no room of their own.
    crowded = [texts for texts in zip_longest(*lines, fillvalue="") if all(texts)]
    longest = max((text for texts in crowded for text in texts), key=len, default="")
    wanted = min(_font(_SMALLEST_TEXT).getlength(longest), _WIDE_ENOUGH)
    factor = max(-(-min_size // min(shape)), math.ceil(wanted / width))
    factor = max(1, min(factor, LARGEST_TILE // max(shape)))
    return height * factor, width * factor


@cache
def _font(size: int) -> Any:  # noqa: ANN401
    return ImageFont.load_default(size)


def _cut(text: str, font: Any, room: int) -> str:  # noqa: ANN401
    if font.getlength(text) <= room:
        return text
    while text and font.getlength(f"{text}…") > room:
        text = text[:-1]
    return f"{text.rstrip()}…"


def _wrapped(text: str, font: Any, room: int) -> list[str]:  # noqa: ANN401
    """Break a text into lines at its spaces, and a word that is too long anywhere."""
    lines: list[str] = []
    for word in text.split():
        if lines and font.getlength(f"{lines[-1]} {word}") <= room:
            lines[-1] += f" {word}"
            continue
        lines.append("")
        for letter in word:
            if font.getlength(lines[-1] + letter) > room:
                lines.append("")
            lines[-1] += letter
    return lines
