"""Adams-Bashforth on the probability-flow ODE: one velocity a step, with the earlier ones' help.

The coefficients are those of the steps as they are, equal or not, so the order holds on any grid.
"""

from collections.abc import Sequence
from itertools import pairwise

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from samplers.guidance import GuidanceInterval
from samplers.multistep import History, combined, guided_step, integrals, phase_of
from samplers.schedule import chosen_times, ode_times, without_straddling
from samplers.velocity import TimeFn, VelocityFn, float64_velocity


@torch.no_grad()
def sample_adams(
    velocity: VelocityFn,
    noise: Float[Tensor, "batch *dims"],
    *,
    num_steps: int | None = None,
    times: Sequence[float] | None = None,
    order: int,
    guidance_interval: tuple[float, float] = (0.0, 1.0),
    jumps: Sequence[float] = (),
    on_time: TimeFn | None = None,
) -> Float64[Tensor, "batch *dims"]:
    """Turn noise (t = 1) into data (t = 0) by Adams-Bashforth; one evaluation a step.

    The first steps have the orders 1, 2, ... until there are enough earlier velocities, and again
    from where guidance switches on or off, or the velocity jumps. A step is guided if its middle is
    in the interval.

    Args:
        velocity: As in `sample_ode`.
        noise: As in `sample_ode`.
        num_steps: Equal steps, of which at each end of the guidance interval, and at each jump, the
            nearest inner time is moved there: no step straddles them, if there are enough of those.
        times: As in `sample_ode`, for unequal steps too; they stay as they are.
        order: Evaluations in a step's polynomial, 1 (Euler) to 4.
        guidance_interval: As (low, high).
        jumps: Times above which the velocity is another than at and below them, such as 0.96 of
            `zero_star`.
        on_time: As in `sample_ode`; never waits for a GPU.

    Returns:
        The state at t = 0, shaped like `noise`.

    Raises:
        ValueError: As `sample_ode`, or the order is not from 1 to 4.

    Source:
        Adams-Bashforth methods of variable step size (Hairer, Norsett and Wanner, Solving Ordinary
        Differential Equations I, section III.5).
    """
    if not 1 <= order <= 4:
        raise ValueError(f"order must be from 1 to 4 in Adams-Bashforth, got {order}.")
    interval = GuidanceInterval(*guidance_interval)
    slope_at = float64_velocity(velocity, noise.dtype, on_time)
    grid = chosen_times(
        num_steps, times, lambda n: without_straddling(ode_times(n), interval, jumps)
    )
    x, history = noise.to(torch.float64), History(order)
    for t, t_next in pairwise(grid):
        guided = guided_step(t, t_next, interval)
        history.begin(phase_of(t, guided, jumps))
        history.add(t, slope_at(x, t, guided))
        x = x + combined(integrals(history.places, t, t_next), history.values)
    return x
