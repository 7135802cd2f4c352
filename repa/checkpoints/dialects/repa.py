"""REPA's releases: a bare state dict, which describes nothing; its shapes tell the network.

Four channels are latents of sd-vae-ft-ema and three are pixels; the velocity is predicted in our
direction of time.
"""

import math

from repa.autoencoders.latent_space import SD_LATENTS
from repa.checkpoints.contents import Extra, Tensors
from repa.checkpoints.settings import (
    CheckpointSettings,
    assumed_latent_space,
    projectors_of,
    settings_from_description,
    width_of,
)
from repa.models.sit import SIT_SIZES

_REFERENCE_ENCODER_DEPTH = 8
_LATENT_CHANNELS = 4


def recognise(tensors: Tensors, extra: Extra) -> bool:
    """Whether there are tensors at all: what nothing else recognises is read as REPA's."""
    return bool(tensors)


def convert(
    tensors: Tensors, extra: Extra, stated: Extra | None
) -> tuple[CheckpointSettings, Tensors]:
    """Return the settings that are stated, or else inferred, and the tensors as they are."""
    if stated is not None:
        return settings_from_description(stated, tensors), tensors
    return settings_from_tensors(tensors, {}), tensors


def settings_from_tensors(tensors: Tensors, args: Extra) -> CheckpointSettings:
    """Infer the settings of a checkpoint of the reference's code, which describes nothing.

    `args` are the reference trainer's arguments, as far as the file holds them. Without them the
    alignment depth, which samples do not depend on, is the reference's default of 8, and the path
    is linear.

    Raises:
        ValueError: The tensors are not a SiT's, or do not tell the number of heads.
    """
    try:
        hidden_size, in_channels, patch_size, _ = tensors["x_embedder.proj.weight"].shape
        num_patches = tensors["pos_embed"].shape[1]
        num_classes = tensors["y_embedder.embedding_table.weight"].shape[0] - 1
        mlp_ratio = width_of("blocks.0.mlp.fc1.weight", tensors) / hidden_size
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
            **projectors_of(tensors),
        },
        path_type=args.get("path_type") or "linear",
        dataset=f"imagenet-{8 * input_size}" if latent and num_classes == 1000 else None,
        latent_space=assumed_latent_space(SD_LATENTS.autoencoder if latent else None, in_channels),
    )


def _num_heads(tensors: Tensors, hidden_size: int, depth: int) -> int:
    """Tell the number of heads by the norm of a head, else by the named size."""
    norm = "blocks.0.attn.q_norm.weight"
    if norm in tensors:
        return hidden_size // width_of(norm, tensors)
    for size in SIT_SIZES.values():
        if (size["hidden_size"], size["depth"]) == (hidden_size, depth):
            return size["num_heads"]
    raise ValueError(
        f"no named SiT has width {hidden_size} and depth {depth}, so its number of heads is "
        "unknown; save it as safetensors with a description"
    )
