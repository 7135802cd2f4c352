"""Pixels to the uint8 images that are measured. Does not import torch."""

from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from torch import Tensor

Quantizer = Literal["truncate", "round"]


def images_from_pixels(pixels: "Tensor", quantizer: Quantizer = "truncate") -> "Tensor":
    """Turn pixels into the uint8 images that are measured.

    Args:
        pixels: float (B, 3, H, W), nominally in [-1, 1]; the rest is clamped.
        quantizer: `truncate` cuts off 255 (x + 1) / 2 as REPA does (the mean image is half a grey
            level darker); `round` cuts off 127.5 x + 128 as DiT and SiT do.

    Returns:
        uint8 (B, H, W, 3).

    Source:
        REPA generate.py; DiT and SiT sample_ddp.py.
    """
    levels = (pixels + 1) / 2 * 255 if quantizer == "truncate" else 127.5 * pixels + 128
    return levels.clamp(0, 255).permute(0, 2, 3, 1).byte().contiguous()
