"""Latent spaces: where a model's x lives, as seen from an autoencoder.

A model of pixels lives in the space of no autoencoder, by the identity. The only home of the scale
0.18215 of Stable Diffusion's latents. The file loads no network.
"""

from dataclasses import dataclass
from math import isfinite
from typing import Any

import torch
from torch import Tensor

Numbers = float | tuple[float, ...]
"""One number for all channels, or one a channel."""


@dataclass(frozen=True)
class LatentSpace:
    """The space of a model's x: autoencoder's latents = scale * x + bias; JSON as its `asdict`.

    The autoencoder is a registered name or a folder; None for pixels, and for latents whose
    autoencoder is not known. Of scale and bias a list becomes a tuple.

    Raises:
        ValueError: The autoencoder is no name, a number is not finite, a scale is 0, or there are
            scales and biases for different numbers of channels.
    """

    autoencoder: str | None = None
    scale: Numbers = 1.0
    bias: Numbers = 0.0

    def __post_init__(self) -> None:
        if not isinstance(self.autoencoder, str | None):
            raise ValueError(f"autoencoder is {self.autoencoder!r}, not a name")
        for name in ("scale", "bias"):
            object.__setattr__(self, name, _checked(name, getattr(self, name)))
        lengths = {len(each) for each in (self.scale, self.bias) if isinstance(each, tuple)}
        if len(lengths) > 1:
            raise ValueError(f"scale and bias are for different numbers of channels, {lengths}")

    @property
    def is_pixels(self) -> bool:
        """Whether x is an image's pixels, which nothing decodes."""
        return self == PIXELS

    @property
    def num_channels(self) -> int | None:
        """Number of channels that scale or bias are for; None if they suit any."""
        each = [len(numbers) for numbers in (self.scale, self.bias) if isinstance(numbers, tuple)]
        return each[0] if each else None

    def to_autoencoder(self, x: Tensor) -> Tensor:
        """Turn the model's x (..., C, h, w) into the autoencoder's latents, in x's dtype."""
        # 1 / (1 / 0.18215) is 0.18215 in float64: dividing by it is the reference's arithmetic to
        # the last bit, where multiplying by 5.49 is not.
        return x / _factor(_inverse(self.scale), x) + _factor(self.bias, x)

    def from_autoencoder(self, latents: Tensor) -> Tensor:
        """Turn the autoencoder's latents (..., C, h, w) into the model's x, in their dtype."""
        return (latents - _factor(self.bias, latents)) * _factor(_inverse(self.scale), latents)


def _checked(name: str, numbers: object) -> Numbers:
    """Return numbers as floats, a list of them as a tuple."""
    several = isinstance(numbers, list | tuple)
    each: list[Any] = list(numbers) if several else [numbers]
    if not each:
        raise ValueError(f"{name} is an empty list")
    for number in each:
        real = isinstance(number, int | float) and not isinstance(number, bool)
        if not real or not isfinite(number) or (name == "scale" and number == 0):
            other = " other than 0" if name == "scale" else ""
            raise ValueError(f"{name} is {numbers!r}, not a finite number{other} or a list of them")
    return tuple(map(float, each)) if several else float(each[0])


def _inverse(numbers: Numbers) -> Numbers:
    return tuple(1 / n for n in numbers) if isinstance(numbers, tuple) else 1 / numbers


def _factor(numbers: Numbers, x: Tensor) -> Tensor | float:
    """Return one number as it is, and one a channel with the axes of x that come after it."""
    if isinstance(numbers, tuple):
        return torch.tensor(numbers, dtype=x.dtype, device=x.device)[:, None, None]
    return numbers


PIXELS = LatentSpace()
SD_LATENTS = LatentSpace("sd-vae-ft-ema", scale=1 / 0.18215)
"""Of Stable Diffusion's autoencoders: x has a standard deviation near 1."""
