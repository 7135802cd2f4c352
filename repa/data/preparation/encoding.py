"""What is computed of images beforehand: an autoencoder's moments and encoders' features."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from repa.autoencoders.autoencoder import Autoencoder, find_autoencoder
from repa.autoencoders.hub import REFERENCE_AUTOENCODER
from repa.data.preparation.settings import PrepareConfig
from repa.data.row_files import features_key, moments_key
from repa.encoders import Encoder, load_encoder
from repa.errors import NonFiniteError, SettingError
from repa.registry import find_entry, is_registered

_PROBED = 1  # images of zeros, for the shape of moments


@dataclass(frozen=True)
class Networks:
    """The networks of a preparation, loaded, and what they give an image."""

    autoencoder: Autoencoder | None
    encoders: tuple[Encoder, ...]
    grid_size: int
    image_size: int
    flip: bool
    moments_shape: tuple[int, int, int] | None
    device: torch.device

    @classmethod
    def load(cls, config: PrepareConfig, device: torch.device) -> "Networks":
        """Load what is asked for, and find out whether it suits the images.

        Raises:
            SettingError: The size of the images, or of the grid, does not suit a network.
            RepaError: See `find_autoencoder` and `load_encoder`.
        """
        autoencoder, shape, size = None, None, config.image_size
        if config.autoencoder is not None:
            name = config.autoencoder
            name = REFERENCE_AUTOENCODER if name == "default" else name
            autoencoder = find_autoencoder(name, device)
            _ = autoencoder.latent_space  # a file that does not tell it is of no use
            if size % autoencoder.downsampling:
                factor = autoencoder.downsampling
                message = f"image_size must be a multiple of {factor} with {name}, got {size}."
                raise SettingError("image_size", message)
            probe = torch.zeros((_PROBED, size, size, 3), dtype=torch.uint8)
            found = autoencoder.encode(probe).shape
            shape = found[1], found[2], found[3]
        encoders = tuple(load_encoder(name, device) for name in config.encoders)
        keys = [features_key(encoder.name) for encoder in encoders]
        if len(set(keys)) < len(keys):
            raise SettingError("encoders", "encoders have names that make the same file.")
        pixels = f"{size / config.grid:g}"
        given = f"choose another --grid-size, or with a token for every {pixels} pixels"
        for encoder in encoders:
            encoder.check_grid(config.grid, image_size=size, given=given)
        return cls(autoencoder, encoders, config.grid, size, config.flip, shape, device)

    @property
    def features(self) -> dict[str, tuple[int, int]]:
        """Number of tokens and width of the features, by encoder."""
        tokens = self.grid_size**2
        return {encoder.name: (tokens, encoder.feature_dim) for encoder in self.encoders}

    def described(self) -> dict[str, Any]:
        """Return what the manifest says of them, as plain values."""
        autoencoder = None
        if self.autoencoder is not None and self.moments_shape is not None:
            space = self.autoencoder.latent_space
            autoencoder = {
                "name": self.autoencoder.name,
                "sha256": self.autoencoder.sha256,
                "moments_shape": list(self.moments_shape),
                "latent_space": {
                    "autoencoder": space.autoencoder,
                    "scale": space.scale,
                    "bias": space.bias,
                },
            }
        encoders = [
            {
                "name": encoder.name,
                "file": f"{features_key(encoder.name)}.npy",
                "grid_size": self.grid_size,
                "tokens": self.grid_size**2,
                "dim": encoder.feature_dim,
                "sha256": _weights_sha256(encoder),
            }
            for encoder in self.encoders
        ]
        return {"autoencoder": autoencoder, "encoders": encoders, "flip": self.flip}

    def __bool__(self) -> bool:
        return self.autoencoder is not None or bool(self.encoders)

    def __call__(self, images: np.ndarray, titles: Sequence[str]) -> dict[str, np.ndarray]:
        """Return the rows of images uint8 (B, H, W, 3), by the key of their file.

        `titles` are what messages call the images.

        Raises:
            NonFiniteError: A network gave NaN, infinite values, or features beyond half precision.
        """
        rows: dict[str, np.ndarray] = {}
        seen = torch.from_numpy(images)
        for flipped in (False, True)[: 1 + self.flip]:
            seen = seen.flip(2) if flipped else seen
            if self.autoencoder is not None:
                rows[moments_key(flipped=flipped)] = self.autoencoder.encode(seen).cpu().numpy()
            for encoder in self.encoders:
                features = encoder(seen.to(_device(encoder)), grid_size=self.grid_size)
                rows[features_key(encoder.name, flipped=flipped)] = features.half().cpu().numpy()
        for key, values in rows.items():
            finite = np.isfinite(values).reshape(len(values), -1).all(1)
            if not finite.all():
                what = f"{titles[int(np.argmin(finite))]}: its {key} are not finite"
                raise NonFiniteError(f"{what}, or too large for half precision.")
        return rows


def _device(encoder: Encoder) -> torch.device:
    return next(encoder.network.parameters()).device


def _weights_sha256(encoder: Encoder) -> str | None:
    known = getattr(encoder, "sha256", None)
    if known is None and is_registered("encoders", encoder.name):
        known = find_entry("encoders", encoder.name).get("sha256")
    return known
