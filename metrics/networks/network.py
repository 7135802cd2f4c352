"""Metric networks: uint8 images to pooled features, spatial features and class probabilities.

All arithmetic is float32, on a GPU too (TensorFloat-32 is off while a network runs). Networks are
given their weights; nothing here downloads.
"""

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import numpy as np
import torch
from jaxtyping import Float, Float32, UInt8
from torch import Tensor, nn
from torch.nn import functional as F

from metrics.errors import InputError
from metrics.networks.weights import load_tensors, packaged_lite0_weights
from metrics.settings import NetworkName, Resize
from repa_base.checksums import file_sha256
from repa_base.device import compiler_errors_as, float32_precision

_WEIGHTS = {
    "inception": "weights-inception-2015-12-05-6726825d.pth of torch-fidelity",
    "dinov2": "dinov2_vitl14_pretrain.pth of facebookresearch/dinov2",
}
_PixelFn = Callable[[UInt8[Tensor, "batch height width 3"]], Float[Tensor, "batch 3 size size"]]
_OutputFn = Callable[
    [Float[Tensor, "batch 3 size size"]], tuple[Tensor, Tensor | None, Tensor | None]
]
_BuildFn = Callable[[Mapping[str, Tensor]], nn.Module]
_PrepareFn = Callable[[_BuildFn], _OutputFn]


@dataclass(frozen=True)
class Features:
    """What a metric network makes of a batch of images; None where it has no such output.

    Attributes:
        pool: Pooled features, for the Fréchet distance, precision and recall.
        spatial: Features that keep positions, for the spatial Fréchet distance.
        probabilities: Softmax over the classes, for the Inception Score.
    """

    pool: Float32[np.ndarray, "batch pool_dim"]
    spatial: Float32[np.ndarray, "batch spatial_dim"] | None
    probabilities: Float32[np.ndarray, "batch classes"] | None


@dataclass(frozen=True)
class MetricLabels:
    """What the numbers of a network are called: only Inception's Fréchet distance is FID."""

    frechet: str
    kernel: str
    spatial_frechet: str
    inception_score: str
    precision: str
    recall: str


@dataclass(frozen=True, eq=False)
class MetricNetwork:
    """A network to measure with.

    Attributes:
        name: Name that statistics made with it carry; numbers of different names do not compare.
        labels: What its numbers are called.
        pool_dim: Width of the pooled features.
        spatial_dim: Width of the spatial features, 0 if it has none.
        num_classes: Number of classes, 0 if it has none.
        weights_sha256: SHA-256 of the weights file.
        preprocessing: What happens to the pixels, in words.
        resize: uint8 images (B, H, W, 3) to float32 pixels (B, 3, size, size) in [0, 255].
        outputs: Those pixels to pooled features, spatial features and logits.
        device: Where it runs.
    """

    name: str
    labels: MetricLabels
    pool_dim: int
    spatial_dim: int
    num_classes: int
    weights_sha256: str
    preprocessing: str
    resize: _PixelFn
    outputs: _OutputFn
    device: torch.device

    def __call__(self, images: UInt8[np.ndarray, "batch height width 3"]) -> Features:
        """Measure a batch of images; another batch size may change the last digits.

        Returns:
            Features on the CPU.
        """
        with torch.no_grad(), float32_precision(tf32=False):
            pixels = self.resize(torch.tensor(images, device=self.device))
            pool, spatial, logits = self.outputs(pixels.to(self.device))
            probabilities = None if logits is None else logits.softmax(dim=1)
        return Features(
            pool=pool.cpu().numpy(),
            spatial=None if spatial is None else spatial.cpu().numpy(),
            probabilities=None if probabilities is None else probabilities.cpu().numpy(),
        )


def load_network(
    name: NetworkName,
    weights_path: Path | None = None,
    device: str | torch.device = "cpu",
    *,
    resize: Resize = "default",
    compiled: bool = False,
    lazy: bool = False,
) -> MetricNetwork:
    """Load a metric network.

    Args:
        name: `inception` is ADM's, the network of FID. `efficientnet-lite0` comes by pip. `dinov2`
            is ViT-L/14, the network of FD-DINOv2, preprocessed as by EDM2.
        weights_path: Weights file. `inception` requires torch-fidelity's
            weights-inception-2015-12-05-6726825d.pth, `dinov2` facebookresearch's
            dinov2_vitl14_pretrain.pth; `efficientnet-lite0` takes its package's by itself.
        device: Where it runs.
        resize: `default` is the network's own; `clean` is clean-fid's (Pillow's antialiased bicubic
            on float channels), for `inception` alone, and makes numbers of another kind.
        compiled: Compile for the batch size of the first call, which then takes half a minute.
        lazy: Load the weights at the first images, which may never come where features are cached.
            The file is read for its hash all the same.

    Raises:
        InputError: The weights are missing, unreadable or another network's, or clean-fid has no
            such network.
        ValueError: No such network or resize.
    """
    if name not in get_args(NetworkName):
        raise ValueError(f"name must be one of {get_args(NetworkName)}, got {name!r}.")
    if resize not in get_args(Resize):
        raise ValueError(f"resize must be one of {get_args(Resize)}, got {resize!r}.")
    check_resize(name, resize)
    if weights_path is None and name in _WEIGHTS:
        raise InputError(f"{name} needs its weights, {_WEIGHTS[name]}; give their path.")
    weights_path, device = weights_path or packaged_lite0_weights(), torch.device(device)
    prepared = functools.partial(_prepared, weights_path, device, compiled, lazy)
    if name == "inception":
        return _inception(weights_path, device, prepared, clean=resize == "clean")
    build = _efficientnet_lite0 if name == "efficientnet-lite0" else _dinov2
    return build(weights_path, device, prepared)


def check_resize(name: str, resize: Resize) -> None:
    """Refuse clean-fid's resize for networks that clean-fid does not have.

    Raises:
        InputError: It is asked for.
    """
    if resize == "clean" and name != "inception":
        raise InputError(f"clean is clean-fid's resize for inception; {name} has only its own.")


def _inception(
    weights_path: Path, device: torch.device, prepared: _PrepareFn, *, clean: bool
) -> MetricNetwork:
    from metrics.networks.inception import INPUT_SIZE, Inception, resize_like_tensorflow

    return MetricNetwork(
        name="inception-clean" if clean else "inception",
        labels=_labels("FID", "-clean" if clean else ""),
        pool_dim=2048,
        spatial_dim=2023,
        num_classes=1008,
        weights_sha256=file_sha256(weights_path),
        preprocessing=f"{'clean-fid' if clean else 'TensorFlow 1'} resize to 299, (x - 128) / 128",
        resize=_clean_resize(INPUT_SIZE) if clean else resize_like_tensorflow,
        outputs=prepared(Inception),
        device=device,
    )


def _efficientnet_lite0(
    weights_path: Path, device: torch.device, prepared: _PrepareFn
) -> MetricNetwork:
    from metrics.networks.efficientnet import EfficientNetLite0, resize_bicubic

    return MetricNetwork(
        name="efficientnet-lite0",
        labels=_labels("FD", "-lite0"),
        pool_dim=1280,
        spatial_dim=1372,
        num_classes=1000,
        weights_sha256=file_sha256(weights_path),
        preprocessing="bicubic resize to 224, (x - 127) / 128",
        resize=resize_bicubic,
        outputs=prepared(EfficientNetLite0),
        device=device,
    )


def _dinov2(weights_path: Path, device: torch.device, prepared: _PrepareFn) -> MetricNetwork:
    from metrics.networks.dinov2 import DinoV2, resize_without_clamp

    return MetricNetwork(
        name="dinov2",
        labels=_labels("FD", "-DINOv2"),
        pool_dim=1024,
        spatial_dim=0,
        num_classes=0,
        weights_sha256=file_sha256(weights_path),
        preprocessing="EDM2 resize to 224, ImageNet normalisation",
        resize=resize_without_clamp,
        outputs=prepared(DinoV2),
        device=device,
    )


def _labels(distance: str, suffix: str) -> MetricLabels:
    kernel = distance.replace("F", "K")
    names = (distance, kernel, f"s{distance}", "IS", "Precision", "Recall")
    return MetricLabels(*(name + suffix for name in names))


def _clean_resize(size: int) -> _PixelFn:
    from cleanfid.resize import make_resizer

    resize_one = make_resizer(
        "PIL", quantize_after=False, filter="bicubic", output_size=(size, size)
    )

    def resize(images: Tensor) -> Tensor:
        pixels = np.stack([resize_one(image) for image in images.cpu().numpy()])
        return torch.from_numpy(pixels).permute(0, 3, 1, 2)

    return resize


def _prepared(
    path: Path, device: torch.device, compiled: bool, lazy: bool, build: _BuildFn
) -> _OutputFn:
    """Build a network from a file, which the error names if its tensors are not the network's."""

    @functools.cache
    def prepare() -> _OutputFn:
        tensors = load_tensors(path)
        try:
            module = build(tensors).to(device)
        except InputError as error:
            raise InputError(f"{path}: {error}") from error
        return _Compiled(module) if compiled else module

    return (lambda pixels: prepare()(pixels)) if lazy else prepare()


class _Compiled:
    """A module compiled for one batch size; shorter batches are filled up, and cut again."""

    def __init__(self, module: nn.Module) -> None:
        self._run = torch.compile(module, options={"freezing": True})
        self._size = 0

    def __call__(self, pixels: Tensor) -> tuple[Tensor, Tensor | None, Tensor | None]:
        count = len(pixels)
        self._size = max(self._size, count)
        filled = F.pad(pixels, (0, 0, 0, 0, 0, 0, 0, self._size - count))
        filled = filled.contiguous(memory_format=torch.channels_last)
        with compiler_errors_as(InputError):
            pool, spatial, logits = self._run(filled)
        spatial, logits = (None if rows is None else rows[:count] for rows in (spatial, logits))
        return pool[:count], spatial, logits
