"""Guidance: a positive velocity, a negative one, a weight and an interval of times.

A guided velocity is negative + weight * (positive - negative), unless another `Extrapolation` is
asked for; every row of a batch is guided by itself. The interval is the sampler's argument: it
decides at which steps guidance is on, and what is here computes one evaluation.
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

Extrapolation = Callable[[Tensor, Tensor, Tensor, float], Tensor]
"""guided(positive, negative, t, weight): velocities float64 (batch, *dims), t (batch,)."""


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


def plain(positive: Tensor, negative: Tensor, t: Tensor, weight: float) -> Tensor:
    """Return negative + weight * (positive - negative), as classifier-free guidance does."""
    return negative + weight * (positive - negative)


ZERO_SHARE = 0.04
"""How much of the time CFG-Zero* has no velocity at first, as published."""


def zero_star(zero_share: float = ZERO_SHARE) -> Extrapolation:
    """Scale the negative to fit the positive best, and have no velocity at first: CFG-Zero*.

    An ODE's state then stands still, by solvers of one evaluation a step; Heun's corrector may see
    the velocity below already. That of an SDE moves on by the score and the noise.

    Args:
        zero_share: The guided velocity is 0 where t > 1 - zero_share: on equal steps in the first
            zero_share of them, 4 % as published. Steps that are not guided are as ever. Solvers
            that go by earlier evaluations have to be told of the jump, as `sample_adams` is by its
            `jumps`; explicit_adams and implicit_adams of `sample_ode` remember across it.

    Raises:
        ValueError: Unless 0 <= zero_share < 1.

    Source:
        CFG-Zero* (arXiv 2503.18886): a row's scale is <positive, negative> / |negative|^2.
    """
    if not 0 <= zero_share < 1:
        raise ValueError(f"zero_share must be at least 0 and below 1, got {zero_share}.")

    def guided(positive: Tensor, negative: Tensor, t: Tensor, weight: float) -> Tensor:
        fitted = _along(positive, negative)
        # Times may be float32: 1 - zero_share itself is one that moves.
        moves = t <= 1 - zero_share + torch.finfo(t.dtype).eps
        velocity = fitted + weight * (positive - fitted)
        return torch.where(moves.reshape(-1, *[1] * (velocity.ndim - 1)), velocity, 0.0)

    return guided


def projected(parallel: float = 0.0, bound: float = inf, momentum: float = 0.0) -> Extrapolation:
    """Bound what is added to the positive, and damp its part along it: adaptive projected guidance.

    The difference of the velocities, with momentum, is cut to the length `bound` and split into the
    part along the positive velocity and the rest; positive + (weight - 1) * (rest + parallel *
    part) is the guided velocity. With parallel 1, no bound and no momentum it is the plain one.
    With momentum it remembers the last evaluation: make one for each batch that is sampled.

    Args:
        parallel: How much of the part along the positive stays, from 0, as published, to 1.
        bound: Longest difference of a row, in the 2-norm over all its numbers; inf for none.
        momentum: How much of the sum so far each evaluation adds, in (-1, 1); published are
            negative ones. Heun has two evaluations a step.

    Raises:
        ValueError: A number is out of its range.

    Source:
        APG (arXiv 2410.02416), on velocities as in diffusers' guider; the paper has it on the
        predicted data.
    """
    if not 0 <= parallel <= 1:
        raise ValueError(f"parallel must be from 0 to 1, got {parallel}.")
    if not bound > 0:
        raise ValueError(f"bound must be above 0, got {bound}.")
    if not -1 < momentum < 1:
        raise ValueError(f"momentum must be between -1 and 1, got {momentum}.")
    before: list[Tensor] = []

    def guided(positive: Tensor, negative: Tensor, t: Tensor, weight: float) -> Tensor:
        added = positive - negative
        if momentum:
            added = added + momentum * before.pop() if before else added
            before.append(added)
        if bound < inf:
            length = _dot(added, added).sqrt()
            added = added * (bound / length).clamp(max=1)
        return positive + (weight - 1) * (added - (1 - parallel) * _along(added, positive))

    return guided


def guided_velocity(
    positive: UnguidedFn,
    negative: UnguidedFn,
    weight: float,
    *,
    extrapolation: Extrapolation = plain,
) -> VelocityFn:
    """Guide a velocity away from a worse one: autoguidance, or any two networks.

    Args:
        positive: What is followed; alone where guidance is off or `weight` is 1.
        negative: What is moved away from; asked at guided evaluations alone.
        weight: At least 1; 1 turns guidance off.
        extrapolation: `plain`, `zero_star()` or `projected()`.

    Returns:
        velocity(x, t, guided) with float64 results, combined in float64.

    Raises:
        ValueError: If the weight is below 1 or not finite.

    Source:
        Autoguidance (arXiv 2406.02507).
    """

    def both(x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        return positive(x, t), negative(x, t)

    return _guided(positive, both, "weight", weight, extrapolation)


def classifier_free_velocity(
    model: ModelFn,
    labels: Int64[Tensor, " batch"],
    null_label: int,
    cfg_scale: float,
    *,
    guided_channels: int | None = None,
    extrapolation: Extrapolation = plain,
) -> VelocityFn:
    """Guide the velocity of some labels away from that of none: classifier-free guidance.

    A guided evaluation is one model call with the batch doubled: first the rows with `labels`,
    then the same rows with `null_label`. An unguided one, or cfg_scale = 1, does not double it.
    What is returned is as of `guided_velocity`.

    Args:
        model: Network that predicts velocities, already in evaluation mode.
        labels: Class of each row, on the device of the noise.
        null_label: The label that stands for "no class"; num_classes in SiT.
        cfg_scale: At least 1; 1 turns guidance off.
        guided_channels: How many of the leading channels are guided, the others being those of the
            labels; None is all. It is 3 in DiT and SiT, where a scale of 1.5 is about as strong as
            1.375 on all four.
        extrapolation: As of `guided_velocity`, on the guided channels.

    Raises:
        ValueError: As of `guided_velocity`, or guided_channels is below 1.

    Source:
        Classifier-free guidance (arXiv 2207.12598), in the arithmetic of REPA's samplers.py; the
        channels: forward_with_cfg in DiT's and SiT's models.py.
    """
    if guided_channels is not None and guided_channels < 1:
        raise ValueError(f"guided_channels must be at least 1, got {guided_channels}.")
    both_labels = torch.cat([labels, torch.full_like(labels, null_label)])

    def conditional(x: Tensor, t: Tensor) -> Tensor:
        return model(x, t, labels)

    def conditional_and_null(x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        both = model(torch.cat([x, x]), torch.cat([t, t]), both_labels)
        return both[: len(x)], both[len(x) :]

    return _guided(
        conditional, conditional_and_null, "cfg_scale", cfg_scale, extrapolation, guided_channels
    )


def internally_guided(
    velocities: Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]],
    weight: float,
    interval: tuple[float, float] = (0.0, 1.0),
) -> ModelFn:
    """Guide a network away from its own worse guess: internal guidance, with or without labels.

    What is returned is a model like any other, which classifier-free guidance may guide further.
    Solvers that go by earlier evaluations have to be told of the jumps at the ends of the interval.

    Args:
        velocities: velocities(x, t, labels), the full velocity and the worse one.
        weight: At least 1; 1 turns guidance off.
        interval: Closed, the times of guidance as (low, high), in the precision of the times.

    Raises:
        ValueError: The weight is below 1 or not finite, or the interval not one.

    Source:
        Internal-Guidance SiT/samplers.py at d048cc3, euler_maruyama_ig_sampler.
    """
    if not 1 <= weight < inf:
        raise ValueError(f"weight must be finite and at least 1, got {weight}.")
    GuidanceInterval(*interval)

    def model(x: Tensor, t: Tensor, labels: Tensor) -> Tensor:
        full, worse = velocities(x, t, labels)
        low, high = (torch.tensor(end, dtype=t.dtype, device=t.device) for end in interval)
        inside = ((low <= t) & (t <= high)).reshape(-1, *[1] * (x.ndim - 1))
        return torch.where(inside & (weight > 1), worse + weight * (full - worse), full)

    return model


def _guided(
    positive: UnguidedFn,
    pair: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]],
    name: str,
    weight: float,
    extrapolation: Extrapolation,
    channels: int | None = None,
) -> VelocityFn:
    """Guide where `pair`, the positive and the negative velocity, may be one evaluation."""
    if not 1 <= weight < inf:
        raise ValueError(f"{name} must be finite and at least 1, got {weight}.")

    def velocity(x: Tensor, t: Tensor, guided: bool) -> Tensor:
        if not guided or weight == 1:
            return positive(x, t).to(torch.float64)
        followed, left = (each.to(torch.float64) for each in pair(x, t))
        if channels is None:
            return extrapolation(followed, left, t, weight)
        turned = extrapolation(followed[:, :channels], left[:, :channels], t, weight)
        return torch.cat([turned, followed[:, channels:]], dim=1)

    return velocity


def _dot(one: Tensor, other: Tensor) -> Tensor:
    """Return the inner product of each row, (batch, 1, ...)."""
    return (one * other).flatten(1).sum(1).reshape(-1, *[1] * (one.ndim - 1))


def _along(vector: Tensor, direction: Tensor) -> Tensor:
    """Return the part of each row of `vector` along that of `direction`; 0 along 0."""
    least = torch.finfo(direction.dtype).tiny
    return _dot(vector, direction) / _dot(direction, direction).clamp(min=least) * direction
