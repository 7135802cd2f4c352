"""Tell a network by the shapes of its tensors, where nothing describes it.

What shapes do not tell is asked for: the number of heads of a network of no named size.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from repa.autoencoders.latent_space import SD_LATENTS, LatentSpace
from repa.checkpoints.contents import Contents
from repa.checkpoints.hints import AS_SAID, ASSUMED, ELSEWHERE, Hints
from repa.checkpoints.settings import (
    CheckpointSettings,
    assumed_latent_space,
    projectors_of,
    settings_from_description,
    width_of,
)
from repa.errors import UntoldError
from repa.models.sit import SIT_SIZES
from repa.registry import entry_names
from repa.tensor_file import Extra, Tensors

_REFERENCE_ENCODER_DEPTH = 8
_LATENT_CHANNELS = 4
_NOTHING: Mapping[str, str] = {}
_SPACES = {
    True: "assumed: four channels are latents of sd-vae-ft-ema times 0.18215, as in REPA's code",
    False: "assumed: three channels are pixels",
}


@dataclass(frozen=True)
class Converted:
    """What a dialect makes of a file: settings and state dict.

    `told` says in a few words where the settings are from, by their names; what is only assumed
    begins with `repa.checkpoints.hints.ASSUMED`. `autoencoder` is what the file has beside the
    network to decode its latents, if it has that.
    """

    settings: CheckpointSettings
    tensors: Tensors
    autoencoder: Tensors = field(default_factory=dict)
    told: Mapping[str, str] = field(default_factory=dict)


def converted(
    tensors: Tensors,
    contents: Contents,
    hints: Hints,
    *,
    latent_space: LatentSpace | None = None,
    told: Mapping[str, str] = _NOTHING,
    **known: Any,  # noqa: ANN401
) -> Converted:
    """Return a state dict with the settings that are stated, or else told by its shapes.

    Args:
        tensors: In the names and shapes of `SiT`.
        contents: The file that they are from; a trainer's arguments in it tell the alignment depth,
            which samples do not depend on (else the reference's default of 8), and the path.
        hints: What is said of the file; it comes before what is told here, unless it gives way.
        told: Where the dialect has its settings from, see `Converted`.
        latent_space: The dialect's; None tells it by the channels: four are latents of
            sd-vae-ft-ema, three are pixels.
        known: Other settings of the dialect.

    Raises:
        ValueError: The tensors are not a SiT's, do not tell the number of heads, or are not what is
            said of them.
    """
    if hints.stated is not None:
        settings = settings_from_description(hints.stated, tensors)
        found = {"settings": "the registry", **told}
        _check_said(hints, settings.model, found["settings"])
    else:
        settings, found = _inferred(tensors, contents, hints, latent_space, known)
        found |= told
    by_file = not found.get("latent_space", "").startswith((ASSUMED, ELSEWHERE))
    if hints.latents is not None and not (hints.giving_way and by_file):
        space, by = _said_space(hints.latents, settings, hints, found.get("latent_space", ""))
        settings, found = replace(settings, latent_space=space), found | {"latent_space": by}
    return Converted(settings, tensors, told=found)


def _check_said(hints: Hints, model: Mapping[str, Any], by: str) -> None:
    """Raise ValueError if a person says something else of a network than its description."""
    for name, what in (("num_heads", "heads"), ("encoder_depth", "blocks before the features")):
        said, described = getattr(hints, name), model.get(name)
        if said not in (None, described) and not hints.giving_way:
            raise ValueError(f"{by} says {described} {what}, not {said}")


def _said_space(
    said: LatentSpace, settings: CheckpointSettings, hints: Hints, told: str
) -> tuple[LatentSpace, str]:
    """Return the latent space that a person says, its decoder the dialect's, and what tells it."""
    own, has = settings.latent_space, settings.model["in_channels"]
    # Of three channels that nothing describes, statistics say that they are latents.
    if own.is_pixels and (hints.stated is not None or said.num_channels is None):
        raise ValueError("makes pixels, not latents: leave out --latents")
    if said.num_channels not in (None, has):
        statistics = f"the statistics {hints.latents_from} are for {said.num_channels}"
        raise ValueError(f"has {has} channels, and {statistics}: take others (--latents)")
    if said.autoencoder is not None:
        return said, AS_SAID
    by = f"scale and bias {AS_SAID}"
    if told.startswith(ASSUMED) and own.autoencoder is not None:
        by = f"{ASSUMED}the decoder {own.autoencoder}; {by}"
    return replace(said, autoencoder=own.autoencoder), by


def _inferred(
    tensors: Tensors,
    contents: Contents,
    hints: Hints,
    latent_space: LatentSpace | None,
    known: dict[str, Any],
) -> tuple[CheckpointSettings, dict[str, str]]:
    args, told = contents.args, {}
    try:
        hidden_size, in_channels, patch_size, _ = tensors["x_embedder.proj.weight"].shape
        num_patches = tensors["pos_embed"].shape[1]
        num_classes = tensors["y_embedder.embedding_table.weight"].shape[0] - 1
        mlp_ratio = width_of("blocks.0.mlp.fc1.weight", tensors) / hidden_size
    except (LookupError, ValueError, ArithmeticError) as error:
        keys = ", ".join(name[:80] for name in list(tensors)[:4])
        why = f"{error} is missing or odd; it begins with {keys}"
        raise ValueError(f"its tensors are not a SiT's ({why})") from error
    if args.get("num_classes") == num_classes + 1:
        raise ValueError("its label table has no row for no label: it was trained without dropout")
    depth = 1 + max(int(name.split(".")[1]) for name in tensors if name.startswith("blocks."))
    input_size = math.isqrt(num_patches) * patch_size
    if math.isqrt(num_patches) ** 2 != num_patches:
        raise ValueError(
            f"its position embedding is of {num_patches} patches, which make no square"
        )
    latent = in_channels == _LATENT_CHANNELS
    if latent_space is None:
        autoencoder = SD_LATENTS.autoencoder if latent else None
        latent_space = assumed_latent_space(autoencoder, in_channels)
        told["latent_space"] = _SPACES[latent]
    if latent_space.num_channels is None and hints.latents is None and in_channels not in (3, 4):
        raise UntoldError(
            f"has {in_channels} channels, of a latent space that nothing in it tells: say --latents"
            " FILE (in Python latents), the statistics that it was trained with"
        )
    if hints.encoder_depth and hints.encoder_depth > depth:
        raise ValueError(f"has {depth} blocks, so nothing after block {hints.encoder_depth}")
    encoder_depth, told["encoder_depth"] = _encoder_depth(hints, args)
    num_heads, told["num_heads"] = _num_heads(tensors, hidden_size, depth, hints)
    told["path_type"] = _path_told(args, known)
    imagenet = latent and num_classes == 1000
    if imagenet:
        told["dataset"] = "assumed: ImageNet, by its 1000 classes and four channels"
    stated: dict[str, Any] = {"path_type": args.get("path_type") or "linear", **known}
    settings = CheckpointSettings(
        model={
            "input_size": input_size,
            "patch_size": patch_size,
            "in_channels": in_channels,
            "hidden_size": hidden_size,
            "depth": depth,
            "num_heads": num_heads,
            "mlp_ratio": mlp_ratio,
            "num_classes": num_classes,
            "encoder_depth": min(encoder_depth, depth),
            "qk_norm": "blocks.0.attn.q_norm.weight" in tensors,
            **projectors_of(tensors),
        },
        dataset=_dataset_of(8 * input_size) if imagenet else None,
        latent_space=latent_space,
        **stated,
    )
    return settings, told


def _dataset_of(image_size: int) -> str | None:
    """Return the name of ImageNet in this size, if the registry knows it."""
    name = f"imagenet-{image_size}"
    return name if name in entry_names("datasets") else None


def _encoder_depth(hints: Hints, args: Extra) -> tuple[int, str]:
    """Return the alignment depth, and who says it."""
    if hints.encoder_depth:
        return hints.encoder_depth, AS_SAID
    if depth := args.get("encoder_depth"):
        return depth, "its arguments"
    return _REFERENCE_ENCODER_DEPTH, "assumed: REPA's default; samples do not depend on it"


def _path_told(args: Extra, known: dict[str, Any]) -> str:
    """Say who tells the path."""
    if args.get("path_type"):
        return "its arguments"
    return "its dialect" if "path_type" in known else "assumed: the linear path, as REPA's"


def _num_heads(tensors: Tensors, hidden_size: int, depth: int, hints: Hints) -> tuple[int, str]:
    """Return the number of heads, and what tells it: the norm of a head, a person, the size."""
    norm, said = "blocks.0.attn.q_norm.weight", hints.num_heads
    told = hidden_size // width_of(norm, tensors) if norm in tensors else None
    if told is not None and said not in (None, told) and not hints.giving_way:
        raise ValueError(f"its tensors have {told} heads, not {said}")
    if told:
        return told, "the norm of its heads"
    if said is not None and not hidden_size % said:
        return said, AS_SAID
    named = _heads_by_size(hidden_size, depth)
    if said is not None and not (hints.giving_way and named):
        raise ValueError(f"its width {hidden_size} is no multiple of {said} heads")
    if named:
        return named
    raise UntoldError(
        f"no named SiT has width {hidden_size} and depth {depth}, so its number of heads is "
        "unknown: say --num-heads (in Python num_heads)"
    )


def _heads_by_size(hidden_size: int, depth: int) -> tuple[int, str] | None:
    """Return the heads of the named size of this width and depth, and that they are assumed."""
    for name, size in SIT_SIZES.items():
        if (size["hidden_size"], size["depth"]) == (hidden_size, depth):
            size_name = name.split("/")[0]
            heads = f"{size['num_heads']} heads, those of {size_name} by its width and depth"
            return size["num_heads"], ASSUMED + heads
    return None
