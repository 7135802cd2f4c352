"""How each family of vision transformers sees an image, and which of its tokens are the features.

The one table of it. The features are those of the last block, of the patches alone: class and
register tokens are cut off.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

_IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_CLIP = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
_HALF = (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)

Channels = tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class Family:
    """Preprocessing and tokens; the defaults are those of DINOv2.

    Pixels in [0, 1] are normalised by `mean` and `std` and resized to patch size x grid, without
    antialiasing and without a clamp; `resized_first` turns the order of the two. `final_norm` says
    whether the network's last normalisation is part of the features.
    """

    mean: Channels = _IMAGENET[0]
    std: Channels = _IMAGENET[1]
    interpolation: Literal["bicubic", "bilinear"] = "bicubic"
    resized_first: bool = False
    final_norm: bool = True

    def preprocess(self, images: Tensor, side: int) -> Tensor:
        """Turn images uint8 (B, H, W, 3) into the network's input, float32 (B, 3, side, side)."""
        pixels = images.permute(0, 3, 1, 2).float() / 255
        if self.resized_first:
            return self._normalised(self._resized(pixels, side))
        return self._resized(self._normalised(pixels), side)

    def preprocessing(self, patch_size: int) -> Callable[[Tensor, int], Tensor]:
        """Return the function of images and grid size that an `Encoder` takes."""
        return lambda images, grid_size: self.preprocess(images, patch_size * grid_size)

    def _normalised(self, pixels: Tensor) -> Tensor:
        mean, std = (
            torch.tensor(numbers, device=pixels.device).view(3, 1, 1)
            for numbers in (self.mean, self.std)
        )
        return (pixels - mean) / std

    def _resized(self, pixels: Tensor, side: int) -> Tensor:
        return F.interpolate(pixels, (side, side), mode=self.interpolation)


FAMILIES = {
    "dinov1": Family(),
    "dinov2": Family(),
    "dinov3": Family(),
    "jepa": Family(),
    "siglip": Family(),
    "mae": Family(final_norm=False),
    "clip": Family(mean=_CLIP[0], std=_CLIP[1], resized_first=True, final_norm=False),
    "pe": Family(
        mean=_HALF[0],
        std=_HALF[1],
        interpolation="bilinear",
        resized_first=True,
        final_norm=False,
    ),
}
"""By the name of the registry's field `family`.

DINOv2, CLIP, MAE and I-JEPA are as in REPA's train.py, utils.py and models/ at 67f7145. DINO,
SigLIP, SigLIP2 and PE are as in iREPA's vision_encoder.py, where SigLIP sees ImageNet's mean and
deviation, not its own. DINOv3 is as DINOv2: images of 256 pixels are only normalised.
"""
