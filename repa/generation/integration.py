"""A protocol's solver as one function of a velocity and noise, and the times that it visits."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from repa.generation.settings import Protocol
from repa.generation.solvers import MULTISTEP, order_of
from samplers import (
    EXPONENTIAL_ORDERS,
    PATHS,
    ZERO_SHARE,
    GuidanceInterval,
    Interpolant,
    NormalFn,
    grid_times,
    ode_times,
    sample_adams,
    sample_exponential,
    sample_ode,
    sample_sde,
    sde_times,
    without_straddling,
)
from samplers.multistep import ROUNDING

TOLERANCE = 1e-5  # of adaptive solvers, relative and absolute


def solver_of(protocol: Protocol, path: Interpolant, normal: NormalFn) -> Callable[..., Tensor]:
    """Return the protocol's solver: solve(velocity, noise, on_time=...) is the state at t = 0.

    SDEs take their increments from `normal`, and `path` for the score or the expected data.
    """
    solver, interval = protocol.solver, protocol.guidance_interval
    if solver in MULTISTEP and protocol.cfg_scale == 1:
        interval = (0.0, 1.0)  # where guidance changes nothing, it ends no history
    times = times_of(protocol, path, interval)
    steps = None if times or protocol.adaptive else protocol.num_steps
    shared: dict[str, Any] = {"num_steps": steps, "times": times, "guidance_interval": interval}
    if solver in MULTISTEP:
        shared |= {"order": order_of(solver, protocol.order), "jumps": jumps_of(protocol)}
    if solver == "sde":
        return partial(sample_sde, interpolant=path, normal=normal, **shared)
    if solver in EXPONENTIAL_ORDERS:
        shared |= {"interpolant": path, "normal": normal}
        return partial(sample_exponential, method=solver, **shared)
    if solver in MULTISTEP:
        return partial(sample_adams, **shared)
    return partial(sample_ode, method=solver, rtol=TOLERANCE, atol=TOLERANCE, **shared)


def times_of(
    protocol: Protocol, path: Interpolant, interval: tuple[float, float]
) -> list[float] | None:
    """Return the times that a protocol's solver visits; None are the solver's own.

    The times of multistep solvers, unless they are given one by one, are fitted to the interval,
    and to where the velocity jumps.
    """
    if isinstance(protocol.times, tuple):
        return list(protocol.times)
    if protocol.times != "published":
        times = grid_times(
            protocol.times, protocol.num_steps, shift=protocol.shift, interpolant=path
        )
    elif protocol.solver in MULTISTEP:
        published = sde_times if protocol.solver in ("dpm++sde", "sa") else ode_times
        times = published(protocol.num_steps)
    else:
        return None
    fitted = protocol.solver in MULTISTEP
    if not fitted:
        return times
    return without_straddling(times, GuidanceInterval(*interval), jumps_of(protocol))


def jumps_of(protocol: Protocol) -> tuple[float, ...]:
    """Return where a protocol's velocity jumps by itself, with no word from the solver.

    CFG-Zero*'s does within its interval, internal guidance's at the ends of its own. As that is
    closed, and the velocity at a jump counts as the one below it, its lower jump is just below it.
    """
    low, high = protocol.guidance_interval
    begins = 1 - ZERO_SHARE
    jumps = [begins] if protocol.guidance == "cfg-zero" and low < begins < high else []
    if protocol.internal_scale > 1:
        low, high = protocol.internal_interval
        jumps += [low - 2 * ROUNDING, high]
    return tuple(jump for jump in jumps if 0 < jump < 1)


def num_increments(protocol: Protocol) -> int:
    """Return how often the protocol's solver, which is not ddpm, asks for normals in a batch.

    The solver itself is run on a single number and counted.
    """
    asked = []

    def normal(step: int) -> Tensor:
        asked.append(step)
        return torch.zeros(1, 1)

    solve = solver_of(protocol, PATHS["linear"], normal)
    solve(lambda x, t, guided: torch.zeros_like(x), torch.zeros(1, 1))
    return len(asked)
