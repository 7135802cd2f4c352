"""What steps measured, on the device until it is asked for, and steps that were left out there."""

from torch import Tensor

from repa.errors import NonFiniteError
from repa.training.step import is_finite, read_measured


class Outcomes:
    """The steps of a run as they are taken; the device is waited for by `read` alone.

    Args:
        patience: Steps whose loss or gradient is not finite before the run stops.
        advice: How to go on then.
    """

    def __init__(self, patience: int, advice: str) -> None:
        self._patience, self._advice = patience, advice
        self._unread: list[tuple[int, Tensor]] = []
        self._latest: tuple[int, dict[str, float]] | None = None
        self.left_out: list[int] = []
        """Numbers of the steps that were not finite."""

    def add(self, step: int, measured: Tensor) -> None:
        """Keep what the step of this number measured."""
        self._unread.append((step, measured))

    def of(self, step: int) -> dict[str, float]:
        """Return what a step measured if it is the last one that was read and taken, or nothing."""
        return self._latest[1] if self._latest and self._latest[0] == step else {}

    def read(self) -> tuple[list[tuple[int, dict[str, float]]], list[int]]:
        """Return what steps since the last call measured, and the numbers of those left out."""
        steps = [step for step, _ in self._unread]
        rows = read_measured(tensor for _, tensor in self._unread) if steps else []
        self._unread = []
        taken = [(step, row) for step, row in zip(steps, rows, strict=True) if is_finite(row)]
        left_out = [s for s, row in zip(steps, rows, strict=True) if not is_finite(row)]
        self._latest = taken[-1] if taken else self._latest
        self.left_out += left_out
        return taken, left_out

    def check(self) -> None:
        """Raise NonFiniteError if too many steps were left out; the message says how to go on."""
        if len(self.left_out) >= self._patience:
            shown = numbers_text(self.left_out)
            raise NonFiniteError(
                f"the loss or its gradient was not finite at {shown}. {self._advice}"
            )


def numbers_text(steps: list[int]) -> str:
    """Return the numbers of steps in words, of many the first and the last ones."""
    shown = list(map(str, steps if len(steps) <= 8 else [*steps[:4], "...", *steps[-3:]]))
    return f"step{'s' * (len(steps) > 1)} {', '.join(shown)}"
