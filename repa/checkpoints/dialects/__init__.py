"""Dialects: the forms in which people publish checkpoints, one file each.

`DIALECTS` lists them by name in the order in which they are tried, `convert` finds the one that a
file speaks. Another dialect is another file and another line.
"""

from typing import Protocol

from repa.checkpoints.contents import Extra, Tensors
from repa.checkpoints.dialects import ours, reference_trainer, repa
from repa.checkpoints.settings import CheckpointSettings

__all__ = ["DIALECTS", "Dialect", "convert"]


class Dialect(Protocol):
    """What a dialect's file defines; `tensors` and `extra` are from `contents.read_contents`."""

    def recognise(self, tensors: Tensors, extra: Extra) -> bool:
        """Whether a file speaks this dialect, or one that stands later in the list."""
        ...

    def convert(
        self, tensors: Tensors, extra: Extra, stated: Extra | None
    ) -> tuple[CheckpointSettings, Tensors]:
        """Return what a recognised file holds, and the state dict of that network.

        A description that is `stated`, in the registry, takes the place of what the file says or
        its shapes tell. For an odd file anything that `convert` below names may be raised.
        """
        ...


DIALECTS: dict[str, Dialect] = {"ours": ours, "reference_trainer": reference_trainer, "repa": repa}


def convert(
    tensors: Tensors, extra: Extra, stated: Extra | None
) -> tuple[str, CheckpointSettings, Tensors]:
    """Return the dialect's name and what it makes of a file.

    Raises:
        ValueError: No dialect recognises it, or it is odd.
        TypeError, AttributeError, LookupError, ArithmeticError: It is odd.
    """
    for name, dialect in DIALECTS.items():
        if dialect.recognise(tensors, extra):
            return name, *dialect.convert(tensors, extra, stated)
    keys = ", ".join(str(key) for key in list(extra)[:4]) or "(none)"
    raise ValueError(f"holds neither a state dict nor one under the key 'ema', but the keys {keys}")
