"""A mixture of two Gaussians on a line: its data as they are expected, and its moments, exactly."""

from functools import cache

import torch

from samplers import INTERPOLANTS

WEIGHTS = torch.tensor([0.3, 0.7], dtype=torch.float64)
MEANS = torch.tensor([-1.0, 0.8], dtype=torch.float64)
STDS = torch.tensor([0.3, 0.5], dtype=torch.float64)
MEAN = (WEIGHTS * MEANS).sum().item()
VARIANCE = (WEIGHTS * (STDS**2 + MEANS**2)).sum().item() - MEAN**2


def velocity(path="linear"):
    """The marginal velocity of the mixture on a path, for states (batch, 1)."""

    def of(x, t, guided):
        at = INTERPOLANTS[path].coefficients(t.reshape(-1, 1))
        variance = (at.alpha * STDS) ** 2 + at.sigma**2
        off = x - at.alpha * MEANS
        share = (WEIGHTS.log() - variance.log() / 2 - off**2 / variance / 2).softmax(1)
        gain = (at.alpha * at.d_alpha * STDS**2 + at.sigma * at.d_sigma) / variance
        return (share * (at.d_alpha * MEANS + gain * off)).sum(1, keepdim=True)

    return of


@cache
def ladder(path, start, end, steps=400):
    """States of time `start` and where the ODE takes them at time `end`, by classical steps."""
    x = torch.linspace(-2, 2, 9, dtype=torch.float64).reshape(-1, 1)
    field, first = velocity(path), x
    h = (end - start) / steps

    def slope(x, t):
        return field(x, torch.full((len(x),), t, dtype=torch.float64), False)

    for k in range(steps):
        t = start + k * h
        a = slope(x, t)
        b = slope(x + h / 2 * a, t + h / 2)
        c = slope(x + h / 2 * b, t + h / 2)
        x = x + h / 6 * (a + 2 * b + 2 * c + slope(x + h * c, t + h))
    return first, x
