"""Interpolants: the paths x_t = alpha(t) * data + sigma(t) * noise between data and noise.

Time runs from t = 0 (data) to t = 1 (noise). This module knows how the ends of a path, its
velocity and its score belong together; it knows no network and takes no steps.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from math import pi

import torch
from jaxtyping import Float
from torch import Tensor

from samplers.names import InterpolantName

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


INTERPOLANTS: dict[InterpolantName, Interpolant] = {
    "linear": LinearInterpolant(),
    "cosine": CosineInterpolant(),
}


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
