"""How long a step waits for its data: SiT-S/2, batch 8, float32, latents and features prepared.

The script writes a set of 256-pixel images with 32 x 32 latents and features of 256 tokens and 768
numbers (random values of the right sizes), trains on it, and takes the time of each step and, of
that, the time until what it reads is there. In the run's own process, and by processes that read
ahead. Run: `python benchmarks/loading.py [--images 512] [--steps 8]`
"""

import argparse
import statistics
import tempfile
import time
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch
from prepared_folder import write_set

from repa.autoencoders.latent_space import SD_LATENTS
from repa.data import open_if_prepared
from repa.data.row_files import Layout
from repa.training.batch import Batches
from repa.training.reading_ahead import reading_ahead
from repa.training.run.state import TrainState, model_settings
from repa.training.settings import settings_for
from repa.training.step import train_step
from repa.training.targets import open_targets


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=512)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--workers", type=int, nargs="*", default=[0, 1])
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "set"
        size = write_set(folder, layout_of(options.images), random_rows, asdict(SD_LATENTS))
        print(f"{options.images} images, {size / 1e6:.0f} MB, {options.threads} threads")
        for workers in options.workers:
            waits, steps = measure(folder, options.steps, workers)
            total, waited = sum(steps), sum(waits)
            print(
                f"{workers} workers: {waited / total:7.3%} of {total:.1f} s in {len(steps)} steps; "
                f"a step {statistics.median(steps):.3f} s, "
                f"its wait {1000 * statistics.median(waits):.2f} ms (median), "
                f"{1000 * max(waits):.2f} ms (longest)"
            )


def layout_of(count: int) -> Layout:
    """Return the layout of a set of so many images."""
    return Layout(
        image_size=256,
        count=count,
        labels=np.arange(count) % 10,
        moments_shape=(8, 32, 32),
        features={"dinov2-vit-b": (256, 768)},
    )


def random_rows(key: str, indices: list[int]) -> np.ndarray:
    """Return random rows of the sizes of a file's."""
    draws = np.random.default_rng(indices)
    if key == "images":
        return draws.integers(0, 256, (1, 256, 256, 3), dtype=np.uint8)
    shape = (1, 8, 32, 32) if key == "moments" else (1, 256, 768)
    return np.abs(draws.standard_normal(shape, dtype=np.float32))


def measure(folder: Path, count: int, workers: int) -> tuple[list[float], list[float]]:
    """Return the seconds that steps waited for data, and those that they took in all.

    The first step, for which processes are started, is left out.
    """
    config = settings_for(str(folder), model="SiT-S/2", batch_size=8, num_steps=count + 1)
    data = open_if_prepared(folder)
    targets = open_targets(config.encoder, data, folder, 16, "cpu")
    state = TrainState.create(config, model_settings(config, data, targets.dims), "cpu")
    batches, waits, steps = Batches(config, data, targets, "cpu"), [], []
    with reading_ahead(batches.reader, range(count + 1), workers) as read:

        def timed(step: int) -> object:
            start = time.perf_counter()
            batch = read(step)
            waits.append(time.perf_counter() - start)
            return batch

        batches = replace(batches, read=timed)
        for step in range(count + 1):
            start = time.perf_counter()
            train_step(config, state, [batches(step)])
            steps.append(time.perf_counter() - start)
    return waits[1:], steps[1:]


if __name__ == "__main__":
    main()
