"""Schedules: which times a sampler visits.

Times fall from t = 1 (noise) to t = 0 (data). They are plain Python floats, of float64's
precision: comparing one with the guidance interval asks nothing of the device.
"""

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch

SDE_LAST_STEP_SIZE = 0.04
"""The published protocol takes its last, noise-free SDE step from here to 0 in one go."""


def ode_times(num_steps: int) -> list[float]:
    """Return the num_steps + 1 equally spaced times from 1 to 0, both included."""
    return _falling_times(0.0, num_steps, num_steps + 1)


def sde_times(num_steps: int) -> list[float]:
    """Return num_steps equally spaced times from 1 to SDE_LAST_STEP_SIZE, and then 0."""
    return [*_falling_times(SDE_LAST_STEP_SIZE, num_steps, num_steps), 0.0]


def chosen_times(
    num_steps: int | None, times: Sequence[float] | None, published: Callable[[int], list[float]]
) -> list[float]:
    """Return the caller's times as they are, or the published ones of a number of steps.

    Raises:
        ValueError: Unless exactly one of the two is given; if num_steps is below 1; unless times
            are two or more, each below the one before, the first at most 1 and the last 0.
    """
    if (num_steps is None) == (times is None):
        raise ValueError(
            f"exactly one of num_steps and times must be given, got {num_steps} and {times}."
        )
    if num_steps is not None:
        return published(num_steps)
    visited = [float(t) for t in times or ()]
    falling = all(t > t_next for t, t_next in pairwise(visited))
    if len(visited) < 2 or not falling or visited[0] > 1 or visited[-1] != 0:
        raise ValueError(f"times must be two or more that fall from at most 1 to 0, got {visited}.")
    return visited


def _falling_times(last: float, num_steps: int, count: int) -> list[float]:
    if num_steps < 1:
        raise ValueError(f"num_steps must be at least 1, got {num_steps}.")
    # torch's linspace hits 0.2 exactly with 6 points where numpy's gives 0.19999999999999996,
    # which would put that step outside the guidance interval [0.2, 0.6]. torch on the CPU is
    # also what the reference uses, and intervals are closed.
    return torch.linspace(1.0, last, count, dtype=torch.float64, device="cpu").tolist()
