"""From pictures to a judged model: every command of one's own data, one after the other, for real.

The pictures are pieces of the two photographs that scikit-learn ships.
"""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from pictures import content
from PIL import Image
from sklearn.datasets import load_sample_images
from tiny_autoencoder import save_tiny_autoencoder

ENCODER, NETWORK = "efficientnet-lite1", "efficientnet-lite0"
HEIGHT, WIDTH = 80, 64


def cut_photographs(folder):
    """Cut each photograph into 50 pieces, a class folder each."""
    photographs = load_sample_images()
    for path, pixels in zip(photographs.filenames, photographs.images, strict=True):
        pieces = folder / os.path.basename(path).partition(".")[0]  # noqa: PTH119
        pieces.mkdir(parents=True)
        for row in range(5):
            for column in range(10):
                top, left = HEIGHT * row, WIDTH * column
                piece = pixels[top : top + HEIGHT, left : left + WIDTH]
                Image.fromarray(piece).save(pieces / f"{row}-{column}.png")
    return folder


@pytest.fixture
def run(tmp_path):
    """Start the command in a folder of its own; killed after `seconds`, if it has not ended."""

    def started(*arguments, seconds=None, code=0):
        process = subprocess.Popen(
            [sys.executable, "-m", "repa_cli", *map(str, arguments)],
            cwd=tmp_path,
            env={**os.environ, "REPA_CACHE": str(tmp_path / "cache"), "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            out, err = process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.communicate()
            return ""
        assert process.returncode == code, err
        return out

    return started


def test_pictures_are_prepared_through_a_kill_trained_on_sampled_and_judged(run, tmp_path):
    cut_photographs(tmp_path / "photographs")
    save_tiny_autoencoder(tmp_path / "vae")
    options = ("--image-size", 64, "--autoencoder", "vae", "--encoder", ENCODER)
    options += ("--held-out", 0.2, "--features", NETWORK, "--batch-size", 4, "--device", "cpu")
    start = time.monotonic()
    run("prepare", "photographs", "--out", "whole", *options)
    seconds = time.monotonic() - start
    run("prepare", "photographs", "--out", "set", *options, seconds=0.6 * seconds)
    run("prepare", "photographs", "--out", "set", *options)
    assert content(tmp_path / "set") == content(tmp_path / "whole")

    about = json.loads(run("data", "set", "--json"))
    assert (about["images"], about["held_out"]["count"]) == (80, 20), about

    network = ("--model", "SiT-Pico/4", "--encoder-depth", 1, "--projector-dim", 32)
    training = ("--steps", 60, "--batch-size", 8, "--learning-rate", 1e-3, "--log-every", 1)
    place = ("--out", "model", "--preview-every", 0, "--device", "cpu")
    run("train", "--data", "set", *network, *training, *place)
    log = [json.loads(line) for line in (tmp_path / "model/log.jsonl").read_text().splitlines()]
    velocity, alignment = (np.array([entry[n] for entry in log]) for n in ("velocity", "alignment"))
    assert len(log) == 60 and np.isfinite(velocity).all()
    assert velocity[-10:].mean() < velocity[:10].mean()
    assert alignment[-10:].mean() < alignment[:10].mean() - 0.05  # minus a mean cosine

    sampling = ("--num", 24, "--solver", "heun", "--steps", 4, "--cfg", 1, "--device", "cpu")
    run("sample", "--model", "model", "--autoencoder", "vae", *sampling, "--out", "some.npz")
    found = json.loads(run("fid", "some.npz", "--device", "cpu", "--json"))["samples"]
    reference = f"set/held-out-{NETWORK}.npz"
    named = ("fid", "some.npz", "--ref", reference, "--features", NETWORK, "--device", "cpu")
    assert found["values"] == json.loads(run(*named, "--json"))["samples"]["values"]
    assert found["reference_sha256"] == about["held_out"]["sha256"]
