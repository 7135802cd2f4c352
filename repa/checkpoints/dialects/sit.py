"""Original SiT: time and the velocity's sign run the other way, and half of the output counts.

The network of x_t = t data + (1 - t) noise predicts data - noise, and beside it as many channels
that nothing is made of. Both turn exactly into our convention in the weights themselves: the
sinusoids of 1 - t are a rotation of those of t, and the rest is a sign and a choice of rows. So
what is made here is a network like any other.

Source:
    SiT models.py, sample.py and train.py at 947f95b.
"""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from repa.autoencoders.latent_space import SD_LATENTS
from repa.checkpoints.architecture import Converted, converted
from repa.checkpoints.contents import Contents
from repa.checkpoints.hints import Hints
from repa.models.blocks import time_frequencies
from repa.tensor_file import Extra, Tensors

GUIDED_CHANNELS = 3
"""Guidance leaves the fourth channel alone; DiT's, SiT's and LightningDiT's code has it so."""

TURNED = "its dialect, whose time and sign were turned"
"""Where the prediction is from, of a network that ran the other way."""

_PATHS = {"Linear": "linear", "GVP": "cosine"}
_TIME, _HEAD = "t_embedder.mlp.0.weight", "final_layer.linear."
_MOVED = ("x_embedder.", "t_embedder.", "y_embedder.", "blocks.", "final_layer.", "pos_embed")

TOLD_BY = "its trainer's arguments (path_type, prediction, image_size)"


def recognise(contents: Contents) -> bool:
    """Whether it is plain and the arguments are those of SiT's trainer."""
    return fits(contents) and {"path_type", "prediction", "image_size"} <= contents.args.keys()


def fits(contents: Contents) -> bool:
    """Whether there is nothing beside the transformer itself; SiT and DiT have the same tensors."""
    tensors = contents.tensors
    patches = tensors.get("x_embedder.proj.weight")
    plain = all(name.startswith(_MOVED) for name in tensors)
    return plain and patches is not None and patches.ndim == 4


def has_both_halves(tensors: Tensors) -> bool:
    """Whether the last layer has twice as many channels as the first takes."""
    patches, head = tensors["x_embedder.proj.weight"], tensors[_HEAD + "weight"]
    return head.shape[0] == 2 * patches.shape[1:].numel()


def convert(contents: Contents, hints: Hints) -> Converted:
    """Return the network in our convention."""
    args, tensors = contents.args, contents.tensors
    if args.get("prediction", "velocity") != "velocity":
        raise ValueError(f"was trained to predict the {args['prediction']}, not the velocity")
    path = args.get("path_type", "Linear")
    if path not in _PATHS:
        raise ValueError(f"was trained on the path {path}, which is not supported")
    known = decoder_of(args)
    known["told"] |= {"prediction": TURNED}
    return converted(
        in_our_convention(tensors),
        contents,
        hints,
        path_type=_PATHS[path],
        guided_channels=GUIDED_CHANNELS,
        **known,
    )


def decoder_of(args: Extra) -> dict[str, Any]:
    """Return the latent space of SiT's and DiT's files, and who tells its decoder, as keywords."""
    by = "its arguments; the scale 0.18215 is its code's"
    if "vae" not in args:
        by = "assumed: the decoder that its sample_ddp.py takes; the scale 0.18215 is its code's"
    space = replace(SD_LATENTS, autoencoder=f"sd-vae-ft-{args.get('vae', 'ema')}")
    return {"latent_space": space, "told": {"latent_space": by}}


def in_our_convention(tensors: Tensors) -> Tensors:
    """Turn time and sign, and drop the channels that do not count."""
    _, channels, patch_size, _ = tensors["x_embedder.proj.weight"].shape
    turned = {_TIME: _turn_time(tensors[_TIME])}
    for name in (_HEAD + "weight", _HEAD + "bias"):
        rows = tensors[name].unflatten(0, (patch_size**2, -1))[:, :channels]
        turned[name] = -rows.flatten(0, 1).float()
    return {**tensors, **turned}


def _turn_time(weight: Tensor) -> Tensor:
    """Return the layer that makes of the sinusoids of t what `weight` makes of those of 1 - t."""
    frequencies = time_frequencies(weight.shape[1] // 2).to(torch.float64)
    cosines, sines = weight.to(torch.float64).chunk(2, dim=1)
    cos, sin = frequencies.cos(), frequencies.sin()
    return torch.cat([cosines * cos + sines * sin, cosines * sin - sines * cos], dim=1).float()
