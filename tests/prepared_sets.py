"""A prepared set in which everything of row i says i: its image, label, moments and features."""

import zlib
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from repa.autoencoders.latent_space import LatentSpace
from repa.data import PreparedSet

COUNT, SIDE, LATENT = 40, 16, 8
SPACE = LatentSpace("a-tiny-one", scale=4.0, bias=1.0)


@dataclass(frozen=True)
class NumberedRows:
    """Rows of number i; those of mirrored images have -i - 1, and `shift` is a fault."""

    deviation: float = 0.0
    shift: tuple[str, ...] = ()

    def __call__(self, key, indices):
        numbers = np.array([int(i) for i in indices])
        numbers = (numbers + (key in self.shift)) % COUNT
        values = -numbers - 1 if "-flipped" in key else numbers
        if key == "images":
            images = np.zeros((len(numbers), SIDE, SIDE, 3), np.uint8)
            images[:, :, : SIDE // 2] = numbers[:, None, None, None]
            return images
        if key.startswith("moments"):
            moments = np.full((len(numbers), 8, LATENT, LATENT), self.deviation, np.float32)
            moments[:, :4] = 4 * values[:, None, None, None] + 1
            return moments
        return np.tile(values[:, None, None].astype(np.float16), (1, 16, 5))


def numbered_set(*, latents=True, features=("stand-in",), flip=False, deviation=0.0, shift=()):
    """A set in memory; its latents are the numbers in the model's space."""
    return PreparedSet(
        folder=Path("numbered"),
        manifest={},
        count=COUNT,
        num_classes=COUNT,
        image_size=SIDE,
        class_names=tuple(f"class {i}" for i in range(COUNT)),
        labels=(np.arange(COUNT) + ("labels" in shift)) % COUNT,
        latent_space=SPACE if latents else None,
        moments_shape=(8, LATENT, LATENT) if latents else None,
        feature_shapes=dict.fromkeys(features, (16, 5)),
        flip=flip,
        identity=f"{zlib.crc32(repr((latents, features, flip)).encode()):08x}" * 8,
        rows=NumberedRows(deviation, shift),
    )


def other(prepared, **changes):
    return replace(prepared, **changes)


def held_out_set(**changes):
    """A numbered set that holds out six images, of the numbers from 100."""
    prepared = numbered_set(**changes)
    rows = prepared.rows

    def read(key, indices):
        return rows("images", indices) + 100 if key == "held-out" else rows(key, indices)

    return other(prepared, manifest={"held_out": {"count": 6}, "labels": None}, rows=read)
