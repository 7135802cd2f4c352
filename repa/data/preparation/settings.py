"""Settings of a preparation, each with its help, range and default. Does not import torch."""

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

from repa.autoencoders.hub import REFERENCE_AUTOENCODER
from repa_base.errors import SettingError
from repa_base.settings import check_settings, setting

_TOKEN_PIXELS = 16  # of a token of the reference: patches of 2 of latents at an eighth of the side


@dataclass(frozen=True, kw_only=True)
class PrepareConfig:
    """What is prepared of a source, and how.

    Raises:
        SettingError: A value is out of its range or of its choices.
    """

    source: Path
    out: Path
    image_size: int = setting(
        "Side of the images in pixels: pictures are resized and cropped as ADM does.",
        256,
        low=1,
        high=4096,
    )
    autoencoder: str | None = setting(
        "Autoencoder whose moments (mean and standard deviation) are computed: a name, a folder "
        f"that diffusers wrote, or default, the reference's {REFERENCE_AUTOENCODER}.",
        None,
        value="NAME|PATH",
    )
    encoders: tuple[str, ...] = setting(
        "Frozen encoders whose features are computed, with commas between them.",
        (),
        flag="--encoder",
        value="NAME[,NAME]",
    )
    grid_size: int = setting(
        "Side of the grid of tokens that the features belong to: that of the model to be trained.  "
        f"[default: a token for every {_TOKEN_PIXELS} pixels, as in the reference]",
        0,
        low=0,
        value="TOKENS",
    )
    flip: bool = setting("Moments and features of the mirrored images too.", False)
    held_out: float | Fraction | None = setting(
        "Images that are held out, by class, to judge by: a share such as 0.1, or a count.",
        None,
        value="SHARE|COUNT",
    )
    skip_broken: bool = setting("Leave out files that cannot be used, and list them.", False)
    batch_size: int = setting("Images that are encoded at once.", 64, low=1, high=1 << 16)
    num_threads: int = setting(
        "Threads that read, decode and crop.  [default: one a core]",
        0,
        flag="--threads",
        low=0,
        high=1024,
    )
    device: str = "auto"
    overwrite: bool = False

    def __post_init__(self) -> None:
        check_settings(self)
        if len(set(self.encoders)) < len(self.encoders):
            raise SettingError("encoders", f"encoders has {', '.join(self.encoders)}: one twice.")
        if self.flip and not (self.autoencoder or self.encoders):
            message = "flip is for moments and features: add --autoencoder or --encoder."
            raise SettingError("flip", message)
        if self.grid_size and not self.encoders:
            raise SettingError("grid_size", "grid_size is for features: add --encoder.")

    @property
    def grid(self) -> int:
        """Side of the grid of tokens."""
        return self.grid_size or max(1, self.image_size // _TOKEN_PIXELS)
