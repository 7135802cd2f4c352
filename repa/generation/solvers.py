"""Which solvers, orders and times go together, for settings. No torch."""

from collections.abc import Mapping
from itertools import pairwise
from typing import Any, get_args

from repa.errors import SettingError
from samplers.names import (
    ADAMS_BASHFORTH_ORDERS,
    ADAMS_METHODS,
    ADAPTIVE_METHODS,
    EXPONENTIAL_ORDER,
    EXPONENTIAL_ORDERS,
    ODE_METHODS,
    GridName,
)

SOLVERS = ("sde", "ddpm", *EXPONENTIAL_ORDERS, *ADAMS_BASHFORTH_ORDERS, *ODE_METHODS)
"""`sde` is Euler-Maruyama, `ddpm` DiT's own; `dpm++sde` and `sa` solve SDEs, the others the ODE."""

MULTISTEP = (*EXPONENTIAL_ORDERS, *ADAMS_BASHFORTH_ORDERS)
"""Solvers that fit their times to the guidance interval, as their history ends at its ends."""

ASKING_AT_DATA = ("heun2", "rk4", *ADAMS_METHODS, *ADAPTIVE_METHODS)
"""Solvers that ask for the velocity at t = 0 too: that of predicted noise or data is infinite.

Explicit Adams does if it has few steps below the guidance interval, as it begins by rk4's.
"""

FAST: Mapping[str, Any] = {"solver": "sa", "times": "shifted", "shift": 0.5, "num_steps": 12}
"""The setting that docs/solvers.md recommends where time counts: REPA's own SDE, 12 evaluations."""

Times = GridName | tuple[float, ...]
"""The times of steps, by the name of their spacing or one by one."""


def fast_settings(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is given with `FAST`; raise SettingError if it says a solver or times itself."""
    for name in FAST:
        if name in given and name != "num_steps":
            raise SettingError("fast", f"fast chooses the {name}: leave out one of the two.")
    return {**FAST, **given}


def check_fast(path_type: str) -> None:
    """Raise SettingError unless networks of this path can be sampled by `FAST`."""
    if path_type != "linear":
        reason = f"fast is for networks of the linear path; this one's is {path_type}"
        raise SettingError("fast", f"{reason}: use solver dpm++sde and few steps.")


def check_order(solver: str, order: int | None) -> None:
    """Raise SettingError unless the solver has this order; None is its own."""
    if order is None:
        return
    if solver not in EXPONENTIAL_ORDERS:
        known = ", ".join(EXPONENTIAL_ORDERS)
        raise SettingError("order", f"order is a choice of the solvers {known} alone.")
    highest = EXPONENTIAL_ORDERS[solver]
    if type(order) is not int or not 1 <= order <= highest:
        raise SettingError("order", f"order must be from 1 to {highest} for {solver}, got {order}.")


def order_of(solver: str, order: int | None) -> int:
    """Return the order of one of `MULTISTEP`, where `order` is what a protocol says of it."""
    return ADAMS_BASHFORTH_ORDERS.get(solver) or order or EXPONENTIAL_ORDER


def check_times(solver: str, times: Times, shift: float, num_steps: int) -> None:
    """Raise SettingError unless these times exist, fall, and are the solver's to follow."""
    if shift != 1 and times != "shifted":
        raise SettingError("shift", "shift is of the times shifted alone: add --times shifted.")
    if isinstance(times, tuple):
        if len(times) < 2 or (times[0], times[-1]) != (1, 0):
            raise SettingError("times", "times must begin with 1, the noise, and end with 0.")
        for t, t_next in pairwise(times):
            if not t > t_next:
                raise SettingError("times", f"times must fall, got {t_next:g} after {t:g}.")
        if num_steps != len(times) - 1:
            rule = f"{len(times) - 1} by the times, got {num_steps}: leave --steps out"
            raise SettingError("num_steps", f"num_steps must be {rule}.")
    elif times not in get_args(GridName):
        known = ", ".join(get_args(GridName))
        raise SettingError("times", f"times must be {known}, or numbers that fall from 1 to 0.")
    if times == "published":
        return
    if solver in ADAPTIVE_METHODS or solver == "ddpm":
        raise SettingError("times", f"{solver} has times of its own: leave --times out.")
    if solver in ADAMS_METHODS and times != "uniform":
        raise SettingError("times", f"{solver} is for equal steps: use ab2 or ab4.")
    if times in ("logsnr", "karras") and num_steps < 2:
        raise SettingError("num_steps", f"num_steps must be at least 2 for {times} times.")
    # Of an extreme shift, many times are 1, or 0, to the last digit.
    if times == "shifted" and not 1e-6 <= shift <= 1e6:
        raise SettingError("shift", f"shift must be from 1e-6 to 1e6, got {shift:g}.")
