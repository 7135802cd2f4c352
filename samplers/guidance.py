"""Guidance: a positive velocity, a negative one, a weight and an interval of times.

A guided velocity is negative + weight * (positive - negative). The interval is the sampler's
argument: it decides at which steps guidance is on, and what is here computes one evaluation.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import inf

import torch
from jaxtyping import Int64
from torch import Tensor

from samplers.velocity import ModelFn, VelocityFn

UnguidedFn = Callable[[Tensor, Tensor], Tensor]
"""velocity(x, t) that knows of no guidance: x (batch, *dims) and t (batch,)."""


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
            got = f"({self.low}, {self.high})"
            raise ValueError(f"guidance_interval must satisfy 0 <= low <= high <= 1, got {got}.")

    def __contains__(self, t: float) -> bool:
        return self.low <= t <= self.high


def guided_velocity(positive: UnguidedFn, negative: UnguidedFn, weight: float) -> VelocityFn:
    """Guide a velocity away from a worse one: autoguidance, or any two networks.

    Args:
        positive: What is followed; alone where guidance is off or `weight` is 1.
        negative: What is moved away from; asked at guided evaluations alone.
        weight: At least 1; 1 turns guidance off.

    Returns:
        velocity(x, t, guided) with float64 results, combined in float64.

    Raises:
        ValueError: If the weight is below 1 or not finite.

    Source:
        Autoguidance (arXiv 2406.02507).
    """
    return _guided(positive, lambda x, t: (positive(x, t), negative(x, t)), "weight", weight)


def classifier_free_velocity(
    model: ModelFn, labels: Int64[Tensor, " batch"], null_label: int, cfg_scale: float
) -> VelocityFn:
    """Guide the velocity of some labels away from that of none: classifier-free guidance.

    A guided evaluation is one model call with the batch doubled: first the rows with `labels`,
    then the same rows with `null_label`. An unguided one, or cfg_scale = 1, does not double it.
    What is returned and raised is as of `guided_velocity`.

    Args:
        model: Network that predicts velocities, already in evaluation mode.
        labels: Class of each row, on the device of the noise.
        null_label: The label that stands for "no class"; num_classes in SiT.
        cfg_scale: At least 1; 1 turns guidance off.

    Source:
        Classifier-free guidance (arXiv 2207.12598), in the arithmetic of REPA's samplers.py.
    """
    both_labels = torch.cat([labels, torch.full_like(labels, null_label)])

    def conditional(x: Tensor, t: Tensor) -> Tensor:
        return model(x, t, labels)

    def conditional_and_null(x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        both = model(torch.cat([x, x]), torch.cat([t, t]), both_labels)
        return both[: len(x)], both[len(x) :]

    return _guided(conditional, conditional_and_null, "cfg_scale", cfg_scale)


def _guided(
    positive: UnguidedFn,
    pair: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]],
    name: str,
    weight: float,
) -> VelocityFn:
    """Guide where `pair`, the positive and the negative velocity, may be one evaluation."""
    if not 1 <= weight < inf:
        raise ValueError(f"{name} must be finite and at least 1, got {weight}.")

    def velocity(x: Tensor, t: Tensor, guided: bool) -> Tensor:
        if not guided or weight == 1:
            return positive(x, t).to(torch.float64)
        followed, left = (each.to(torch.float64) for each in pair(x, t))
        return left + weight * (followed - left)

    return velocity
