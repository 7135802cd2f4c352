"""Schedules: which times a sampler visits.

Times fall from t = 1 (noise) to t = 0 (data). They are plain Python floats, of float64's
precision: comparing one with the guidance interval asks nothing of the device.
"""

from collections.abc import Callable, Sequence
from itertools import pairwise
from math import inf

import torch

from samplers.guidance import GuidanceInterval
from samplers.interpolant import Interpolant, LinearInterpolant
from samplers.multistep import ROUNDING
from samplers.names import GridName

SDE_LAST_STEP_SIZE = 0.04
"""The published protocol takes its last, noise-free SDE step from here to 0 in one go."""

RATIO_ENDS = (20.0, 0.01)
"""First and last ratio of noise to signal of grids that are spaced by it."""


def ode_times(num_steps: int) -> list[float]:
    """Return the num_steps + 1 equally spaced times from 1 to 0, both included."""
    return _falling_times(0.0, num_steps, num_steps + 1)


def sde_times(num_steps: int) -> list[float]:
    """Return num_steps equally spaced times from 1 to SDE_LAST_STEP_SIZE, and then 0."""
    return [*_falling_times(SDE_LAST_STEP_SIZE, num_steps, num_steps), 0.0]


def grid_times(
    grid: GridName,
    num_steps: int,
    *,
    shift: float = 1.0,
    interpolant: Interpolant | None = None,
    ends: tuple[float, float] = RATIO_ENDS,
) -> list[float]:
    """Return the num_steps + 1 times of a grid, which fall from 1 to 0.

    With s the ratio of the path's sigma to its alpha,

    * `uniform`: equally spaced in t;
    * `shifted`: `uniform` with t replaced by shift t / (1 + (shift - 1) t): more steps at the noise
      above 1, at the data below;
    * `logsnr`: log s equally spaced between the two ends;
    * `karras`: s^(1/7) equally spaced between the two ends.

    As s is infinite at t = 1 on most paths and 0 at t = 0, the ends are s = 20 and 0.01, on the
    linear path t = 0.952 and 0.0099. The first step leads to the one and the last from the other.
    EDM's own ends, 80 and 0.002, leave a dozen steps too far apart.

    Args:
        grid: Its name, but not `published`, which is the sampler's own.
        num_steps: At least 1, and 2 for the last two grids.
        shift: Above 0.
        interpolant: The path; None is the linear one.
        ends: Largest and smallest s of the last two grids.

    Raises:
        ValueError: A name is unknown, a number is out of its range, or times fall together.

    Source:
        Shifted: Stable Diffusion 3 (arXiv 2403.03206), equation 23. Karras: EDM (arXiv 2206.00364),
        equation 5 with rho = 7.
    """
    if grid not in ("uniform", "shifted", "logsnr", "karras"):
        raise ValueError(f"grid must be uniform, shifted, logsnr or karras, got {grid!r}.")
    if not 0 < shift < inf:
        raise ValueError(f"shift must be above 0 and finite, got {shift}.")
    times = ode_times(num_steps)
    if grid == "shifted":
        times = [shift * t / (shift * t + (1 - t)) for t in times]
    elif grid != "uniform":
        if num_steps < 2:
            raise ValueError(f"num_steps must be at least 2 on the grid {grid}, got {num_steps}.")
        power = 1 / 7 if grid == "karras" else 0.0
        times = [
            1.0,
            *_times_by_ratio(power, num_steps - 1, interpolant or LinearInterpolant(), ends),
            0.0,
        ]
    if not all(t > t_next for t, t_next in pairwise(times)):
        raise ValueError(f"times must fall: {num_steps} steps are too many for this {grid} grid.")
    return times


def _times_by_ratio(
    power: float, count: int, interpolant: Interpolant, ends: tuple[float, float]
) -> list[float]:
    """Return times whose ratio of sigma to alpha has equally spaced powers, or logarithms for 0."""
    raised = (lambda s: s**power) if power else torch.log
    lowered = (lambda s: s ** (1 / power)) if power else torch.exp
    first, last = raised(torch.tensor(ends, dtype=torch.float64))
    ratios = lowered(torch.linspace(0, 1, count, dtype=torch.float64) * (last - first) + first)
    # The ratio rises with t on every path, so that halving finds its time to the last digit.
    low, high = torch.zeros_like(ratios), torch.ones_like(ratios)
    for _ in range(60):
        middle = (low + high) / 2
        at = interpolant.coefficients(middle)
        above = at.sigma > ratios * at.alpha
        low, high = torch.where(above, low, middle), torch.where(above, middle, high)
    return high.tolist()


def without_straddling(
    times: Sequence[float], interval: GuidanceInterval, jumps: Sequence[float] = ()
) -> list[float]:
    """Move the nearest inner time to each end of the guidance interval that lies between times.

    So to each of `jumps`, times at which the velocity is another than above them. As many steps as
    before, and none of them has only a part inside the interval, or on one side of a jump, unless
    there are fewer inner times than ends and jumps: each takes the nearest time of those that leave
    enough for the others. Of ends and jumps that `ROUNDING` hardly tells apart, the lowest is all.
    """
    sought = {interval.low, interval.high, *jumps}
    inner = sorted(end for end in sought if times[-1] < end < times[0])
    ends = [end for below, end in pairwise([times[-1], *inner]) if end - below > 3 * ROUNDING]
    moved, free = list(times), range(1, len(times) - 1)
    for to_come, end in zip(reversed(range(len(ends))), reversed(ends), strict=True):
        if free:
            leaving_enough = free[: max(len(free) - to_come, 1)]
            nearest = min(leaving_enough, key=lambda i: abs(times[i] - end))
            moved[nearest] = end
            free = range(nearest + 1, len(times) - 1)
    return moved


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
