"""Settings of a sampling run, validated; the defaults are the published protocol. No torch."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from repa.autoencoders.pixels import Quantizer
from repa.errors import SettingError, suggestion
from repa.registry import default_checkpoint
from samplers.names import ADAPTIVE_METHODS, ODE_METHODS

LabelScheme = Literal["random", "balanced"]

SOLVERS = ("sde", *ODE_METHODS)
"""`sde` is Euler-Maruyama; the others solve the ODE."""


@dataclass(frozen=True, kw_only=True)
class SampleConfig:
    """Everything that decides the images of a run, and where they go.

    The defaults are REPA's published protocol (FID 1.42 for the default checkpoint).

    Raises:
        SettingError: A value is out of its range or of its choices.
    """

    model: str = ""
    """Name in the registry, or path of a checkpoint or of a training run; "" is the default one."""
    num_images: int = 50_000
    """Images to make, at least 1."""
    num_steps: int = 250
    """Steps of the solver, at least 1; adaptive solvers ignore it."""
    cfg_scale: float = 1.8
    """Strength of classifier-free guidance, at least 1; 1 turns it off."""
    guidance_interval: tuple[float, float] = (0.0, 0.7)
    """Times (low, high) between which guidance is on, both included; 0 = data, 1 = noise."""
    solver: str = "sde"
    """Name in SOLVERS."""
    seed: int = 0
    """From 0 to 2**63 - 1; with an image's index it decides that image's label and noise."""
    batch_size: int = 64
    """Images at a time and process, at least 1; it does not move the noise or the labels."""
    labels: LabelScheme | tuple[int, ...] = "random"
    """Class of image i: random, i modulo the number of classes, or a list to go round."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:N or mps."""
    out: Path = Path("samples.npz")
    """The NPZ to write."""
    overwrite: bool = False
    """Whether an output made by other settings may be replaced."""
    autoencoder: str | None = None
    """Name in the registry or folder of an AutoencoderKL; None is the checkpoint's own."""
    quantizer: Quantizer = "truncate"
    """How pixels become uint8: cut off as in REPA, or rounded as in DiT and SiT."""
    tf32: bool = True
    """Whether a GPU may multiply float32 matrices in TF32, as the reference does."""

    def __post_init__(self) -> None:
        """Check every range."""
        if not self.model:
            object.__setattr__(self, "model", default_checkpoint())
        for name in ("num_images", "num_steps", "batch_size"):
            _check(name, getattr(self, name) >= 1, f"at least 1, got {getattr(self, name)}")
        _check("seed", 0 <= self.seed < 1 << 63, f"from 0 to 2**63 - 1, got {self.seed}")
        _check("cfg_scale", 1 <= self.cfg_scale < math.inf, f"at least 1, got {self.cfg_scale}")
        low, high = self.guidance_interval
        _check(
            "guidance_interval",
            0 <= low <= high <= 1,
            f"LOW,HIGH with 0 <= LOW <= HIGH <= 1, got {low:g},{high:g}",
        )
        _check_choice("solver", self.solver, SOLVERS)
        _check_choice("quantizer", self.quantizer, get_args(Quantizer))
        if isinstance(self.labels, str):
            _check_choice("labels", self.labels, get_args(LabelScheme))
        else:
            valid = bool(self.labels) and min(self.labels) >= 0
            _check("labels", valid, f"one or more classes from 0, got {list(self.labels)}")
        _check("out", self.out.suffix == ".npz", f"a file name that ends in .npz, got {self.out}")

    @property
    def adaptive(self) -> bool:
        """Whether the solver chooses its own steps."""
        return self.solver in ADAPTIVE_METHODS


def _check(field: str, holds: bool, rule: str) -> None:
    if not holds:
        raise SettingError(field, f"{field} must be {rule}.")


def _check_choice(field: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise SettingError(field, f"unknown {field} {value!r}{suggestion(value, known)}")
