"""Uniform noise as a source of images: how bad a metric's numbers can be."""

import hashlib
from dataclasses import dataclass, field

import numpy as np

from metrics.images.source import Batches, checked_range
from repa_base.progress import Steps


@dataclass(frozen=True)
class NoiseImages:
    """Independent uniform uint8 values, made when they are asked for.

    Attributes:
        count: Number of images.
        shape: (height, width, 3).
        seed: Image i depends on it and on i alone.
    """

    count: int
    shape: tuple[int, int, int]
    seed: int = 0
    name: str = "uniform noise"
    labels: None = field(default=None, init=False)
    manifest: None = field(default=None, init=False)

    def batches(self, batch_size: int, start: int = 0, stop: int | None = None) -> Batches:
        """Yield images `start` to `stop`."""
        stop = checked_range(self.count, batch_size, start, stop)
        for first in range(start, stop, batch_size):
            indices = range(first, min(first + batch_size, stop))
            yield np.stack([self._image(index) for index in indices])

    def sha256(self, progress: Steps | None = None) -> str:
        """Return the hash of what decides the images, at once."""
        decisive = f"noise {self.count} {self.shape} {self.seed}"
        return hashlib.sha256(decisive.encode()).hexdigest()

    def _image(self, index: int) -> np.ndarray:
        random = np.random.default_rng((self.seed, index))
        return random.integers(0, 256, self.shape, dtype=np.uint8)
