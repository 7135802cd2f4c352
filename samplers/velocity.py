"""Velocities: the one function a sampler sees, and how its loops call it.

A sampler asks velocity(x, t, guided) and decides `guided` from its guidance interval; how
guidance is computed, and what network answers, is the velocity's own affair.
"""

from collections.abc import Callable

import torch
from torch import Tensor

VelocityFn = Callable[[Tensor, Tensor, bool], Tensor]
"""velocity(x, t, guided): x (batch, *dims) and t (batch,) in the noise's dtype, t = 1 noise."""

ModelFn = Callable[[Tensor, Tensor, Tensor], Tensor]
"""model(x, t, labels): the velocity for labels (batch,), shaped like x."""

SlopeFn = Callable[[Tensor, float, bool], Tensor]
"""slope(x, t, guided): the velocity as the loops see it, float64, at one time for all rows."""

TimeFn = Callable[[float], object]
"""on_time(t): told the time of an evaluation, a Python float, before it."""


def float64_velocity(
    velocity: VelocityFn, dtype: torch.dtype, on_time: TimeFn | None = None
) -> SlopeFn:
    """Wrap `velocity`, which computes in `dtype`, for a float64 state and one time for all rows."""

    def wrapped(x: Tensor, t: float, guided: bool) -> Tensor:
        if on_time is not None:
            on_time(t)
        times = torch.full((len(x),), t, dtype=dtype, device=x.device)
        return velocity(x.to(dtype), times, guided).to(torch.float64)

    return wrapped
