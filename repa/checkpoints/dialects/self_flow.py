"""Self-Flow: original SiT's conventions, patches embedded by a linear layer, all channels guided.

A patch is a row of channels, each with its pixels row by row, which is the order of a convolution's
weight. The head for its own features is dropped.

Source:
    Self-Flow src/model.py and sample.py at 53db4f0 (black-forest-labs/Self-Flow).
"""

import math

from repa.checkpoints.architecture import Converted, converted
from repa.checkpoints.contents import Contents
from repa.checkpoints.dialects.sit import TURNED, in_our_convention
from repa.checkpoints.hints import ASSUMED, Hints

_PATCHES, _HEAD = "x_embedder.proj.weight", "projector."
_CHANNELS = 4  # of Stable Diffusion's latents, the only ones that it was published for

TOLD_BY = "patches that are embedded by a linear layer"


def recognise(contents: Contents) -> bool:
    """Whether patches are embedded by a linear layer."""
    patches = contents.tensors.get(_PATCHES)
    return patches is not None and patches.ndim == 2


fits = recognise


def convert(contents: Contents, hints: Hints) -> Converted:
    """Return the network in our convention, patches embedded by a convolution."""
    tensors = {n: t for n, t in contents.tensors.items() if not n.startswith(_HEAD)}
    linear = tensors[_PATCHES]
    side = math.isqrt(linear.shape[1] // _CHANNELS)
    if _CHANNELS * side**2 != linear.shape[1]:
        raise ValueError(
            f"its patches of {linear.shape[1]} numbers are not of {_CHANNELS} channels"
        )
    tensors[_PATCHES] = linear.unflatten(1, (_CHANNELS, side, side))
    taken = f"{_CHANNELS} channels, which patches of {linear.shape[1]} numbers do not tell"
    told = {"prediction": TURNED, "in_channels": ASSUMED + taken}
    turned = in_our_convention(tensors)
    return converted(turned, contents, hints, told=told, path_type="linear")
