"""What to compute on: the device, and the versions of what numbers may depend on."""

import platform

import numpy as np
import scipy
import torch

from repa.errors import RepaError


def resolve_device(name: str) -> torch.device:
    """Return the named device; `auto` is a GPU when there is one, else the CPU.

    Raises:
        RepaError: No such device, or it is not available here.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise RepaError(f"unknown device {name!r}: use auto, cpu, cuda, cuda:1 or mps.") from error
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise RepaError(
            f"device {name!r} is not available: PyTorch sees {torch.cuda.device_count()} GPUs."
        )
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise RepaError(f"device {name!r} is not available on this machine.")
    return device


def environment() -> dict[str, str]:
    """Return what the numbers of this installation may depend on."""
    return {
        "python": platform.python_version(),
        "machine": platform.machine(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "scipy": scipy.__version__,
    }
