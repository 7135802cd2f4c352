"""Mixtures of Gaussians whose spectrum is like an image's, with everything about them known.

Four classes in 24 directions, of standard deviations from 1 to 0.01; a class's own noise has 0.3 of
a direction's variance, and means are drawn with the rest. Guidance leads classes 0 and 1 away from
all four. Times run from 1 (noise) to 0 (data) on the linear path.
"""

import torch

DIRECTIONS, CLASSES, FOLLOWED = 24, 4, 2
SPECTRUM = torch.logspace(0, -2, DIRECTIONS, dtype=torch.float64)
WITHIN = 0.3 * SPECTRUM**2
MEANS = SPECTRUM * torch.randn(
    CLASSES, DIRECTIONS, dtype=torch.float64, generator=torch.Generator().manual_seed(0)
)


def expected(x, t, classes):
    """The data that are expected at states x (batch, directions), of some leading classes."""
    means, gain = MEANS[:classes], (1 - t) / ((1 - t) ** 2 * WITHIN + t**2)
    # Of the squared distance to a class's mean, what differs between classes.
    nearness = x @ (gain * means).T - (1 - t) / 2 * (gain * means**2).sum(1)
    return nearness.softmax(1) @ (means * (1 - (1 - t) * gain * WITHIN)) + gain * WITHIN * x


def velocity(scale):
    """Return the velocity (x, t, guided) of the followed classes, guided away from all of them."""

    def of(x, t, guided):
        t = float(t[0])
        followed = expected(x, t, FOLLOWED)
        if guided and scale != 1:
            everything = expected(x, t, CLASSES)
            followed = everything + scale * (followed - everything)
        return (x - followed) / t

    return of


def exact_moments():
    """Mean and covariance of the followed classes."""
    mean = MEANS[:FOLLOWED].mean(0)
    off = MEANS[:FOLLOWED] - mean
    return mean, torch.diag(WITHIN) + off.T @ off / FOLLOWED


def moments(x):
    return x.mean(0), x.T.cov()


def frechet(one, other, units=None):
    """Frechet distance of two means and covariances, each direction in units of its own."""
    units = torch.ones(DIRECTIONS, dtype=torch.float64) if units is None else units
    (m1, c1), (m2, c2) = ((m / units, c / units[:, None] / units) for m, c in (one, other))
    root = _root(c1)
    crossed = _root(root @ c2 @ root).trace()
    return ((m1 - m2).square().sum() + c1.trace() + c2.trace() - 2 * crossed).item()


def _root(matrix):
    values, vectors = torch.linalg.eigh(matrix)
    return (vectors * values.clamp(min=0).sqrt()) @ vectors.T
