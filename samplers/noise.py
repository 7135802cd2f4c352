"""Noise and labels of image i: functions of the seed and the image's index alone.

Every draw has its own Philox counter generator (arXiv Salmon et al. 2011, "Parallel random
numbers: as easy as 1, 2, 3"): the key holds the seed and the stream, the upper half of the
256-bit counter the index and the step. No two draws share any part of a sequence, nothing is
hashed, and no draw depends on batch size, number of processes or what was drawn before.

Draws are made on the CPU whatever the device that uses them, so a CPU and a GPU start an image
from the same noise. 4x32x32 normals take about 50 microseconds on one core: 0.8 s for 250 steps
of a batch of 64. numpy keeps Philox's bits stable across versions, and its normals have not
changed since 1.17, though it only promises that within a version.
"""

from collections.abc import Sequence
from enum import IntEnum

import numpy as np
import torch
from jaxtyping import Float32, Float64, Int64
from numpy.random import Generator, Philox
from torch import Tensor


class Stream(IntEnum):
    """What a draw is for; draws of different streams are independent."""

    INITIAL = 0
    LABELS = 1
    INCREMENTS = 2
    TRAINING = 3
    SAMPLES = 4
    VALIDATION = 5


def keyed_generator(seed: int, stream: Stream, index: int = 0, step: int = 0) -> Generator:
    """Return the generator of (seed, stream, index, step), the same every time and everywhere.

    Args:
        seed: In [0, 2**63).
        stream: What the draws are for.
        index: Image, or whatever the stream counts, in [0, 2**48).
        step: Step of the sampler or of the training run, in [0, 2**31).

    Raises:
        ValueError: If a number is out of its range.
    """
    for name, value, bits in (("seed", seed, 63), ("index", index, 48), ("step", step, 31)):
        if not 0 <= value < 1 << bits:
            raise ValueError(f"{name} must be in [0, 2**{bits}), got {value}.")
    # Words are in ascending order of weight: generating counts in the lowest, which cannot
    # reach the words of step and index.
    key = np.array([seed, stream], dtype=np.uint64)
    counter = np.array([0, 0, step, index], dtype=np.uint64)
    return Generator(Philox(key=key, counter=counter))


def initial_noise(
    seed: int, indices: Sequence[int], shape: Sequence[int]
) -> Float32[Tensor, "batch *shape"]:
    """Return the standard normal noise that images `indices` start from, on the CPU.

    `shape` is that of one image's state; ranges and errors are those of `keyed_generator`.
    """
    return _normals(seed, Stream.INITIAL, indices, 0, shape).to(torch.float32)


def draw_labels(seed: int, indices: Sequence[int], num_classes: int) -> Int64[Tensor, " batch"]:
    """Return a uniformly random class in [0, num_classes) for each of the images `indices`.

    Raises:
        ValueError: If num_classes is below 1, or as `keyed_generator`.
    """
    if num_classes < 1:
        raise ValueError(f"num_classes must be at least 1, got {num_classes}.")
    draws = [keyed_generator(seed, Stream.LABELS, i).integers(num_classes) for i in indices]
    return torch.tensor(draws, dtype=torch.int64)


def step_noise(
    seed: int, indices: Sequence[int], step: int, shape: Sequence[int]
) -> Float64[Tensor, "batch *shape"]:
    """Return the standard normals of the SDE increment `step` of images `indices`, on the CPU.

    `shape` is that of one image's state; ranges and errors are those of `keyed_generator`.
    """
    return _normals(seed, Stream.INCREMENTS, indices, step, shape)


def _normals(
    seed: int, stream: Stream, indices: Sequence[int], step: int, shape: Sequence[int]
) -> Tensor:
    rows = np.empty((len(indices), *shape))
    for row, index in zip(rows, indices, strict=True):
        keyed_generator(seed, stream, index, step).standard_normal(out=row)
    return torch.from_numpy(rows)
