"""Dialects: the forms in which people publish checkpoints, one file each.

`DIALECTS` lists them by name in the order in which they are tried, `convert` finds the one that a
file speaks. Another dialect is another file and another line.
"""

from collections.abc import Mapping
from typing import Any, Protocol

from torch import Tensor

from repa.checkpoints.dialects import ours, reference_trainer, repa
from repa.checkpoints.settings import CheckpointSettings

__all__ = ["DIALECTS", "Dialect", "convert"]

_NAMED_KEYS = 4


class Dialect(Protocol):
    """What a dialect's file defines. `tensors` and `extra` are `contents.Contents`."""

    def recognise(self, tensors: Mapping[str, Tensor], extra: Mapping[str, Any]) -> bool:
        """Whether a file speaks this dialect, or one that stands later in the list."""
        ...

    def convert(
        self,
        tensors: Mapping[str, Tensor],
        extra: Mapping[str, Any],
        stated: Mapping[str, Any] | None,
    ) -> tuple[CheckpointSettings, Mapping[str, Tensor]]:
        """Return what a recognised file holds, and the state dict of that network.

        Args:
            tensors: As for `recognise`.
            extra: As for `recognise`.
            stated: A description that takes the place of what the file says or its shapes tell,
                from the registry.

        Raises:
            ValueError, TypeError, AttributeError, LookupError, ArithmeticError: The file is odd.
        """
        ...


DIALECTS: dict[str, Dialect] = {"ours": ours, "reference_trainer": reference_trainer, "repa": repa}


def convert(
    tensors: Mapping[str, Tensor], extra: Mapping[str, Any], stated: Mapping[str, Any] | None
) -> tuple[str, CheckpointSettings, Mapping[str, Tensor]]:
    """Return the dialect's name and what it makes of a file.

    Raises:
        ValueError: No dialect recognises it; other errors as of `Dialect.convert`.
    """
    for name, dialect in DIALECTS.items():
        if dialect.recognise(tensors, extra):
            return name, *dialect.convert(tensors, extra, stated)
    keys = ", ".join(str(key) for key in list(extra)[:_NAMED_KEYS]) or "(none)"
    raise ValueError(f"holds neither a state dict nor one under the key 'ema', but the keys {keys}")
