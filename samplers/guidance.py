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

PairFn = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""pair(x, t): the positive and the negative velocity from one evaluation."""


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


def guided_velocity(positive: UnguidedFn, negative: UnguidedFn, weight: float) -> VelocityFn:
    """Guide a velocity away from a worse one: autoguidance, or any two networks.

    Args:
        positive: What is followed; alone where guidance is off or `weight` is 1.
        negative: What is moved away from; asked at guided evaluations alone.
        weight: At least 1; 1 turns guidance off.

    Returns:
        velocity(x, t, guided) with float64 results, combined in float64.

    Raises:
        ValueError: If weight is below 1 or not finite.

    Source:
        Autoguidance (arXiv 2406.02507).
    """
    return guided_velocity_from_pair(
        positive, lambda x, t: (positive(x, t), negative(x, t)), weight
    )


def guided_velocity_from_pair(positive: UnguidedFn, pair: PairFn, weight: float) -> VelocityFn:
    """Do as `guided_velocity` where one evaluation gives both, the positive one first."""
    _check_weight("weight", weight)

    def velocity(x: Tensor, t: Tensor, guided: bool) -> Tensor:
        if not guided or weight == 1:
            return positive(x, t).to(torch.float64)
        followed, left = (each.to(torch.float64) for each in pair(x, t))
        return left + weight * (followed - left)

    return velocity


def classifier_free_velocity(
    model: ModelFn, labels: Int64[Tensor, " batch"], null_label: int, cfg_scale: float
) -> VelocityFn:
    """Return a velocity with classifier-free guidance: null + cfg_scale * (conditional - null).

    A guided evaluation is one model call with the batch doubled: first the rows with `labels`,
    then the same rows with `null_label`. An unguided one, or cfg_scale = 1, does not double it.

    Args:
        model: Network that predicts velocities, already in evaluation mode.
        labels: Class of each row, on the device of the noise.
        null_label: The label that stands for "no class"; num_classes in SiT.
        cfg_scale: At least 1; 1 turns guidance off.

    Returns:
        velocity(x, t, guided) with float64 results: the network's output is combined in float64.

    Raises:
        ValueError: If cfg_scale is below 1 or not finite.

    Source:
        Classifier-free guidance (arXiv 2207.12598), in the arithmetic of REPA's samplers.py.
    """
    _check_weight("cfg_scale", cfg_scale)
    both_labels = torch.cat([labels, torch.full_like(labels, null_label)])

    def conditional(x: Tensor, t: Tensor) -> Tensor:
        return model(x, t, labels)

    def conditional_and_null(x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        both = model(torch.cat([x, x]), torch.cat([t, t]), both_labels)
        return both[: len(x)], both[len(x) :]

    return guided_velocity_from_pair(conditional, conditional_and_null, cfg_scale)


def _check_weight(name: str, weight: float) -> None:
    if not 1 <= weight < inf:
        raise ValueError(f"{name} must be finite and at least 1, got {weight}.")
