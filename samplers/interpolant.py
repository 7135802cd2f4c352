"""Interpolants: the paths x_t = alpha(t) * data + sigma(t) * noise between data and noise.

Time runs from t = 0 (data) to t = 1 (noise). This module knows how the ends of a path, its
velocity and its score belong together; it knows no network and takes no steps.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property
from math import pi

import torch
from jaxtyping import Float
from torch import Tensor

from samplers.names import DDPM_TIMES, InterpolantName, PathName

Rows = Float[Tensor, "batch *dims"]
"""A batch: images, noise, states or velocities, one a row."""


@dataclass(frozen=True)
class Coefficients:
    """A path's coefficients at given times and their derivatives in t, all shaped like t."""

    alpha: Float[Tensor, "*times"]
    sigma: Float[Tensor, "*times"]
    d_alpha: Float[Tensor, "*times"]
    d_sigma: Float[Tensor, "*times"]


class Interpolant(ABC):
    """A path from data (t = 0) to noise (t = 1); subclasses give its coefficients."""

    @abstractmethod
    def coefficients(self, t: Float[Tensor, "*times"]) -> Coefficients:
        """Return alpha, sigma and their derivatives at times `t` in [0, 1], in t's dtype."""

    def interpolate(self, data: Rows, noise: Rows, t: Float[Tensor, " batch"]) -> Rows:
        """Return the point x_t of each row's path at that row's time `t` in [0, 1]."""
        at = self.coefficients(_align(t, data))
        return at.alpha * data + at.sigma * noise

    def velocity(self, data: Rows, noise: Rows, t: Float[Tensor, " batch"]) -> Rows:
        """Return dx_t/dt of each row's path at time `t`: what a network is trained to predict."""
        at = self.coefficients(_align(t, data))
        return at.d_alpha * data + at.d_sigma * noise


@dataclass(frozen=True)
class LinearInterpolant(Interpolant):
    """The straight path: alpha = 1 - t, sigma = t, velocity = noise - data (the published one)."""

    def coefficients(self, t: Float[Tensor, "*times"]) -> Coefficients:
        """Return alpha, sigma and their derivatives at times `t` in [0, 1], in t's dtype."""
        ones = torch.ones_like(t)
        return Coefficients(alpha=1 - t, sigma=t, d_alpha=-ones, d_sigma=ones)


@dataclass(frozen=True)
class CosineInterpolant(Interpolant):
    """The variance-preserving path: alpha = cos(pi t / 2), sigma = sin(pi t / 2)."""

    def coefficients(self, t: Float[Tensor, "*times"]) -> Coefficients:
        """Return alpha, sigma and their derivatives at times `t` in [0, 1], in t's dtype."""
        alpha, sigma = torch.cos(t * pi / 2), torch.sin(t * pi / 2)
        return Coefficients(alpha, sigma, d_alpha=-pi / 2 * sigma, d_sigma=pi / 2 * alpha)


@dataclass(frozen=True)
class DiscreteInterpolant(Interpolant):
    """DDPM's variance-preserving path of 1000 times, betas in equal steps from 1e-4 to 0.02.

    Time k of 0 to 999 is t = (k + 1) / 1000, and t = 0 the data. Between the times the logarithm of
    alpha^2 is the one polynomial of degree 8 that meets all of them to 1e-11, so that the path is
    smooth. At t = 1 alpha is still 0.0064; sigma's derivative has a pole at t = 0.

    Source:
        DiT diffusion/gaussian_diffusion.py at ed81ce2 (schedule "linear"), after Ho et al., arXiv
        2006.11239.
    """

    def betas(self) -> Float[Tensor, " times"]:
        """Return the 1000 variances of DDPM's steps, float64."""
        return torch.linspace(1e-4, 0.02, DDPM_TIMES, dtype=torch.float64)

    @cached_property
    def _log_signal(self) -> Tensor:
        """The polynomial's coefficients of t, t^2, ...; t = 0 is met exactly."""
        sums = torch.cat([torch.zeros(1, dtype=torch.float64), (-self.betas()).log1p().cumsum(0)])
        t = torch.linspace(0, 1, len(sums), dtype=torch.float64)
        powers = t[:, None] ** torch.arange(1, 9)
        return torch.linalg.lstsq(powers, sums, driver="gelsd").solution

    def coefficients(self, t: Float[Tensor, "*times"]) -> Coefficients:
        """Return alpha, sigma and their derivatives at times `t` in [0, 1], in t's dtype."""
        log, slope = torch.zeros_like(t), torch.zeros_like(t)
        for power, factor in reversed(list(enumerate(self._log_signal.tolist(), start=1))):
            log, slope = (log + factor) * t, slope * t + power * factor
        alpha, sigma = (log / 2).exp(), (-torch.expm1(log)).sqrt()
        d_alpha = slope / 2 * alpha
        return Coefficients(alpha, sigma, d_alpha, d_sigma=-alpha * d_alpha / sigma)


INTERPOLANTS: dict[InterpolantName, Interpolant] = {
    "linear": LinearInterpolant(),
    "cosine": CosineInterpolant(),
}


PATHS: dict[PathName, Interpolant] = {**INTERPOLANTS, "ddpm": DiscreteInterpolant()}
"""Those that networks may have been trained on, by others too."""


def score_from_velocity(
    velocity: Rows,
    x: Rows,
    t: Float[Tensor, ""] | Float[Tensor, " batch"],
    interpolant: Interpolant,
) -> Rows:
    """Convert the marginal velocity at (x, t) to the score, the gradient of log p_t(x).

    The time is in (0, 1], one for all rows or one a row: the score has a pole at t = 0. Eliminating
    the data from x = alpha data + sigma noise, the path that the velocity belongs to, and its
    derivative leaves the expected noise, and the score is minus that noise over sigma.

    Source:
        SiT (arXiv 2401.08740), equation 9.
    """
    at = interpolant.coefficients(_align(t, x))
    wronskian = at.d_alpha * at.sigma - at.alpha * at.d_sigma
    return (at.alpha * velocity - at.d_alpha * x) / (at.sigma * wronskian)


def _align(t: Tensor, x: Tensor) -> Tensor:
    """Give times, one a row or one for all, an axis of size 1 for every further axis of `x`."""
    return t.reshape(-1, *[1] * (x.ndim - 1))
