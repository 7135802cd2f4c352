"""Products of bfloat16 values on a CPU without instructions for them, at about float32's speed.

PyTorch takes ten to forty times float32's time for them there. Within `narrow_products` linear
layers and convolutions that have bfloat16 inputs, or run under bfloat16 autocast, round their
inputs to bfloat16, multiply and add in float32, and round the result, as such instructions do; the
order of sums differs. Attention and all else are PyTorch's own.

It is for what bf16 does to numbers, never for how fast it is.
"""

from contextlib import contextmanager

import torch
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

PRODUCTS = {F.linear, torch.conv2d, F.conv2d}


class _Narrow(TorchFunctionMode):
    def __torch_function__(self, function, types, args=(), kwargs=None):
        """Compute a product of narrow values widely, and everything else as it is."""
        kwargs = kwargs or {}
        if function not in PRODUCTS:
            return function(*args, **kwargs)
        autocast = torch.is_autocast_enabled("cpu")
        if not autocast and args[0].dtype != torch.bfloat16:
            return function(*args, **kwargs)
        wide = [rounded(each) for each in args]
        named = {name: rounded(each) for name, each in kwargs.items()}
        with torch.autocast("cpu", enabled=False):
            return function(*wide, **named).bfloat16()


def rounded(value):
    """Return a tensor's values rounded to bfloat16, in float32; anything else as it is."""
    if isinstance(value, torch.Tensor) and value.is_floating_point():
        return value.bfloat16().float()
    return value


@contextmanager
def narrow_products():
    """Compute products of bfloat16 values by float32 ones, on a CPU, within the block."""
    with _Narrow():
        yield
