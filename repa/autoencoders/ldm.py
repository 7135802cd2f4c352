"""Autoencoders in the names of latent-diffusion, as a state dict of torch.save: REPA-E's, VA-VAE.

The network is diffusers' AutoencoderKL: the same layers under other names. Its widths, levels and
attention are told by the tensors.

Source:
    The names are those of CompVis/latent-diffusion's ldm/modules/diffusionmodules/model.py, as
    REPA-E's models/autoencoder.py at 3ad8046 has them; normalisation in 32 groups is theirs as
    well, and so is the attention's single head.
"""

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from repa.tensor_file import Extra, Tensors, is_state_dict

_NUM_GROUPS = 32
PREFIX = "autoencoder."
"""Of the names in a file of ours that holds an autoencoder beside a network."""
_KEYS = ("vae", "state_dict")
"""Where the autoencoder stands in a file that holds more."""
_FIRST_STAGE = "first_stage_model."
_MARKS = ("encoder.down.0.block.0.conv1.weight", "decoder.mid.block_1.conv1.weight")
_ATTENTION = {
    "norm": "group_norm",
    "q": "to_q",
    "k": "to_k",
    "v": "to_v",
    "proj_out": "to_out.0",
}
_LEVEL = re.compile(r"(encoder|decoder)\.(down|up)\.(\d+)\.(block|attn|downsample|upsample)\.(.+)")
_MIDDLE = re.compile(r"(encoder|decoder)\.mid\.(block|attn)_(\d)\.(.+)")


def find_state_dict(tensors: Tensors, extra: Extra) -> Tensors | None:
    """Return the autoencoder that a file is or holds, or None."""
    ours = {n.removeprefix(PREFIX): t for n, t in tensors.items() if n.startswith(PREFIX)}
    found = [tensors, ours, *(extra.get(key) for key in _KEYS)]
    whole = [dict(each) for each in found if isinstance(each, Mapping)]
    for each in (*whole, *map(_first_stage, whole)):
        if is_state_dict(each) and all(name in each for name in _MARKS):
            return each
    return None


def _first_stage(tensors: dict[Any, Any]) -> dict[str, Any]:
    """Return the autoencoder of a state dict of a whole latent diffusion model, maybe nothing."""
    named = [name for name in tensors if str(name).startswith(_FIRST_STAGE)]
    return {str(name).removeprefix(_FIRST_STAGE): tensors[name] for name in named}


def downsampling(tensors: Tensors) -> int:
    """Return an image's side over its latents' side."""
    return 2 ** (_num_levels(tensors) - 1)


def settings_of(tensors: Tensors) -> dict[str, Any]:
    """Return the keyword arguments of diffusers' AutoencoderKL.

    Raises:
        ValueError: It is none that AutoencoderKL can be.
        LookupError: A tensor is missing.
    """
    levels = _num_levels(tensors)
    widths = [tensors[f"encoder.down.{i}.block.0.conv1.weight"].shape[0] for i in range(levels)]
    latents = tensors["decoder.conv_in.weight"].shape[1]
    if tensors["encoder.conv_out.weight"].shape[0] != 2 * latents:
        raise ValueError("its encoder gives no mean and deviation of its decoder's latents")
    quantised = [name in tensors for name in ("quant_conv.weight", "post_quant_conv.weight")]
    attention = [f"encoder.down.{i}.attn.0.norm.weight" in tensors for i in range(levels)]
    kinds = ["Attn" if attends else "" for attends in attention]
    return {
        "down_block_types": [f"{kind}DownEncoderBlock2D" for kind in kinds],
        "up_block_types": [f"{kind}UpDecoderBlock2D" for kind in reversed(kinds)],
        "block_out_channels": widths,
        "layers_per_block": sum(
            f"encoder.down.0.block.{j}.conv1.weight" in tensors for j in range(9)
        ),
        "latent_channels": latents,
        "norm_num_groups": _NUM_GROUPS,
        "use_quant_conv": quantised[0],
        "use_post_quant_conv": quantised[1],
        "mid_block_add_attention": "encoder.mid.attn_1.norm.weight" in tensors,
    }


def renamed(tensors: Tensors) -> dict[str, Tensor]:
    """Return the tensors under diffusers' names, attention as linear layers, in float32."""
    levels = _num_levels(tensors)
    return {
        _renamed(name, levels): _shaped(name, tensor).to(torch.float32)
        for name, tensor in tensors.items()
        if name.startswith(("encoder.", "decoder.", "quant_conv.", "post_quant_conv."))
    }


def _num_levels(tensors: Tensors) -> int:
    found = {match[3] for name in tensors if (match := _LEVEL.fullmatch(name))}
    if not found:
        raise ValueError("it has no levels")
    return len(found)


def _renamed(name: str, levels: int) -> str:
    if match := _LEVEL.fullmatch(name):
        side, way, number, kind, rest = match.groups()
        # Both count levels by their width, and diffusers its decoder's by their order.
        level = int(number) if way == "down" else levels - 1 - int(number)
        before = f"{side}.{way}_blocks.{level}"
        if kind == "block":
            return f"{before}.resnets.{_layer(rest)}"
        if kind == "attn":
            place, _, rest = rest.partition(".")
            return f"{before}.attentions.{place}.{_attention(rest)}"
        return f"{before}.{kind}rs.0.{rest}"
    if match := _MIDDLE.fullmatch(name):
        side, kind, number, rest = match.groups()
        before, place = f"{side}.mid_block", int(number) - 1
        if kind == "block":
            return f"{before}.resnets.{place}.{_layer(rest)}"
        return f"{before}.attentions.{place}.{_attention(rest)}"
    return name.replace(".norm_out.", ".conv_norm_out.")


def _layer(rest: str) -> str:
    return rest.replace("nin_shortcut.", "conv_shortcut.")


def _attention(rest: str) -> str:
    layer, _, kind = rest.partition(".")
    return f"{_ATTENTION[layer]}.{kind}"


def _shaped(name: str, tensor: Tensor) -> Tensor:
    """Return a convolution of one pixel within attention as the linear layer that it is."""
    within = ".attn" in name and ".norm." not in name and tensor.ndim == 4
    return tensor[:, :, 0, 0] if within else tensor
