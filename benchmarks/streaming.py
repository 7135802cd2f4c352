"""Measure the peak memory of an evaluation as the number of images grows.

Claim: under 1.5 GB for 50,000 images of 256 x 256 (a file of 9.8 GB) against an ADM-like reference:
statistics of 2048 and 2023 features and 10,000 images. The network is a cheap stand-in with
Inception's feature sizes; Inception's own peak is measured on few images, with random weights. Each
evaluation is a process of its own, and its peak is what the system reports of it (the greatest
resident set, pages of mapped files included).
"""

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from timing import print_machine

import metrics
from metrics.extraction.feature_cache import FeatureCache

GOAL = 1.5e9
POOL, SPATIAL, CLASSES = 2048, 2023, 1008


def write_images(path, count, size, seed):
    """Write random images to an NPY file, a piece at a time."""
    random = np.random.default_rng(seed)
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(
            file, {"descr": "|u1", "fortran_order": False, "shape": (count, size, size, 3)}
        )
        for start in range(0, count, 500):
            file.write(random.bytes(min(500, count - start) * size * size * 3))


def stand_in():
    """Return a network of Inception's feature sizes whose features are some of the pixels."""

    def some_pixels(images):
        return images[:, ::8, ::8].flatten(1).float() / 255

    def outputs(pixels):
        return pixels[:, :POOL], pixels[:, -SPATIAL:], pixels[:, :CLASSES]

    labels = metrics.MetricLabels("FD", "KD", "sFD", "IS", "Precision", "Recall")
    device = torch.device("cpu")
    dims = (POOL, SPATIAL, CLASSES)
    return metrics.MetricNetwork("stand-in", labels, *dims, "", "", some_pixels, outputs, device)


def evaluate(images_path, reference_path, weights_path, cache_dir):
    """Evaluate in this process; print its peak memory and its time."""
    network = metrics.load_network("inception", weights_path) if weights_path else stand_in()
    start = time.perf_counter()
    unit = [
        metrics.FeatureStatistics(np.zeros(dim), np.eye(dim), 50_000) for dim in (POOL, SPATIAL)
    ]
    reference = metrics.Reference(
        "reference", metrics.open_images(reference_path), metrics.ReferenceStatistics(*unit)
    )
    cache = FeatureCache(cache_dir) if cache_dir else None
    metrics.evaluate(metrics.open_images(images_path), reference, network, cache=cache)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(peak, time.perf_counter() - start)


def measure(name, count, arguments, goal=None):
    """Evaluate in a process of its own and report its peak."""
    command = [sys.executable, __file__, "--evaluate", *(str(a or "") for a in arguments)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    peak, seconds = map(float, done.stdout.split())
    wanted = "" if goal is None else f"; goal {goal / 1e9:g}"
    print(f"{name}, {count} images: peak {peak / 1e9:.2f} GB{wanted}; {seconds:.0f} s")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--num", type=int, default=5000, help="the claim is for 50000")
    parser.add_argument("--reference-num", type=int, default=2000, help="10000 in the claim")
    parser.add_argument("--inception-num", type=int, default=100, help="500 in the claim")
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--folder", type=Path, help="where the files go; about 200 KB an image")
    parser.add_argument("--evaluate", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.evaluate:
        evaluate(*(Path(value) if value else None for value in options.evaluate))
        return
    print_machine()

    from features import random_weights  # brings timm, which the evaluations above do not need

    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        images, reference = folder / "images.npy", folder / "reference.npy"
        few, weights = folder / "few.npy", folder / "weights.pth"
        tenth = max(options.num // 10, 2)
        write_images(reference, options.reference_num, options.size, 0)
        write_images(few, tenth, options.size, 1)
        write_images(images, options.num, options.size, 2)
        measure("stand-in", tenth, (few, reference, None, None))
        measure("stand-in", options.num, (images, reference, None, None), GOAL)
        measure("stand-in, cached", options.num, (images, reference, None, folder / "c"), GOAL)
        write_images(few, options.inception_num, options.size, 3)
        random_weights(weights)
        measure("Inception", options.inception_num, (few, few, weights, None), GOAL)


if __name__ == "__main__":
    main()
