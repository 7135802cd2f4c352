"""What a checkpoint's file holds: the state dict that is meant, and what else it tells.

What the tensors are is the dialects' affair; which of a training state's are meant is told here,
because all trainers wrap them alike.
"""

import argparse
from dataclasses import dataclass, field

from repa.tensor_file import Extra, Tensors, is_state_dict

_TRAINING = ("opt", "step", "epoch", "iter", "global_step", "args")
"""Beginnings of the names of what stands beside the weights in a training state alone."""
_PREFIXES = ("module.", "_orig_mod.")  # of torch's wrappers for many processes and for compiling


@dataclass(frozen=True)
class Contents:
    """A file's state dict, as samples are made of it, and what else the file tells.

    `args` are a trainer's arguments, `extra` is all that stands beside the tensors.
    """

    tensors: Tensors
    args: Extra = field(default_factory=dict)
    extra: Extra = field(default_factory=dict)


def unwrap(tensors: Tensors, extra: Extra) -> Contents:
    """Find the state dict that is meant: the file itself, its moving average, or its only one.

    Raises:
        ValueError: There is none, or the raw weights of a training state alone.
    """
    args = arguments_of(extra)
    if tensors:
        return Contents(_without_prefix(tensors), args, extra)
    for key in ("ema", "model", "state_dict"):
        if not is_state_dict(extra.get(key)):
            continue
        if key != "ema" and any(str(name).startswith(_TRAINING) for name in extra):
            reason = "and no moving average under 'ema', which is what samples are made of"
            raise ValueError(f"holds the raw weights of a training run under {key!r} {reason}")
        return Contents(_without_prefix(extra[key]), args, extra)
    keys = ", ".join(str(key) for key in list(extra)[:4]) or "(none)"
    raise ValueError(f"holds neither a state dict nor one under the key 'ema', but the keys {keys}")


def arguments_of(extra: Extra) -> Extra:
    """Return a trainer's arguments by name, which stand beside the tensors as `args`, or none."""
    args = extra.get("args")
    args = vars(args) if isinstance(args, argparse.Namespace) else args
    return args if isinstance(args, dict) else {}


def _without_prefix(tensors: Tensors) -> Tensors:
    for prefix in _PREFIXES:
        if all(name.startswith(prefix) for name in tensors):
            tensors = {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
    return tensors
