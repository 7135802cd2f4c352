"""The names of paths and solvers, for settings and commands that offer them. No torch."""

from typing import Literal

InterpolantName = Literal["linear", "cosine"]

PathName = Literal[InterpolantName, "ddpm"]
"""Paths that a network may have been trained on; "ddpm" is DiT's, in 1000 discrete times."""

DDPM_TIMES = 1000
"""Times of the path "ddpm": k of 0 (data) to 999 (noise), which is t = (k + 1) / 1000."""

ADAMS_METHODS = ("explicit_adams", "implicit_adams")

FIXED_STEP_METHODS = ("euler", "heun", "midpoint", "heun2", "heun3", "rk4", *ADAMS_METHODS)
"""Methods that take num_steps equal steps; "heun" ends with an Euler step, "heun2" does not."""

ADAPTIVE_METHODS = ("adaptive_heun", "fehlberg2", "bosh3", "dopri5", "dopri8")
"""Methods that choose their steps to meet rtol and atol."""

ODE_METHODS = FIXED_STEP_METHODS + ADAPTIVE_METHODS

EXPONENTIAL_ORDERS = {"dpm++": 3, "dpm++sde": 2, "sa": 3}
"""The highest order of each exponential integrator."""

EXPONENTIAL_ORDER = 2
"""That of all of them where none is said."""

ADAMS_BASHFORTH_ORDERS = {"ab2": 2, "ab4": 4}
"""The order of each Adams-Bashforth method for unequal steps."""

GridName = Literal["published", "uniform", "shifted", "logsnr", "karras"]
"""How the times of steps are spread; see `samplers.schedule.grid_times`."""
