"""What a comparison computes and how: everything that moves a number but the images. No torch."""

from dataclasses import dataclass
from typing import Literal

from repa_base.errors import SettingError
from repa_base.settings import check_settings, setting

NetworkName = Literal["inception", "efficientnet-lite0", "dinov2"]
Resize = Literal["default", "clean"]
Distances = Literal["adm", "exact"]

DEFAULT_BATCH_SIZE = 16
"""Images for a network at once; moves nothing but the last digits."""
SPLIT_SIZE = 5000
"""Images in a split of the Inception Score."""
KEPT_IMAGES = 10_000
"""Images of a reference file, for precision and recall, as in ADM's."""


@dataclass(frozen=True, kw_only=True)
class MetricSettings:
    """Settings of a comparison; the defaults are those of published numbers.

    Raises:
        SettingError: A value is out of its range or of its choices.
    """

    num_neighbors: int = 3
    """The neighbour that sets a manifold radius of precision and recall."""
    distances: Distances = setting(
        "Arithmetic of precision and recall: adm, rounded to float16 as in published numbers, or "
        "exact.",
        "adm",
        choices=Distances,
    )
    split_size: int = SPLIT_SIZE
    """Images in a split of the Inception Score, where images are measured."""
    num_resamples: int = setting(
        "Give standard errors, from N resamples of the features: 20 are enough, 2 the least; 0 for "
        "none.",
        0,
        low=0,
        flag="--bootstrap",
        value="N",
    )
    kernel_distance: bool = setting("Kernel distance as well (KID, unbiased).", False, flag="--kid")
    extrapolated: bool = setting(
        "Fréchet distance extrapolated to infinitely many samples as well; takes 10,000.",
        False,
        flag="--fd-infinity",
    )
    seed: int = 0
    """Of subsets and resamples."""

    def __post_init__(self) -> None:
        check_settings(self)
        for name, low in (("num_neighbors", 1), ("split_size", 1), ("seed", 0)):
            if getattr(self, name) < low:
                raise SettingError(
                    name, f"{name} must be at least {low}, got {getattr(self, name)}."
                )
        if self.num_resamples == 1:
            raise SettingError("num_resamples", "num_resamples must be 0 or at least 2, got 1.")
