"""Multistep methods: what was found at earlier times, and the polynomial through it, integrated.

A method of order n remembers the values of its last n evaluations and integrates the polynomial
through them over the next step, whatever the lengths of the steps. Nothing is remembered across a
change of guidance, or a time at which the velocity jumps.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from torch import Tensor

from samplers.guidance import GuidanceInterval

Density = Callable[[np.ndarray], np.ndarray]
"""What a polynomial is weighted with: density(u) at places u, shaped like them."""

ROUNDING = 1e-6
"""Times of a velocity may be float32; as near a jump as this, one counts as the jump itself."""

# Of an exponential over a step as long as exp(20) in noise level, to float64's last digits.
_PLACES, _SHARES = np.polynomial.legendre.leggauss(32)


@dataclass
class History:
    """The last evaluations of one phase, the newest first: their places and their values."""

    length: int
    phase: object = None
    places: list[float] = field(default_factory=list)
    values: list[Tensor] = field(default_factory=list)

    def begin(self, phase: object) -> bool:
        """Forget everything if the phase changes; return whether anything is remembered."""
        if phase != self.phase:
            self.phase, self.places, self.values = phase, [], []
        return bool(self.places)

    def add(self, place: float, value: Tensor) -> None:
        """Remember an evaluation, and forget the oldest if there are too many."""
        self.places = [place, *self.places][: self.length]
        self.values = [value, *self.values][: self.length]


def guided_step(t: float, t_next: float, interval: GuidanceInterval) -> bool:
    """Whether a step is guided: its middle is. So no step is that has only an end inside."""
    return (t + t_next) / 2 in interval


def phase_of(t: float, guided: bool, jumps: Sequence[float]) -> tuple[bool, int]:
    """Return what tells evaluations that go on from each other from those that do not.

    It is the guidance, and how many jumps are still ahead: the velocity at one is that below it.
    """
    return guided, sum(t > jump + ROUNDING for jump in jumps)


def integrals(
    places: Sequence[float], start: float, end: float, density: Density | None = None
) -> list[float]:
    """Return for each place the integral from `start` to `end` of the polynomial that is 1 there.

    It is 0 at the other places (Lagrange's). The sum of value times integral is then that of the
    polynomial through the values.
    """
    at = start + (end - start) * (1 + _PLACES) / 2
    shares = (end - start) / 2 * _SHARES * (1 if density is None else density(at))
    found = []
    for place in places:
        others = [other for other in places if other != place]
        factors = [(at - other) / (place - other) for other in others]
        found.append(float((shares * np.prod(factors, axis=0)).sum()))
    return found


def combined(shares: Sequence[float], values: Sequence[Tensor]) -> Tensor:
    """Return the sum of share times value, the smallest shares, of the oldest values, first."""
    total = shares[-1] * values[-1]
    for share, value in zip(shares[-2::-1], values[-2::-1], strict=True):
        total = total + share * value
    return total
