"""DINOv2 ViT-L/14 as a metric network: the features of FD-DINOv2, as EDM2 and dgm-eval take them.

The class token after the last normalisation, 1024 numbers, of images resized to 224 pixels. There
are no spatial features and no classes.
"""

import math
from collections.abc import Mapping

import timm
import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn
from torch.nn import functional as F

from metrics.errors import InputError

INPUT_SIZE = 224
_ARCHITECTURE = "vit_large_patch14_dinov2"
_PATCH_SIZE = 14
_GRID = INPUT_SIZE // _PATCH_SIZE
_IMAGENET_MEAN = (0.485, 0.456, 0.406)
_IMAGENET_STD = (0.229, 0.224, 0.225)
# DINOv2 scales positions by this much more than asked, against rounding down; it moves them a bit.
_GRID_OFFSET = 0.1


class DinoV2(nn.Module):
    """The class token of pixels.

    Args:
        weights: The tensors of facebookresearch's dinov2_vitl14_pretrain.pth, or of timm's
            vit_large_patch14_dinov2.lvd142m, which has the same names.

    Raises:
        InputError: The tensors are not those of this network.

    Source:
        NVlabs/edm2 calculate_metrics.py (DINOv2Detector) and facebookresearch/dinov2
        (interpolate_pos_encoding) for positions: trained on a grid of 37 x 37, resampled to
        16 x 16 by bicubic interpolation without antialiasing, unlike timm's own.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, weights: Mapping[str, Tensor]) -> None:
        super().__init__()
        network = timm.create_model(_ARCHITECTURE, img_size=INPUT_SIZE, num_classes=0)
        tensors = {name: tensor for name, tensor in weights.items() if name != "mask_token"}
        if tensors.get("pos_embed", torch.empty(0)).ndim == 3:
            tensors["pos_embed"] = _resample_positions(tensors["pos_embed"])
        try:
            network.load_state_dict(tensors)
        except RuntimeError as error:
            reason = " ".join(str(error).split())
            raise InputError(f"These are not DINOv2 ViT-L/14's weights: {reason}") from error
        self.network = network.eval().requires_grad_(False)
        self.register_buffer("mean", 255 * torch.tensor(_IMAGENET_MEAN).view(3, 1, 1))
        self.register_buffer("std", 255 * torch.tensor(_IMAGENET_STD).view(3, 1, 1))

    def forward(
        self, pixels: Float[Tensor, "batch 3 224 224"]
    ) -> tuple[Float[Tensor, "batch 1024"], None, None]:
        """Return the class token; there are no spatial features and no logits.

        Args:
            pixels: Around [0, 255]; bicubic overshoot is not cut off.
        """
        return self.network((pixels - self.mean) / self.std), None, None


def resize_without_clamp(
    images: UInt8[Tensor, "batch height width 3"], size: int = INPUT_SIZE
) -> Float[Tensor, "batch 3 {size} {size}"]:
    """Resize as EDM2 does: antialiased bicubic in float32, overshoot beyond [0, 255] kept.

    dgm-eval resizes by Pillow and rounds to uint8, which is almost the same (EDM2's words).
    """
    pixels = images.permute(0, 3, 1, 2).float()
    return F.interpolate(pixels, (size, size), mode="bicubic", antialias=True)


def _resample_positions(
    positions: Float[Tensor, "1 tokens dim"],
) -> Float[Tensor, "1 resampled dim"]:
    """Resample the patches' positions to this input's grid; the class token's stays."""
    token, patches = positions[:, :1], positions[:, 1:]
    side = math.isqrt(patches.shape[1])
    if side * side != patches.shape[1]:
        raise InputError(f"pos_embed holds {patches.shape[1]} patches, which are no square.")
    if side == _GRID:
        return positions
    grid = patches.unflatten(1, (side, side)).permute(0, 3, 1, 2).float()
    scale = (_GRID + _GRID_OFFSET) / side
    grid = F.interpolate(grid, scale_factor=(scale, scale), mode="bicubic")
    return torch.cat([token, grid.flatten(2).transpose(1, 2).to(token.dtype)], dim=1)
