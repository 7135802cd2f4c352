"""Small runs of `generate`, and what their files hold."""

import numpy as np

from repa.generation.job import generate
from repa.generation.settings import SampleConfig

NUM_IMAGES = 20


def small_run(checkpoint, folder):
    """Keyword arguments of a run of `SampleConfig` whose output is in a folder."""
    return {
        "model": str(checkpoint),
        "num_images": NUM_IMAGES,
        "num_steps": 4,
        "batch_size": 7,
        "device": "cpu",
        "out": folder / "samples.npz",
    }


def run(settings, **changes):
    return generate(SampleConfig(**{**settings, **changes})).path


def read(path):
    with np.load(path) as file:
        return file["arr_0"], file["arr_1"]
