"""iREPA: REPA's network with other projectors, and latents normalised channel by channel.

The statistics of the latents are in a file of their own, so that they have to be said. Files of an
older version have REPA's own names for the projectors: the arguments tell them.

Source:
    iREPA ldm/models/sit.py, ldm/train.py and ldm/generate.py at 99ad4ac.
"""

import torch.nn.functional as F
from torch import Tensor

from repa.autoencoders.latent_space import LatentSpace
from repa.checkpoints.architecture import Converted, converted
from repa.checkpoints.contents import Contents
from repa.checkpoints.dialects.repa import fits as fits
from repa.checkpoints.hints import ASSUMED, ELSEWHERE, Hints
from repa.errors import UntoldError
from repa.tensor_file import Tensors

_LAYER = "projection_layer."
_CHANNELS = 4  # of its latents
_KERNEL = 3  # of `repa.models.blocks.ConvProjector`
_AUTOENCODER = "sd-vae-ft-mse"
_STATISTICS = "sdvae-ft-mse-f8d4"  # in the registry

_BY_STATISTICS = (
    f"{ASSUMED}it is iREPA's, decoded by {_AUTOENCODER}, as statistics of its latents are said, "
    "which REPA has none of"
)

TOLD_BY = "a projector's projection_layer, or its trainer's arguments"


def recognise(contents: Contents) -> bool:
    """Whether a projector has iREPA's names, or the arguments are those of its trainer."""
    named = any(_LAYER in name for name in contents.tensors)
    return named or "projection_layer_type" in contents.args


def is_told_by(latents: LatentSpace | None, contents: Contents) -> bool:
    """Whether a file without arguments is iREPA's by what is said of its latents.

    Older files are REPA's by names and shapes, and REPA's latents have no number a channel.
    """
    patches = contents.tensors.get("x_embedder.proj.weight")
    four = patches is not None and patches.ndim == 4 and patches.shape[1] == _CHANNELS
    several = latents is not None and latents.num_channels is not None
    return several and four and fits(contents) and not contents.args


def convert(contents: Contents, hints: Hints) -> Converted:
    """Return the network with its projectors in the names and shapes of ours."""
    if hints.latents is None and hints.stated is None:
        raise UntoldError(
            "is iREPA's, whose latents are normalised by statistics in another file: say --latents "
            f"{_STATISTICS} (in Python latents), or a file of those that it was trained with"
        )
    tensors: Tensors = {}
    for name, tensor in contents.tensors.items():
        tensors = {**tensors, **_renamed(name, tensor)}
    space = LatentSpace(_AUTOENCODER)  # of which what is said takes scale and bias
    told = {} if hints.stated else {"latent_space": ELSEWHERE}
    told |= {} if recognise(contents) else {"dialect": _BY_STATISTICS}
    return converted(tensors, contents, hints, latent_space=space, told=told)


def _renamed(name: str, tensor: Tensor) -> Tensors:
    """Name a projector's tensor as ours; a linear layer is a convolution of one token."""
    before, layer, rest = name.partition(_LAYER)
    if not layer or rest[:1].isdigit():
        return {before + rest: tensor}
    if rest == "weight":
        kernel = tensor if tensor.ndim == 4 else tensor[:, :, None, None]
        side = kernel.shape[-1]
        if side > _KERNEL or not side % 2:
            raise ValueError(f"{name} is a convolution of {side} x {side}, which is not supported")
        around = (_KERNEL - side) // 2
        tensor = F.pad(kernel, (around,) * 4)
    return {f"{before}conv.{rest}": tensor}
