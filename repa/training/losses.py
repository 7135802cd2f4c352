"""The two losses of REPA: velocity matching and alignment with a frozen encoder's features.

Source:
    Yu et al., arXiv 2410.06940, section 3; REPA loss.py at 67f7145.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from repa.training.settings import Weighting
from samplers import Interpolant, InterpolantName

_MEAN_SHARE = 0.6


def velocity_loss(
    predicted: Tensor, data: Tensor, noise: Tensor, t: Tensor, interpolant: Interpolant
) -> Tensor:
    """Return the mean squared error of the velocity, one number an image.

    Args:
        predicted: Velocities (B, *dims) that the network gave at the noisy input.
        data: Clean inputs (B, *dims).
        noise: Standard normals (B, *dims).
        t: Times (B,), 0 = data, 1 = noise.
        interpolant: The path; its velocity is d_alpha(t) data + d_sigma(t) noise.

    Returns:
        Losses (B,), averaged over all but the first dimension.
    """
    return (predicted - interpolant.velocity(data, noise, t)).square().flatten(1).mean(1)


def alignment_loss(
    projected_features: Sequence[Tensor], target_features: Sequence[Tensor]
) -> Tensor:
    """Return the negative cosine similarity of features, averaged over all tokens and projectors.

    Args:
        projected_features: One tensor (B, N, D) a projector, from `SiT(..., return_features=True)`.
        target_features: The encoder's features of the clean images, of the same shapes.

    Returns:
        A scalar in [-1, 1]; -1 is perfect alignment.

    Raises:
        ValueError: No features, or numbers or shapes that differ.

    Source:
        REPA loss.py at 67f7145. Features are normalised in float32 at least, which there happens
        in the autocast dtype and is a known cause of NaN (REPA issue 46).
    """
    if not projected_features or len(projected_features) != len(target_features):
        raise ValueError(
            "as many projected as target features are needed, and at least one, got "
            f"{len(projected_features)} and {len(target_features)}."
        )
    similarities = []
    for projected, target in zip(projected_features, target_features, strict=True):
        if projected.shape != target.shape:
            raise ValueError(
                f"projected features of shape {tuple(projected.shape)} cannot be aligned with "
                f"target features of shape {tuple(target.shape)}."
            )
        similarities.append((_unit(projected) * _unit(target)).sum(-1).mean())
    return -torch.stack(similarities).mean()


def spatially_normalised(features: Tensor) -> Tensor:
    """Return target features (B, N, D) less 0.6 of their mean, over their deviation, by tokens.

    Mean and deviation (of a sample: N - 1) are those of each image's tokens, for each feature; what
    all tokens of an image have in common counts less.

    Source:
        iREPA ldm/utils.py, spatial_zscore, with ldm/train.py's alpha, at 99ad4ac.
    """
    mean, std = features.mean(1, keepdim=True), features.std(1, keepdim=True)
    return (features - _MEAN_SHARE * mean) / (std + 1e-6)


def times_from_draws(draws: Tensor, *, weighting: Weighting, path_type: InterpolantName) -> Tensor:
    """Turn uniform (or, for lognormal weighting, standard normal) draws (B,) into times (B,).

    Lognormal weighting draws log(noise level) from N(0, 1), as EDM does; the level sigma / alpha
    is then t / (1 - t) on the linear path and tan(pi t / 2) on the cosine path.
    """
    if weighting == "uniform":
        return draws
    level = draws.exp()
    if path_type == "linear":
        return level / (1 + level)
    return torch.atan(level) * (2 / torch.pi)


def _unit(features: Tensor) -> Tensor:
    wide = features.float() if features.dtype in (torch.float16, torch.bfloat16) else features
    return F.normalize(wide, dim=-1)
