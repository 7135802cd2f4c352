"""What a comparison computes and how: everything that moves a number but the images. No torch."""

from dataclasses import dataclass
from typing import Literal, get_args

NetworkName = Literal["inception", "efficientnet-lite0", "dinov2"]
Resize = Literal["default", "clean"]
Distances = Literal["adm", "exact"]

DEFAULT_BATCH_SIZE = 16
"""Images for a network at once; moves nothing but the last digits."""


@dataclass(frozen=True, kw_only=True)
class MetricSettings:
    """Settings of a comparison; the defaults are those of published numbers.

    Attributes:
        num_neighbors: The neighbour that sets a manifold radius of precision and recall.
        distances: `adm` rounds distances for precision and recall as ADM's evaluator does, because
            published numbers were made so; `exact` is float32.
        split_size: Images in a split of the Inception Score, where images are measured.
        kernel_distance: Whether to compute the kernel distance (KID) as well.
        extrapolated: Whether to extrapolate the Fréchet distance to infinitely many images as well.
        num_resamples: Resamples for standard errors, 0 for none; needs a cache of features.
        seed: Of subsets and resamples.

    Raises:
        ValueError: A value is out of its range.
    """

    num_neighbors: int = 3
    distances: Distances = "adm"
    split_size: int = 5000
    kernel_distance: bool = False
    extrapolated: bool = False
    num_resamples: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.distances not in get_args(Distances):
            raise ValueError(
                f"distances must be one of {get_args(Distances)}, got {self.distances!r}."
            )
        for name in ("num_neighbors", "split_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}.")
        if self.num_resamples < 0 or self.num_resamples == 1:
            raise ValueError(f"num_resamples must be 0 or at least 2, got {self.num_resamples}.")
