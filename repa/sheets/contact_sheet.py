"""Contact sheets: many small images on one PNG, each under its label, for people to look at."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from repa_base.files import replacing

_GAP = 4
_CAPTION = 14


def contact_sheet(
    images: np.ndarray, labels: Sequence[int], *, columns: int = 10, min_size: int = 64
) -> Image.Image:
    """Lay images out row by row on RGB, of at least `min_size` pixels, each under its label.

    The images are uint8 (N, H, W, 3), with N labels. Small ones are enlarged by a whole factor,
    pixels staying square.

    Raises:
        ValueError: No images, or not as many labels as images.
    """
    if not len(images) or len(images) != len(labels):
        raise ValueError(f"{len(images)} images and {len(labels)} labels make no contact sheet.")
    height, width = images.shape[1:3]
    factor = max(1, -(-min_size // min(height, width)))
    tile_size = (width * factor, height * factor)
    cell_width, cell_height = tile_size[0] + _GAP, tile_size[1] + _GAP + _CAPTION
    rows = -(-len(images) // columns)
    size = (min(columns, len(images)) * cell_width + _GAP, rows * cell_height + _GAP)
    sheet = Image.new("RGB", size, "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default()
    for number, (image, label) in enumerate(zip(images, labels, strict=True)):
        left = _GAP + number % columns * cell_width
        top = _GAP + number // columns * cell_height
        draw.text((left, top), str(label), fill="black", font=font)
        tile = Image.fromarray(image).resize(tile_size, Image.Resampling.NEAREST)
        sheet.paste(tile, (left, top + _CAPTION))
    return sheet


def save_png(image: Image.Image, path: Path) -> None:
    """Write a PNG that is there whole or not at all."""
    with replacing(path) as partial:
        image.save(partial, format="PNG")
