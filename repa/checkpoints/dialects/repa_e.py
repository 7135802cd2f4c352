"""REPA-E: the network is trained in a space that a batch norm of the autoencoder's latents spans.

The norm's statistics are in the file, and samples are turned back by them, without the norm's eps;
so is the autoencoder, as it was tuned together with the network.
The form that trains no autoencoder has them in a file of their own as well, which is what its code
samples by; the file's agree with them but for rounding.

Source:
    REPA-E models/sit.py and generate.py at 3ad8046.
"""

from dataclasses import replace

import torch

from repa.autoencoders.latent_space import LatentSpace
from repa.checkpoints.architecture import Converted, converted
from repa.checkpoints.contents import Contents
from repa.checkpoints.hints import ASSUMED, Hints
from repa.tensor_file import is_state_dict

_MEAN, _VARIANCE = "bn.running_mean", "bn.running_var"

TOLD_BY = "a batch norm's statistics (bn.running_mean, bn.running_var)"


def recognise(contents: Contents) -> bool:
    """Whether there are a batch norm's statistics."""
    return {_MEAN, _VARIANCE} <= contents.tensors.keys()


fits = recognise


def convert(contents: Contents, hints: Hints) -> Converted:
    """Return the network without the batch norm, which the latent space is made of."""
    autoencoder = contents.extra.get("vae")
    tensors = {n: t for n, t in contents.tensors.items() if not n.startswith("bn.")}
    space = _space(contents.tensors[_MEAN], contents.tensors[_VARIANCE])
    told = {
        "latent_space": "its own file, scale and bias of its batch norm"
        if autoencoder
        else ASSUMED + _BY_ITS_NORM
    }
    found = converted(tensors, contents, hints, latent_space=space, told=told)
    return replace(found, autoencoder=autoencoder) if is_state_dict(autoencoder) else found


_BY_ITS_NORM = "latents as its batch norm says, which is the statistics file up to rounding"


def _space(mean: torch.Tensor, variance: torch.Tensor) -> LatentSpace:
    if mean.shape != variance.shape or mean.ndim != 1:
        raise ValueError(f"its batch norm has the shapes {mean.shape} and {variance.shape}")
    if not (torch.isfinite(mean) & torch.isfinite(variance) & (variance > 0)).all():
        raise ValueError("its batch norm's statistics are not finite and above 0")
    scale = variance.float().rsqrt().double()  # in float32, as there
    return LatentSpace(scale=tuple((1 / scale).tolist()), bias=tuple(mean.double().tolist()))
