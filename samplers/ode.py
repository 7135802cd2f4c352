"""Deterministic sampling: integrate dx/dt = velocity from noise (t = 1) to data (t = 0).

Euler and Heun are here, step for step as in REPA, and never wait for a GPU: times are Python
floats. The other methods are torchdiffeq's, which keeps time on the device: they read it back at
every evaluation, and the adaptive ones their error as well. The state is float64 whatever the
velocity's dtype. Which path the velocity was trained on does not matter.
"""

import warnings
from collections.abc import Iterator, Sequence
from difflib import get_close_matches
from itertools import groupby, pairwise
from typing import Any, cast

import torch
from jaxtyping import Float, Float64
from torch import Tensor
from torchdiffeq import odeint

from samplers.guidance import GuidanceInterval
from samplers.names import ADAMS_METHODS, ADAPTIVE_METHODS, ODE_METHODS
from samplers.schedule import chosen_times, ode_times
from samplers.velocity import SlopeFn, TimeFn, VelocityFn, float64_velocity


@torch.no_grad()
def sample_ode(
    velocity: VelocityFn,
    noise: Float[Tensor, "batch *dims"],
    *,
    num_steps: int | None = None,
    times: Sequence[float] | None = None,
    method: str = "heun",
    guidance_interval: tuple[float, float] = (0.0, 1.0),
    rtol: float = 1e-5,
    atol: float = 1e-5,
    on_time: TimeFn | None = None,
) -> Float64[Tensor, "batch *dims"]:
    """Turn noise (t = 1) into data (t = 0) along the probability-flow ODE.

    Fixed-step methods decide guidance at the start of a step and keep it for the whole step.
    Adaptive methods split the integration at the ends of the guidance interval instead; they
    choose their steps by the error of the whole batch, so that the images of a batch share step
    sizes and an image depends, within the tolerances, on its batch.

    Args:
        velocity: Asked with x and t in the dtype of `noise`.
        noise: Standard normal, in the network's dtype.
        num_steps: Equal steps from t = 1 to 0, the published grid. Velocity evaluations: euler
            num_steps, heun 2 num_steps - 1, midpoint and heun2 2, heun3 3 and rk4 4 a step.
            Adaptive methods ignore it: give None.
        times: Instead of num_steps, where the steps start and end: they fall strictly to 0 from
            1, or from less if `noise` is a state of that time. The multistep methods
            (explicit_adams, implicit_adams) have coefficients for equal steps and lose their
            order on others. Adaptive methods take none.
        method: One of ODE_METHODS.
        guidance_interval: Closed interval (low, high) of times at which guidance is on.
        rtol: Relative tolerance of the adaptive methods and of implicit_adams' iteration.
        atol: Absolute tolerance of the same.
        on_time: Called with the time of every evaluation, before it.

    Returns:
        The state at t = 0, shaped like `noise`.

    Raises:
        ValueError: If the method is unknown, an argument is out of range, a fixed-step method gets
            both num_steps and times or neither, or an adaptive one gets times or cannot meet its
            tolerances.

    Warns:
        UserWarning: If num_steps is given to an adaptive method, or if implicit_adams' iteration
            does not reach its tolerance.

    Source:
        REPA samplers.py, euler_sampler (euler, heun): Heun's corrector keeps the guidance of its
        step's start, and its last step is an Euler step.
    """
    _check_method(method)
    if rtol <= 0 or atol <= 0:
        raise ValueError(f"rtol and atol must be above 0, got {rtol} and {atol}.")
    interval = GuidanceInterval(*guidance_interval)
    slope_at = float64_velocity(velocity, noise.dtype, on_time)
    x = noise.to(torch.float64)
    if method in ADAPTIVE_METHODS:
        if times is not None:
            raise ValueError(f"{method} chooses its steps: times cannot be given, got {times}.")
        if num_steps is not None:
            warnings.warn(f"{method} chooses its steps: num_steps is ignored.", stacklevel=2)
        pieces = _adaptive_pieces(interval)
    else:
        grid = chosen_times(num_steps, times, ode_times)
        if method in ("euler", "heun"):
            return _euler_or_heun(slope_at, x, grid, interval, method == "heun")
        pieces = _fixed_step_pieces(grid, interval)
    for piece, guided in pieces:
        x = _integrate(slope_at, x, piece, guided, method, rtol=rtol, atol=atol)
    return x


def _check_method(method: str) -> None:
    if method not in ODE_METHODS:
        close = get_close_matches(method, ODE_METHODS, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"choose from {', '.join(ODE_METHODS)}."
        raise ValueError(f"Unknown ODE method {method!r}: {hint}")


def _euler_or_heun(
    slope_at: SlopeFn, x: Tensor, times: list[float], interval: GuidanceInterval, corrected: bool
) -> Tensor:
    for t, t_next in pairwise(times):
        guided = t in interval
        slope = slope_at(x, t, guided)
        if corrected and t_next > 0:
            slope = (slope + slope_at(x + (t_next - t) * slope, t_next, guided)) / 2
        x = x + (t_next - t) * slope
    return x


def _fixed_step_pieces(
    times: list[float], interval: GuidanceInterval
) -> Iterator[tuple[list[float], bool]]:
    """Group the steps into runs of equal guidance, so that multistep methods start afresh."""
    for guided, steps in groupby(pairwise(times), key=lambda step: step[0] in interval):
        starts, ends = zip(*steps, strict=True)
        yield [starts[0], *ends], guided


def _adaptive_pieces(interval: GuidanceInterval) -> Iterator[tuple[list[float], bool]]:
    ends = (1.0, interval.high, interval.low, 0.0)
    for piece, guided in zip(pairwise(ends), (False, True, False), strict=True):
        if piece[0] > piece[1]:
            yield list(piece), guided


def _integrate(
    slope_at: SlopeFn, x: Tensor, times: list[float], guided: bool, method: str, **tolerances: float
) -> Tensor:
    """Integrate over one piece of constant guidance with torchdiffeq."""
    start, end = times[0], times[-1]
    grid = torch.tensor(times, dtype=torch.float64, device=x.device)
    options = _solver_options(method, grid)

    def slope(t: Tensor, x: Tensor) -> Tensor:
        # The guess of the first adaptive step may look past the end of the piece.
        return slope_at(x, min(start, max(end, float(t))), guided)

    try:
        states = odeint(slope, x, grid[[0, -1]], method=method, options=options, **tolerances)
    except AssertionError as error:
        raise ValueError(
            f"{method} failed between t = {start} and {end} ({error}): loosen rtol and atol, "
            "and check that the velocity is finite."
        ) from error
    return cast(Tensor, states)[-1]


def _solver_options(method: str, grid: Tensor) -> dict[str, Any]:
    if method in ADAPTIVE_METHODS:
        # Step onto the end of the piece: interpolating back from beyond it would ask for
        # velocities of negative times, or of times where guidance is different.
        return {"step_t": grid[-1:]}
    options: dict[str, Any] = {"grid_constructor": lambda *_: grid}
    if method in ADAMS_METHODS:
        # At torchdiffeq's default of 12, fifty explicit steps on Gaussian data of standard
        # deviation 0.1 end with errors of hundreds; at 4, of 1e-4.
        options["max_order"] = 4
    return options
