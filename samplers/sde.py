"""Stochastic sampling: Euler-Maruyama on the reverse SDE whose marginals are the path's.

    dx = (velocity - t * score) dt + sqrt(2 t) dW,   from noise (t = 1) to data (t = 0)

The state is float64 whatever the velocity's dtype. The random numbers are the caller's. No step
waits for a GPU: times are Python floats, and normals from the CPU are copied without blocking.
"""

from collections.abc import Callable, Sequence
from itertools import pairwise
from math import sqrt

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from samplers.guidance import GuidanceInterval
from samplers.interpolant import Interpolant, score_from_velocity
from samplers.schedule import chosen_times, sde_times
from samplers.velocity import TimeFn, VelocityFn, float64_velocity

NormalFn = Callable[[int], Tensor]
"""normal(step): standard normals shaped like the noise for the increment of step 0, 1, ..."""


@torch.no_grad()
def sample_sde(
    velocity: VelocityFn,
    noise: Float[Tensor, "batch *dims"],
    *,
    num_steps: int | None = None,
    times: Sequence[float] | None = None,
    interpolant: Interpolant,
    guidance_interval: tuple[float, float] = (0.0, 1.0),
    normal: NormalFn,
    on_time: TimeFn | None = None,
) -> Float64[Tensor, "batch *dims"]:
    """Turn noise (t = 1) into data (t = 0) by Euler-Maruyama; the last step adds no noise.

    By the published schedule the first num_steps - 1 steps are equal and reach t = 0.04; the last
    one jumps from there to 0 by the drift alone. It is several times longer than the others, so
    the samples' variance comes out too small (in 250 steps, 0.978 of the exact one for Gaussian
    data of standard deviation 0.5, 0.60 for 0.1): that is the protocol of the published numbers.

    Args:
        velocity: As in `sample_ode`.
        noise: As in `sample_ode`.
        num_steps: Steps of the published schedule, one velocity evaluation each.
        times: As in `sample_ode`; the last step is still the drift-only one.
        interpolant: The path that `velocity` was trained on; its score needs it.
        guidance_interval: Closed, as (low, high); decided at the start of a step.
        normal: Called once for each step but the last, 0, 1, ... in turn; moved to the noise's
            device and used in float64.
        on_time: As in `sample_ode`; never waits for a GPU.

    Returns:
        The state at t = 0, shaped like `noise`.

    Raises:
        ValueError: As `sample_ode`, or normals have a shape other than the noise's.

    Source:
        REPA samplers.py, euler_maruyama_sampler. The diffusion is 2 t for every path, as there:
        2 sigma of the linear one.
    """
    interval = GuidanceInterval(*guidance_interval)
    slope_at = float64_velocity(velocity, noise.dtype, on_time)
    x = noise.to(torch.float64)
    grid = chosen_times(num_steps, times, sde_times)
    for step, (t, t_next) in enumerate(pairwise(grid)):
        slope = slope_at(x, t, t in interval)
        score = score_from_velocity(slope, x, x.new_full((), t), interpolant)
        x = x + (t_next - t) * (slope - t * score)
        if t_next > 0:
            x = x + sqrt(2 * t * (t - t_next)) * checked_normals(normal(step), x)
    return x


def checked_normals(normals: Tensor, x: Tensor) -> Tensor:
    """Return normals in float64 on the device of `x`; a ValueError if they have another shape."""
    # Broadcasting would give the rows of a batch the same noise without a word.
    if normals.shape != x.shape:
        wanted, got = tuple(x.shape), tuple(normals.shape)
        raise ValueError(f"normal(step) must have the noise's shape {wanted}, got {got}.")
    # From a GPU to the CPU, a copy that does not block would be read before it is there.
    return normals.to(x.device, x.dtype, non_blocking=x.is_cuda)
