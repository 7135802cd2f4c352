"""From pictures to a judged model: every command of one's own data, one after the other, for real.

The pictures are pieces of the two photographs that scikit-learn ships.
"""

import json
import os
import shutil
import subprocess
import sys
import time
from functools import partial

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


COMMAND = (sys.executable, "-m", "repa_cli")
MARKING = (  # as the command, but every block is marked as soon as it is on disk
    "from repa.data.preparation import pipeline; pipeline._SECONDS_TO_MARK = 0; "
    "from repa_cli.app import main; main()"
)


@pytest.fixture
def start(tmp_path):
    """Start the command in a folder of its own."""

    def started(*arguments, command=COMMAND):
        return subprocess.Popen(
            [*command, *map(str, arguments)],
            cwd=tmp_path,
            env={**os.environ, "REPA_CACHE": str(tmp_path / "cache"), "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    return started


@pytest.fixture
def run(start):
    """Run the command to its end; return what it prints."""

    def ended(*arguments):
        process = start(*arguments)
        out, err = process.communicate()
        assert process.returncode == 0, err
        return out

    return ended


def marked(folder, count):
    """Return which of so many rows an unfinished set holds as done; none before there is a file."""
    path = folder / "prepare.progress"
    records = path.read_bytes().partition(b"\n")[2] if path.exists() else b""
    return np.frombuffer(records, np.uint8).reshape(count, -1).any(1) if records else np.zeros(0)


def kill_in_the_work(start, folder, count):
    """Kill what `start` starts as soon as some rows are marked; return how many are by then.

    All of them can be only if this process stood still for a second; then it is tried again.
    """
    for _ in range(3):
        with start() as process:
            while not marked(folder, count).any():
                assert process.poll() is None, process.stderr.read()
                time.sleep(0.005)
            process.kill()
        if (number := int(marked(folder, count).sum())) < count:
            break
        shutil.rmtree(folder)
    return number


def test_pictures_are_prepared_through_a_kill_trained_on_sampled_and_judged(start, run, tmp_path):
    cut_photographs(tmp_path / "photographs")
    save_tiny_autoencoder(tmp_path / "vae")
    options = ("--image-size", 64, "--autoencoder", "vae", "--encoder", ENCODER)
    options += ("--held-out", 0.2, "--features", NETWORK, "--batch-size", 4, "--device", "cpu")
    run("prepare", "photographs", "--out", "whole", *options)
    prepare = ("prepare", "photographs", "--out", "set", *options)
    killed = partial(start, *prepare, command=(sys.executable, "-c", MARKING))
    assert 0 < kill_in_the_work(killed, tmp_path / "set", 100) < 100
    assert not (tmp_path / "set/prepared.json").exists()
    run(*prepare)
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
