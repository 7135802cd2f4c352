"""Schedules: which times a sampler visits, and at which of them guidance is on.

Times are float64 and fall from t = 1 (noise) to t = 0 (data). They are plain Python floats, so
that comparing one with an interval never waits for a GPU.
"""

from dataclasses import dataclass

import torch

SDE_LAST_STEP_SIZE = 0.04
"""The published protocol takes its last, noise-free SDE step from here to 0 in one go."""


@dataclass(frozen=True)
class GuidanceInterval:
    """The closed interval of times at which guidance is on; `t in interval` tests one time.

    Raises:
        ValueError: Unless 0 <= low <= high <= 1.
    """

    low: float
    high: float

    def __post_init__(self) -> None:
        if not 0 <= self.low <= self.high <= 1:
            raise ValueError(
                "guidance_interval must satisfy 0 <= low <= high <= 1, "
                f"got ({self.low}, {self.high})."
            )

    def __contains__(self, t: float) -> bool:
        return self.low <= t <= self.high


def ode_times(num_steps: int) -> list[float]:
    """Return the num_steps + 1 equally spaced times from 1 to 0, both included."""
    _check_num_steps(num_steps)
    return _falling_times(0.0, num_steps + 1)


def sde_times(num_steps: int) -> list[float]:
    """Return num_steps equally spaced times from 1 to SDE_LAST_STEP_SIZE, and then 0."""
    _check_num_steps(num_steps)
    return [*_falling_times(SDE_LAST_STEP_SIZE, num_steps), 0.0]


def _check_num_steps(num_steps: int) -> None:
    if num_steps < 1:
        raise ValueError(f"num_steps must be at least 1, got {num_steps}.")


def _falling_times(last: float, count: int) -> list[float]:
    # torch's linspace hits 0.2 exactly with 6 points where numpy's gives 0.19999999999999996,
    # which would put that step outside the guidance interval [0.2, 0.6]. torch on the CPU is
    # also what the reference uses, and intervals are closed.
    return torch.linspace(1.0, last, count, dtype=torch.float64, device="cpu").tolist()
