"""Exponential integrators: the data are predicted, and all that is linear in the state is exact.

A network's velocity v at x = alpha data + sigma noise tells the data D that it expects (on the
linear path x - t v). Between two times, of which the second has a prime,

    x' = R (sigma' / sigma) x + sum of w_j D_j + sigma' sqrt(1 - R^2) normals

R is how much of a state's noise is kept. It is 1 on the ODE; less of it is an SDE whose marginals
are the same ones. The w_j integrate the polynomial through the D at hand, in the log ratio of
signal to noise; where the D are equal, their sum is exact. The state is float64 whatever the
velocity's dtype. The random numbers are the caller's. No step waits for a GPU.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import inf, log, sqrt

import numpy as np
import torch
from jaxtyping import Float, Float64
from torch import Tensor

from samplers.guidance import GuidanceInterval
from samplers.interpolant import Interpolant, LinearInterpolant
from samplers.multistep import History, combined, guided_step, integrals, phase_of
from samplers.names import EXPONENTIAL_ORDERS
from samplers.schedule import chosen_times, ode_times, without_straddling
from samplers.sde import NormalFn, checked_normals
from samplers.velocity import TimeFn, VelocityFn, float64_velocity

OfLogRatio = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class _Process:
    """What keeps noise: R from log ratio l to l' is kept(l) / kept(l').

    tau^2 is the derivative of the logarithm of kept: 0 on the ODE, more where more noise is new.
    """

    kept: OfLogRatio
    tau_squared: OfLogRatio

    def kept_noise(self, start: "_Level", end: "_Level") -> float:
        """Return R between two levels."""
        at = self.kept(np.array([start.log_ratio, end.log_ratio]))
        return float(at[0] / at[1])


_PROCESSES = {
    "dpm++": _Process(np.ones_like, np.zeros_like),
    "dpm++sde": _Process(np.exp, np.ones_like),
    # On the linear path 1 + exp(l) is 1 / t: R = t' / t, tau^2 = 1 - t, and the diffusion is 2 t.
    "sa": _Process(lambda at: 1 + np.exp(at), lambda at: 1 / (1 + np.exp(-at))),
}


@dataclass(frozen=True)
class _Level:
    """A time with its path's coefficients; data = of_x * state + of_velocity * velocity."""

    t: float
    alpha: float
    sigma: float
    of_x: float
    of_velocity: float

    @property
    def log_ratio(self) -> float:
        """Of alpha to sigma; without bound where there is no data, or no noise."""
        if self.sigma <= 0:
            return inf
        return log(self.alpha / self.sigma) if self.alpha > 0 else -inf


@torch.no_grad()
def sample_exponential(
    velocity: VelocityFn,
    noise: Float[Tensor, "batch *dims"],
    *,
    num_steps: int | None = None,
    times: Sequence[float] | None = None,
    method: str = "dpm++",
    order: int = 2,
    corrected: bool = True,
    interpolant: Interpolant,
    guidance_interval: tuple[float, float] = (0.0, 1.0),
    jumps: Sequence[float] = (),
    normal: NormalFn | None = None,
    on_time: TimeFn | None = None,
) -> Float64[Tensor, "batch *dims"]:
    """Turn noise (t = 1) into data (t = 0) in few steps, one evaluation each.

    The last step, which has no noise, ends in the data that are predicted at its start. The first
    steps have the orders 1, 2, ... until there are enough earlier predictions, and again from where
    guidance switches on or off, or the velocity jumps. A prediction without any data in its state,
    at t = 1 on most paths, has no place in the polynomial and serves its own step alone; on the
    cosine path, where rounding leaves it 6e-17 of the data, it has a weight of about a hundredth in
    the second step.

    Args:
        velocity: As in `sample_ode`.
        noise: As in `sample_ode`.
        num_steps: As in `sample_adams`.
        times: As in `sample_ode`; they stay as they are.
        method: dpm++ is the ODE, of orders 1 to 3. dpm++sde is the SDE of DPM-Solver++, of orders 1
            and 2. sa is REPA's own, whose diffusion is 2 t, on the linear path, of orders 1 to 3.
        order: Predictions in a step's polynomial; of an SDE the distribution is of order 2 at best.
        corrected: Whether sa, from order 2 on, takes a step again with the prediction at its end
            among the others, before the next; that prediction is not made again.
        interpolant: The path that `velocity` was trained on.
        guidance_interval: As (low, high); a step is guided if its middle is inside.
        jumps: As in `sample_adams`.
        normal: As in `sample_sde`; dpm++ needs none.
        on_time: As in `sample_ode`; never waits for a GPU.

    Returns:
        The state at t = 0, shaped like `noise`.

    Raises:
        ValueError: As `sample_sde`, or method and order, or method and path do not go together.

    Source:
        DPM-Solver++ (arXiv 2211.01095), of order 2 as there (2M), of order 3 with the polynomial
        integrated exactly; SA-Solver (arXiv 2309.05019) with tau^2 = 1 - t, whose predictor of
        order 2 is here of DPM-Solver++'s form.
    """
    check_exponential(method, order, interpolant)
    if normal is None and method != "dpm++":
        raise ValueError(f"normal must be given for {method}, which adds noise.")
    interval = GuidanceInterval(*guidance_interval)
    slope_at = float64_velocity(velocity, noise.dtype, on_time)
    grid = chosen_times(
        num_steps, times, lambda n: without_straddling(ode_times(n), interval, jumps)
    )
    levels = _levels(grid, interpolant)
    process, history = _PROCESSES[method], History(order)
    corrected = corrected and method == "sa" and order > 1
    x = carried = noise.to(torch.float64)
    for step, (start, end) in enumerate(pairwise(levels)):
        guided = guided_step(start.t, end.t, interval)
        data = start.of_x * x + start.of_velocity * slope_at(x, start.t, guided)
        remembers = history.begin(phase_of(start.t, guided, jumps))
        history.add(start.log_ratio, data)
        if end.t == 0:
            break
        if corrected and remembers:
            x = carried + _of_data(process, levels[step - 1], start, history)
        kept = process.kept_noise(start, end)
        carried = kept * end.sigma / start.sigma * x
        if normal is not None and kept < 1:
            carried = carried + end.sigma * sqrt(1 - kept**2) * checked_normals(normal(step), x)
        x = carried + _of_data(process, start, end, history)
    return history.values[0]


def check_exponential(method: str, order: int, interpolant: Interpolant) -> None:
    """Raise ValueError unless method, order and path go together."""
    if method not in EXPONENTIAL_ORDERS:
        known = ", ".join(EXPONENTIAL_ORDERS)
        raise ValueError(f"method must be one of {known}, got {method!r}.")
    if not 1 <= order <= EXPONENTIAL_ORDERS[method]:
        highest = EXPONENTIAL_ORDERS[method]
        raise ValueError(f"order must be from 1 to {highest} for {method}, got {order}.")
    if method == "sa" and not isinstance(interpolant, LinearInterpolant):
        raise ValueError(f"sa is for the linear path, got {interpolant}.")


def _levels(times: Sequence[float], interpolant: Interpolant) -> list[_Level]:
    t = torch.tensor(times, dtype=torch.float64)
    at = interpolant.coefficients(t)
    wronskian = at.d_sigma * at.alpha - at.d_alpha * at.sigma
    columns = (t, at.alpha, at.sigma, at.d_sigma / wronskian, -at.sigma / wronskian)
    return [_Level(*row) for row in zip(*(each.tolist() for each in columns), strict=True)]


def _of_data(process: _Process, start: _Level, end: _Level, history: History) -> Tensor:
    """Return what the predicted data, a polynomial between two levels, add to the state."""
    total = end.alpha - process.kept_noise(start, end) * end.sigma / start.sigma * start.alpha
    places = [place for place in history.places if place > -inf]
    values = history.values[: max(len(places), 1)]
    if start.log_ratio == -inf or len(places) == 1:
        return total * values[0]
    if len(places) == 2 and places[0] == start.log_ratio:
        # As published, the line's value in the middle of the step stands for the whole step. Exact
        # integration is of order 2 as well, and worse where few steps are long.
        half = (end.log_ratio - start.log_ratio) / (places[0] - places[1]) / 2
        return combined([total * (1 + half), -total * half], values)

    def density(at: np.ndarray) -> np.ndarray:
        """The derivative by log ratio of the signal that a state of noise 1 keeps to the end."""
        kept = process.kept(at) / process.kept(np.array(end.log_ratio))
        return end.sigma * np.exp(at) * kept * (1 + process.tau_squared(at))

    shares = integrals(places, start.log_ratio, end.log_ratio, density)
    # To the last digit, data that stand still are met.
    shares[0] = total - sum(shares[1:])
    return combined(shares, values)
