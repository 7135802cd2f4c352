"""Tell a network by the shapes of its tensors, where nothing describes it.

What shapes do not tell is asked for: the number of heads of a network of no named size.
"""

import math
from dataclasses import dataclass, field, replace
from typing import Any

from repa.autoencoders.latent_space import SD_LATENTS, LatentSpace
from repa.checkpoints.contents import Contents
from repa.checkpoints.hints import Hints
from repa.checkpoints.settings import (
    CheckpointSettings,
    assumed_latent_space,
    projectors_of,
    settings_from_description,
    width_of,
)
from repa.models.sit import SIT_SIZES
from repa.tensor_file import Tensors

_REFERENCE_ENCODER_DEPTH = 8
_LATENT_CHANNELS = 4


@dataclass(frozen=True)
class Converted:
    """What a dialect makes of a file: settings, state dict, and what it took for granted.

    `autoencoder` is what the file has beside the network to decode its latents, if it has that.
    """

    settings: CheckpointSettings
    tensors: Tensors
    assumed: tuple[str, ...] = ()
    autoencoder: Tensors = field(default_factory=dict)


def converted(
    tensors: Tensors,
    contents: Contents,
    hints: Hints,
    *,
    assumed: tuple[str, ...] = (),
    latent_space: LatentSpace | None = None,
    **known: Any,  # noqa: ANN401
) -> Converted:
    """Return a state dict with the settings that are stated, or else told by its shapes.

    Args:
        tensors: In the names and shapes of `SiT`.
        contents: The file that they are from; a trainer's arguments in it tell the alignment depth,
            which samples do not depend on (else the reference's default of 8), and the path.
        hints: What is said of the file; it comes before what is told here.
        assumed: What the dialect takes for granted.
        latent_space: The dialect's; None tells it by the channels: four are latents of
            sd-vae-ft-ema, three are pixels.
        known: Other settings of the dialect.

    Raises:
        ValueError: The tensors are not a SiT's, or do not tell the number of heads.
    """
    if hints.stated is not None:
        settings = settings_from_description(hints.stated, tensors)
    else:
        settings = _inferred(tensors, contents, hints, latent_space, known)
    if hints.latents is not None:
        default = hints.latents.autoencoder or settings.latent_space.autoencoder
        settings = replace(settings, latent_space=replace(hints.latents, autoencoder=default))
    return Converted(settings, tensors, assumed)


def _inferred(
    tensors: Tensors,
    contents: Contents,
    hints: Hints,
    latent_space: LatentSpace | None,
    known: dict[str, Any],
) -> CheckpointSettings:
    args = contents.args
    try:
        hidden_size, in_channels, patch_size, _ = tensors["x_embedder.proj.weight"].shape
        num_patches = tensors["pos_embed"].shape[1]
        num_classes = tensors["y_embedder.embedding_table.weight"].shape[0] - 1
        mlp_ratio = width_of("blocks.0.mlp.fc1.weight", tensors) / hidden_size
    except (LookupError, ValueError, ArithmeticError) as error:
        raise ValueError(f"its tensors are not a SiT's ({error} is missing or odd)") from error
    if args.get("num_classes") == num_classes + 1:
        raise ValueError("its label table has no row for no label: it was trained without dropout")
    depth = 1 + max(int(name.split(".")[1]) for name in tensors if name.startswith("blocks."))
    input_size = math.isqrt(num_patches) * patch_size
    latent = in_channels == _LATENT_CHANNELS
    if latent_space is None:
        autoencoder = SD_LATENTS.autoencoder if latent else None
        latent_space = assumed_latent_space(autoencoder, in_channels)
    encoder_depth = hints.encoder_depth or args.get("encoder_depth") or _REFERENCE_ENCODER_DEPTH
    stated: dict[str, Any] = {"path_type": args.get("path_type") or "linear", **known}
    return CheckpointSettings(
        model={
            "input_size": input_size,
            "patch_size": patch_size,
            "in_channels": in_channels,
            "hidden_size": hidden_size,
            "depth": depth,
            "num_heads": _num_heads(tensors, hidden_size, depth, hints.num_heads),
            "mlp_ratio": mlp_ratio,
            "num_classes": num_classes,
            "encoder_depth": min(encoder_depth, depth),
            "qk_norm": "blocks.0.attn.q_norm.weight" in tensors,
            **projectors_of(tensors),
        },
        dataset=f"imagenet-{8 * input_size}" if latent and num_classes == 1000 else None,
        latent_space=latent_space,
        **stated,
    )


def _num_heads(tensors: Tensors, hidden_size: int, depth: int, said: int | None) -> int:
    """Tell the number of heads by the norm of a head, else by what is said or the named size."""
    norm = "blocks.0.attn.q_norm.weight"
    told = hidden_size // width_of(norm, tensors) if norm in tensors else None
    if told is not None and said not in (None, told):
        raise ValueError(f"its tensors have {told} heads, not {said}")
    if said is not None and hidden_size % said:
        raise ValueError(f"its width {hidden_size} is no multiple of {said} heads")
    if found := told or said:
        return found
    for size in SIT_SIZES.values():
        if (size["hidden_size"], size["depth"]) == (hidden_size, depth):
            return size["num_heads"]
    raise ValueError(
        f"no named SiT has width {hidden_size} and depth {depth}, so its number of heads is "
        "unknown: say --num-heads (in Python num_heads)"
    )
