"""What a checkpoint holds: from its own description, from the registry, or from its tensors."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, get_args

from torch import Tensor

from repa.errors import suggestion
from repa.models.sit import SIT_SIZES
from samplers import InterpolantName

Shapes = Mapping[str, Tensor]

_REFERENCE_ENCODER_DEPTH = 8
_LATENT_CHANNELS = 4
_LARGEST = 10_000  # a damaged or hostile file must not make us build for hours
_WHOLE_NUMBERS = (
    "input_size",
    "patch_size",
    "in_channels",
    "hidden_size",
    "depth",
    "num_heads",
    "num_classes",
)
_REFERENCE_AUTOENCODER = "sd-vae-ft-ema"


@dataclass(frozen=True, kw_only=True)
class CheckpointSettings:
    """What network a checkpoint holds, and for what.

    Attributes:
        model: Keyword arguments of `SiT`.
        path_type: Interpolant that it was trained on.
        dataset: Name in the registry of what it was trained on, if known.
        autoencoder: Name in the registry, or folder, of what decodes its latents; None when it
            works on pixels.
    """

    model: dict[str, Any]
    path_type: InterpolantName = "linear"
    dataset: str | None = None
    autoencoder: str | None = None

    def __post_init__(self) -> None:
        """Check the choices and the types, which may come from a stranger's file."""
        if self.path_type not in get_args(InterpolantName):
            raise ValueError(f"path_type is {self.path_type!r}, not linear or cosine")
        for name in ("dataset", "autoencoder"):
            if not isinstance(getattr(self, name), str | None):
                raise ValueError(f"{name} is {getattr(self, name)!r}, not a name")
        for name in _WHOLE_NUMBERS:
            value = self.model.get(name)
            if type(value) is not int or not 1 <= value <= _LARGEST:
                raise ValueError(f"{name} is {value!r}, not a whole number from 1 to {_LARGEST}")

    @property
    def num_classes(self) -> int:
        """Number of classes, which is also the null label."""
        return self.model["num_classes"]


def settings_from_description(
    description: Mapping[str, Any], tensors: Shapes
) -> CheckpointSettings:
    """Read the description that our trainer writes, or an entry of the registry.

    Args:
        description: "model" (keyword arguments of `SiT`, perhaps with "size" for a named size),
            "path_type", "dataset", "autoencoder"; other keys are of no account here.
        tensors: The state dict; it alone says which projectors are there.

    Raises:
        ValueError: A value is missing or wrong.
    """
    model = description.get("model")
    if not isinstance(model, dict):
        raise ValueError("the description has no model")
    model = dict(model)
    if (size := model.pop("size", None)) is not None:
        if size not in SIT_SIZES:
            raise ValueError(f"unknown size {size!r}{suggestion(str(size), SIT_SIZES)}")
        model = {**SIT_SIZES[size], **model}
    return CheckpointSettings(
        model={**model, **_projectors(tensors)},
        path_type=description.get("path_type", "linear"),
        dataset=description.get("dataset"),
        autoencoder=description.get("autoencoder"),
    )


def settings_from_tensors(tensors: Shapes, args: Mapping[str, Any]) -> CheckpointSettings:
    """Infer the settings of a checkpoint of the reference's code, which describes nothing.

    Args:
        tensors: The state dict.
        args: The reference trainer's arguments, as far as the file holds them. Without them the
            alignment depth, which samples do not depend on, is the reference's default of 8, and
            the path is linear.

    Raises:
        ValueError: The tensors are not a SiT's, or do not tell the number of heads.
    """
    try:
        hidden_size, in_channels, patch_size, _ = tensors["x_embedder.proj.weight"].shape
        num_patches = tensors["pos_embed"].shape[1]
        num_classes = tensors["y_embedder.embedding_table.weight"].shape[0] - 1
        fc1 = "blocks.0.mlp.fc1.weight"
        mlp_ratio = _width(fc1, tensors[fc1]) / hidden_size
    except (LookupError, ValueError, ArithmeticError) as error:
        raise ValueError(f"its tensors are not a SiT's ({error} is missing or odd)") from error
    depth = 1 + max(int(name.split(".")[1]) for name in tensors if name.startswith("blocks."))
    input_size = math.isqrt(num_patches) * patch_size
    latent = in_channels == _LATENT_CHANNELS
    return CheckpointSettings(
        model={
            "input_size": input_size,
            "patch_size": patch_size,
            "in_channels": in_channels,
            "hidden_size": hidden_size,
            "depth": depth,
            "num_heads": _num_heads(tensors, hidden_size, depth),
            "mlp_ratio": mlp_ratio,
            "num_classes": num_classes,
            "encoder_depth": min(args.get("encoder_depth") or _REFERENCE_ENCODER_DEPTH, depth),
            "qk_norm": "blocks.0.attn.q_norm.weight" in tensors,
            **_projectors(tensors),
        },
        path_type=args.get("path_type") or "linear",
        dataset=f"imagenet-{8 * input_size}" if latent and num_classes == 1000 else None,
        autoencoder=_REFERENCE_AUTOENCODER if latent else None,
    )


def _num_heads(tensors: Shapes, hidden_size: int, depth: int) -> int:
    """Tell the number of heads by the norm of a head, else by the named size."""
    if (norm := tensors.get("blocks.0.attn.q_norm.weight")) is not None:
        return hidden_size // _width("blocks.0.attn.q_norm.weight", norm)
    for size in SIT_SIZES.values():
        if (size["hidden_size"], size["depth"]) == (hidden_size, depth):
            return size["num_heads"]
    raise ValueError(
        f"no named SiT has width {hidden_size} and depth {depth}, so its number of heads is "
        "unknown; save it as safetensors with a description"
    )


def _projectors(tensors: Shapes) -> dict[str, Any]:
    """Return target_dims and projector_dim of the projectors that are there, maybe none."""
    outputs = sorted(
        (int(name.split(".")[1]), _width(name, tensor))
        for name, tensor in tensors.items()
        if name.startswith("projectors.") and name.endswith(".4.weight")
    )
    hidden = tensors.get("projectors.0.0.weight")
    return {
        "target_dims": [width for _, width in outputs],
        **({} if hidden is None else {"projector_dim": _width("projectors.0.0.weight", hidden)}),
    }


def _width(name: str, tensor: Tensor) -> int:
    """Return the outputs of a layer's weight, or the size of a norm's."""
    if not tensor.ndim or not len(tensor):
        raise ValueError(f"the tensor {name} has the shape {tuple(tensor.shape)}")
    return len(tensor)
