"""What a person, or the registry, says of a checkpoint whose file does not tell it."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from repa.autoencoders.latent_space import SD_LATENTS, LatentSpace
from repa.errors import CheckpointFormatError, UnknownNameError
from repa.registry import Entry, entry_names, fetch, find_entry, is_registered
from repa.tensor_file import Extra, read_contents

AS_SAID = "as said"
"""Who told a setting of a checkpoint that a person told."""

ASSUMED = "assumed: "
"""What the word on who told a setting begins with where neither the file told it nor a person."""

ELSEWHERE = "another file"
"""What tells a setting that a file leaves to another one, which has to be said."""

_VOUCHED = {
    "dialect": "what",
    "num_heads": "what",
    "path_type": "path_type",
    "dataset": "dataset",
    "encoder_depth": "encoder_depth",
    "latent_space": "autoencoder",
}
"""Settings that an entry of the registry tells, by where it does; `what` names project and size."""


@dataclass(frozen=True, kw_only=True)
class Hints:
    """What is said of a file; None is nothing.

    Args:
        dialect: A name in `repa.checkpoints.dialects.DIALECTS`.
        num_heads: Attention heads of a block.
        encoder_depth: Number of the block after which features, or a middle head, are.
        latents: The latent space; without an autoencoder the dialect's is meant.
        latents_from: The name or file that says so.
        stated: The registry's description, in place of what the file says or its shapes tell.
        giving_way: Whether all this gives way to what the file tells, as it is said of another one.
    """

    dialect: str | None = None
    num_heads: int | None = None
    encoder_depth: int | None = None
    latents: LatentSpace | None = None
    latents_from: str | None = None
    stated: Extra | None = None
    giving_way: bool = False


def said_latents(name_or_path: str | Path | None) -> LatentSpace | None:
    """Return the latent space of an autoencoder's name, or of statistics, a name or a file.

    Raises:
        UnknownNameError: Neither a name nor a file.
        CheckpointFormatError: The file holds no statistics of latents.
        DownloadError: See `repa.registry.fetch`, also for ChecksumError.
    """
    if name_or_path is None:
        return None
    if is_registered("autoencoders", name_or_path):
        return replace(SD_LATENTS, autoencoder=str(name_or_path))
    path, autoencoder = Path(name_or_path), None
    if is_registered("latents", name_or_path):
        path = fetch("latents", str(name_or_path))
        autoencoder = find_entry("latents", str(name_or_path))["autoencoder"]
    elif not path.exists():
        known = [*entry_names("latents"), *entry_names("autoencoders")]
        raise UnknownNameError("latents or file", str(path), known)
    tensors, extra = read_contents(path)
    try:
        space = latent_space_from_statistics({**extra, **tensors})
        return replace(space, autoencoder=autoencoder)
    except ValueError as error:
        raise CheckpointFormatError(f"{path}: {error}.") from error


def latent_space_from_statistics(contents: Extra) -> LatentSpace:
    """Read per-channel statistics: latents_scale and latents_bias, (C,) or (1, C, 1, 1).

    A model's x is (latents - bias) * scale of them, so that the scale here is its inverse. What
    else there is does not count.

    Raises:
        ValueError: They are missing, of other shapes, or not finite and above 0.

    Source:
        iREPA ldm/train.py and generate.py at 99ad4ac; REPA-E generate.py at 3ad8046.
    """
    numbers = {}
    for name in ("latents_scale", "latents_bias"):
        if (found := contents.get(name)) is None:
            keys = ", ".join(map(str, list(contents)[:4])) or "nothing"
            raise ValueError(f"holds no statistics of latents: {name} is missing among {keys}")
        if not isinstance(found, torch.Tensor):
            raise ValueError(f"{name} is a {type(found).__name__}, not a tensor")
        if found.numel() != max(found.shape, default=0):
            raise ValueError(f"{name} has the shape {tuple(found.shape)}, not one number a channel")
        numbers[name] = found.to(torch.float64).flatten()
    scale, bias = numbers.values()
    if len(scale) != len(bias):
        raise ValueError(f"has {len(scale)} scales and {len(bias)} biases")
    if not (torch.isfinite(scale) & torch.isfinite(bias) & (scale > 0)).all():
        raise ValueError("holds a scale that is not above 0, or numbers that are not finite")
    return LatentSpace(scale=tuple((1 / scale).tolist()), bias=tuple(bias.tolist()))


def vouched(
    told: Mapping[str, str], entry: Entry, typed: Mapping[str, Any], space: LatentSpace
) -> dict[str, str]:
    """Return what tells the settings, the registry where its entry says what is not typed."""

    def by(name: str, reason: str) -> str:
        known = entry.get(_VOUCHED.get(name, "")) is not None and typed.get(name) is None
        of_norm = name == "latent_space" and space.num_channels is not None
        guess = reason == AS_SAID or reason.startswith(ASSUMED)
        return "the registry" if known and guess and not of_norm else reason

    return {name: by(name, reason) for name, reason in told.items()}
