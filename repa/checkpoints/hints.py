"""What a person, or the registry, says of a checkpoint whose file does not tell it."""

from dataclasses import dataclass

import torch

from repa.autoencoders.latent_space import LatentSpace
from repa.tensor_file import Extra, Tensors

AS_SAID = "as said"
"""Who told a setting of a checkpoint that a person told."""

ASSUMED = "assumed: "
"""What the word on who told a setting begins with where neither the file told it nor a person."""


@dataclass(frozen=True, kw_only=True)
class Hints:
    """What is said of a file; None is nothing.

    Args:
        dialect: A name in `repa.checkpoints.dialects.DIALECTS`.
        num_heads: Attention heads of a block.
        encoder_depth: Number of the block after which features, or a middle head, are.
        latents: The latent space; without an autoencoder the dialect's is meant.
        stated: The registry's description, in place of what the file says or its shapes tell.
        giving_way: Whether all this gives way to what the file tells, as it is said of another one.
    """

    dialect: str | None = None
    num_heads: int | None = None
    encoder_depth: int | None = None
    latents: LatentSpace | None = None
    stated: Extra | None = None
    giving_way: bool = False


def latent_space_from_statistics(tensors: Tensors) -> LatentSpace:
    """Read per-channel statistics: latents_scale and latents_bias, (C,) or (1, C, 1, 1).

    A model's x is (latents - bias) * scale of them, so that the scale here is its inverse.

    Raises:
        ValueError: They are missing, of other shapes, or not finite and above 0.

    Source:
        iREPA ldm/train.py and generate.py at 99ad4ac; REPA-E generate.py at 3ad8046.
    """
    numbers = {}
    for name in ("latents_scale", "latents_bias"):
        if (found := tensors.get(name)) is None:
            keys = ", ".join(list(tensors)[:4])
            raise ValueError(f"holds no statistics of latents: {name} is missing among {keys}")
        if found.numel() != max(found.shape, default=0):
            raise ValueError(f"{name} has the shape {tuple(found.shape)}, not one number a channel")
        numbers[name] = found.to(torch.float64).flatten()
    scale, bias = numbers.values()
    if len(scale) != len(bias):
        raise ValueError(f"has {len(scale)} scales and {len(bias)} biases")
    if not (torch.isfinite(scale) & torch.isfinite(bias) & (scale > 0)).all():
        raise ValueError("holds a scale that is not above 0, or numbers that are not finite")
    return LatentSpace(scale=tuple((1 / scale).tolist()), bias=tuple(bias.tolist()))
