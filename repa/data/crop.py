"""The crop of every picture: ADM's centre crop to a square, and pictures to it."""

import numpy as np
from PIL import Image

from repa.errors import DataError

_LONGEST = 64  # times the shorter side


def center_crop(picture: np.ndarray | Image.Image, image_size: int) -> np.ndarray:
    """Cut the square from the middle of an RGB picture, after it is resized to fit.

    While the shorter side is at least twice `image_size` both are halved by averaging, then the
    shorter one is brought to it by bicubic interpolation, up or down.

    Args:
        picture: uint8 (H, W, 3), or Pillow's image of mode RGB.
        image_size: Side of the square in pixels.

    Returns:
        uint8 (image_size, image_size, 3).

    Raises:
        ValueError: `image_size` is not positive, or the picture is not RGB.
        DataError: One side is more than 64 times the other.

    Source:
        guided-diffusion image_datasets.py, center_crop_arr; REPA preprocessing/dataset_tools.py,
        center-crop-dhariwal.
    """
    if image_size < 1:
        raise ValueError(f"image_size must be at least 1, got {image_size}.")
    image = Image.fromarray(picture) if isinstance(picture, np.ndarray) else picture
    if image.mode != "RGB":
        raise ValueError(f"picture must be RGB, got {image.mode}.")
    width, height = image.size
    check_sides(width, height)
    while min(width, height) >= 2 * image_size:
        width, height = width // 2, height // 2
        image = image.resize((width, height), Image.Resampling.BOX)
    scale = image_size / min(width, height)
    width, height = round(width * scale), round(height * scale)  # halves go to even numbers
    pixels = np.asarray(image.resize((width, height), Image.Resampling.BICUBIC))
    top, left = (height - image_size) // 2, (width - image_size) // 2
    return np.ascontiguousarray(pixels[top : top + image_size, left : left + image_size])


def check_sides(width: int, height: int) -> None:
    """Refuse a picture of which a square would show next to nothing, at any cost of memory.

    Raises:
        DataError: One side is more than 64 times the other.
    """
    if max(width, height) > _LONGEST * min(width, height):
        raise DataError(
            f"is {width} x {height}: a side of more than {_LONGEST} times the other leaves no "
            "square of any use"
        )
