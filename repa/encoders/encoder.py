"""Frozen representation encoders: images to the features that SiT is aligned with.

Encoders are timm networks with their own preprocessing; what they see is the clean image. How many
features an image has is asked of them, because each is aligned with one token of the model.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from repa.encoders import efficientnet_lite, timm_networks
from repa.encoders.families import FAMILIES
from repa.encoders.names import EncoderName, Precision, parse_encoder, parse_encoders
from repa.errors import SettingError, first_line
from repa.registry import cached_path, fetch, file_sha256, find_entry
from repa_base.downloads import download

_MAP_DIMS = 4


@dataclass(frozen=True)
class Encoder:
    """A frozen network that gives a square grid of feature vectors an image.

    Args:
        name: Name in the registry, or `timm:NAME`.
        network: Preprocessed images (B, 3, S, S) to feature map (B, feature_dim, h, w).
        feature_dim: Width of the features.
        grid_sizes: Sides of the grids that it can give.
        preprocess: Images uint8 (B, H, W, 3) and a grid size to the input that makes this grid.
        precision: What the network computes in: float32, or bfloat16 by autocast.
        weights: The file of its weights, None if it has none.
    """

    name: str
    network: nn.Module
    feature_dim: int
    grid_sizes: range
    preprocess: Callable[[Tensor, int], Tensor]
    precision: Precision = "fp32"
    weights: Path | None = None

    @functools.cached_property
    def sha256(self) -> str | None:
        """SHA-256 of the weights in hexadecimal."""
        return self.weights and file_sha256(self.weights)

    def check_grid(
        self, grid_size: int, *, image_size: int | None = None, given: str = "with this model"
    ) -> None:
        """Raise SettingError unless the encoder can give a grid of `grid_size` by `grid_size`.

        With the side of the images in pixels the error names the sides that would do with as many
        pixels a token, after the words of `given`.
        """
        if grid_size in self.grid_sizes:
            return
        ends = sorted({self.grid_sizes[0], self.grid_sizes[-1]})
        gives = "grids" if len(ends) > 1 else "one grid"
        gives += f" of {' to '.join(f'{side} x {side}' for side in ends)} features an image"
        remedy = "choose another image size or patch size"
        if image_size:
            sizes = " to ".join(str(side * image_size // grid_size) for side in ends)
            remedy = f"{given}, images of {sizes} pixels would do"
        raise SettingError(
            "grid_size",
            f"{self.name} gives {gives}, not {grid_size} x {grid_size}: {remedy}.",
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
        pixels, bf16 = self.preprocess(images, grid_size), self.precision == "bf16"
        with torch.autocast(pixels.device.type, torch.bfloat16, enabled=bf16):
            return self.network(pixels).flatten(2).transpose(1, 2).float()


def open_encoders(
    names: str, device: torch.device | str = "cpu", *, precision: Precision = "fp32"
) -> list[Encoder]:
    """Load several encoders, with commas between their names; `none` gives none.

    Raises:
        SettingError: Names are not those of encoders, see `repa.encoders.names`.
        RepaError: As `load_encoder`.
    """
    return [_load(name, device, precision) for name in parse_encoders(names)]


def load_encoder(
    name: str, device: torch.device | str = "cpu", *, precision: Precision = "fp32"
) -> Encoder:
    """Load a frozen encoder by name, in eval mode.

    A registered name, or `timm:NAME` for another network of timm, has published weights, from an
    installed package, the cache folder or the network; `NAME=PATH` reads them from a file.

    Raises:
        UnknownNameError: No such encoder.
        SettingError: timm has no such network.
        MissingPackageError: The package that holds its weights is not installed.
        DownloadError: The weights are not on this machine and could not be downloaded; the message
            says which file to put where.
        ChecksumError: The weights are not the recorded ones.
        CheckpointFormatError: The file of weights is damaged.
        CheckpointMismatchError: It holds the weights of another network.
    """
    return _load(parse_encoder(name), device, precision)


def _load(name: EncoderName, device: torch.device | str, precision: Precision) -> Encoder:
    if name.timm_name:
        timm_name, kind = name.timm_name, None
    else:
        entry = find_entry("encoders", name.name)
        timm_name, kind = entry["timm"], entry["family"]
    if kind == "efficientnet-lite":
        path = _weights(name)
        network, width = efficientnet_lite.load_lite(timm_name, path)
        sizes, preprocess = efficientnet_lite.GRID_SIZES, efficientnet_lite.preprocess
    else:
        built = timm_networks.build(timm_name)
        family = FAMILIES[kind] if kind else timm_networks.own_family(built)
        sizes, patch = timm_networks.grid_sizes(built), timm_networks.patch_size(built)
        path, preprocess = _weights(name), family.preprocessing(patch)
        network = timm_networks.load_weights(built, path, final_norm=family.final_norm)
        width = _width(network.eval(), patch, sizes[0], name)
    network.eval().requires_grad_(False).to(device)
    return Encoder(name.name, network, width, sizes, preprocess, precision, path)


def _weights(name: EncoderName) -> Path:
    if name.weights:
        name.weights.open("rb").close()  # so that one that is missing is named
        return name.weights
    if not name.timm_name:
        return fetch("encoders", name.name)
    entry = timm_networks.published_weights(name.timm_name)
    path = cached_path("encoders", entry)
    if not path.exists():
        download(entry["url"], path)
    return path


@torch.no_grad()
def _width(network: nn.Module, patch: int, grid_size: int, name: EncoderName) -> int:
    """Return the width of the features of an image, and see that they are the grid asked for."""
    side = patch * grid_size
    try:
        shape = network(torch.zeros(1, 3, side, side)).shape
    except (RuntimeError, AssertionError) as error:
        reason = f"{name.name} does not give its features: {first_line(error)}"
        raise SettingError("encoder", reason) from error
    if len(shape) != _MAP_DIMS or tuple(shape[2:]) != (grid_size, grid_size):
        raise SettingError("encoder", f"{name.name} gives no square grid of features.")
    return shape[1]
