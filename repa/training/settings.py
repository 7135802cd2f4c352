"""Settings of a training run, validated, and the named presets. Does not import torch."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal, get_args

from repa.errors import RepaError, UnknownNameError
from samplers.names import InterpolantName

Weighting = Literal["uniform", "lognormal"]
Precision = Literal["fp32", "bf16"]
DATASETS = ("digits",)
ENCODERS = ("efficientnet-lite1", "none")


def _check_choice(kind: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise UnknownNameError(kind, value, known)


def _check_range(name: str, value: float, low: float, high: float = float("inf")) -> None:
    if not low <= value <= high:
        rule = f"at least {low}" if high == float("inf") else f"from {low} to {high}"
        raise RepaError(f"{name} must be {rule}, got {value}.")


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Everything that decides the weights a run ends with.

    Defaults are the reference's (REPA train.py at 67f7145), except that a run says its data, model
    and length itself.

    Raises:
        RepaError: A value is out of its range, or of its choices.
    """

    data: str
    """Data set: `digits`."""
    model: str
    """Name in `repa.SIT_SIZES`."""
    num_steps: int
    """Optimizer steps."""
    image_size: int = 256
    """Side of the training images in pixels."""
    encoder: str = "efficientnet-lite1"
    """Frozen encoder to align with, or `none` for plain SiT."""
    encoder_depth: int = 8
    """Block, counted from 1, whose output is aligned."""
    projector_dim: int = 2048
    """Hidden width of the projector."""
    alignment_weight: float = 0.5
    """Weight of the alignment loss (the reference's proj_coeff)."""
    qk_norm: bool = False
    """Whether attention normalises queries and keys."""
    path_type: InterpolantName = "linear"
    """Interpolant."""
    weighting: Weighting = "uniform"
    """Distribution of training times."""
    label_dropout: float = 0.1
    """Share of labels replaced by the null label, which guidance needs."""
    batch_size: int = 256
    """Images a step."""
    learning_rate: float = 1e-4
    """Step size of AdamW between warm-up and decay."""
    warmup_steps: int = 0
    """Steps over which the learning rate rises linearly from zero."""
    decay_steps: int = 0
    """Last steps over which the learning rate falls linearly to zero."""
    weight_decay: float = 0.0
    """Weight decay of AdamW."""
    max_grad_norm: float = 1.0
    """Gradients are scaled down to this norm."""
    ema_decay: float = 0.9999
    """Decay of the moving average of the weights, from the first step on."""
    precision: Precision = "fp32"
    """Compute dtype of the network; weights, losses and optimizer stay float32."""
    seed: int = 0
    """Decides initial weights, order of images, times, noise and dropped labels."""

    def __post_init__(self) -> None:
        """Check every range."""
        _check_choice("data set", self.data, DATASETS)
        _check_choice("encoder", self.encoder, ENCODERS)
        _check_choice("path", self.path_type, get_args(InterpolantName))
        _check_choice("weighting", self.weighting, get_args(Weighting))
        _check_choice("precision", self.precision, get_args(Precision))
        for name in ("num_steps", "image_size", "encoder_depth", "projector_dim", "batch_size"):
            _check_range(name, getattr(self, name), low=1)
        for name in ("alignment_weight", "weight_decay", "warmup_steps", "decay_steps", "seed"):
            _check_range(name, getattr(self, name), low=0)
        _check_range("label_dropout", self.label_dropout, low=0, high=1)
        _check_range("ema_decay", self.ema_decay, low=0, high=1)
        for name in ("learning_rate", "max_grad_norm"):
            if not getattr(self, name) > 0:
                raise RepaError(f"{name} must be above 0, got {getattr(self, name)}.")

    def learning_rate_at(self, step: int) -> float:
        """Return the step size of the step after `step` steps."""
        warmup = (step + 1) / self.warmup_steps if self.warmup_steps else 1.0
        decay = (self.num_steps - step) / self.decay_steps if self.decay_steps else 1.0
        return self.learning_rate * min(1.0, warmup, decay)

    def to_json(self) -> str:
        """Return all settings as JSON text."""
        return json.dumps(asdict(self), indent=2) + "\n"

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> "TrainConfig":
        """Build from stored settings.

        Raises:
            RepaError: A setting is unknown or missing.
        """
        known = [field.name for field in fields(cls)]
        for name in values:
            if name not in known:
                raise UnknownNameError("setting", name, known)
        try:
            return cls(**values)
        except TypeError as error:
            raise RepaError(f"settings are incomplete: {error}") from error


PRESETS: dict[str, TrainConfig] = {
    "digits": TrainConfig(
        data="digits",
        image_size=32,
        model="SiT-Ti/4",
        num_steps=5500,
        batch_size=64,
        encoder_depth=3,
        projector_dim=256,
        learning_rate=1e-3,
        warmup_steps=200,
        decay_steps=1500,
        ema_decay=0.999,
    ),
}
"""Settings by name: `digits` trains on a laptop CPU in well under an hour."""


def preset(name: str, **changes: Any) -> TrainConfig:  # noqa: ANN401
    """Return a preset with some settings changed.

    Raises:
        UnknownNameError: No such preset.
    """
    if name not in PRESETS:
        raise UnknownNameError("preset", name, PRESETS)
    return replace(PRESETS[name], **changes)
