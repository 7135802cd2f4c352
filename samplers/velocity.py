"""Velocities: the one function a sampler sees, and classifier-free guidance that makes one.

A sampler asks velocity(x, t, guided) and decides `guided` from its guidance interval; how
guidance is computed, and what network answers, is the velocity's own affair.
"""

from collections.abc import Callable
from math import inf

import torch
from jaxtyping import Int64
from torch import Tensor

VelocityFn = Callable[[Tensor, Tensor, bool], Tensor]
"""velocity(x, t, guided): x (batch, *dims) and t (batch,) in the noise's dtype, t = 1 noise."""

ModelFn = Callable[[Tensor, Tensor, Tensor], Tensor]
"""model(x, t, labels): the velocity for labels (batch,), shaped like x."""

Float64VelocityFn = Callable[[Tensor, float, bool], Tensor]
"""velocity(x, t, guided) as the samplers' loops see it: float64 in and out, one time for all."""


def classifier_free_velocity(
    model: ModelFn,
    labels: Int64[Tensor, " batch"],
    null_label: int,
    cfg_scale: float,
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
    if not 1 <= cfg_scale < inf:
        raise ValueError(f"cfg_scale must be finite and at least 1, got {cfg_scale}.")
    both_labels = torch.cat([labels, torch.full_like(labels, null_label)])

    def velocity(x: Tensor, t: Tensor, guided: bool) -> Tensor:
        if not guided or cfg_scale == 1:
            return model(x, t, labels).to(torch.float64)
        both = model(torch.cat([x, x]), torch.cat([t, t]), both_labels).to(torch.float64)
        conditional, null = both.chunk(2)
        return null + cfg_scale * (conditional - null)

    return velocity


def float64_velocity(velocity: VelocityFn, dtype: torch.dtype) -> Float64VelocityFn:
    """Wrap `velocity`, which computes in `dtype`, for a float64 state and one time for all rows."""

    def wrapped(x: Tensor, t: float, guided: bool) -> Tensor:
        times = torch.full((len(x),), t, dtype=dtype, device=x.device)
        return velocity(x.to(dtype), times, guided).to(torch.float64)

    return wrapped
