"""`repa train --data`: a set on disk, what is damaged in it, and signals while others read."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from prepared_sets import COUNT, LATENT, SIDE, SPACE, NumberedRows

from repa.data.row_files import Layout
from repa.training.run.folder import checkpoints_of

ENCODER = "dinov2-vit-s"
SMALL = ["--model", "SiT-Pico/2", "--projector-dim", "8", "--batch-size", "8", "--encoder-depth"]
SMALL += ["1", "--preview-every", "0"]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A prepared set on disk, of numbered rows."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    from prepared_folder import write_set

    layout = Layout(
        image_size=SIDE,
        count=COUNT,
        labels=np.arange(COUNT),
        moments_shape=(8, LATENT, LATENT),
        features={ENCODER: (16, 5)},
        flip=True,
    )
    write_set(tmp_path / "set", layout, NumberedRows(1.0), asdict(SPACE))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "set"


def ends(group):
    """Whether every process of a group ends soon."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.2)
    return False


def test_a_set_is_trained_on_without_a_preset_and_all_that_was_chosen_is_recorded(repa, folder):
    code, out, error = repa("train", "--data", "set", *SMALL, "--steps", 2, "--flip", "--json")
    assert code == 0, error
    assert json.loads(out)["run"] == "runs/set"
    config = json.loads((folder.parent / "runs/set/config.json").read_text())
    assert config["data"] == {"data": str(folder), "image_size": SIDE, "flip": True}
    assert config["alignment"]["encoder"] == ENCODER
    assert config["optimizer"]["learning_rate"] == 1e-4
    code, _, error = repa("train", "--out", "runs/set", "--resume", "--steps", 3, "--workers", 1)
    assert code == 0, error


@pytest.mark.parametrize(
    ("name", "change", "told"),
    [
        (f"features/{ENCODER}.npy", "cut", "is cut short"),
        ("moments.npy", "cut", "is cut short"),
        (f"features/{ENCODER}.npy", "flip", "row 39 is not as it was written"),
        ("moments.npy", "flip", "row 39 is not as it was written"),
        ("moments.npy", "gone", "is missing"),
        ("prepared.json", "flip", "is damaged"),
        ("prepared.json", "gone", ""),
    ],
)
@pytest.mark.parametrize("workers", [0, 1])
def test_what_is_damaged_of_a_set_is_one_line(repa, folder, name, change, told, workers):
    path = folder / name
    content = bytearray(path.read_bytes())
    if change == "gone":
        path.unlink()
    else:
        content[-3] ^= 1
        path.write_bytes(content[:-7] if change == "cut" else content)
    options = ("--steps", 12, "--workers", workers)
    code, out, error = repa("train", "--data", folder, *SMALL, *options)
    assert code == 1 and not out, error
    (line,) = [line for line in error.splitlines() if "error" in line]
    assert told in line and "Traceback" not in error


def test_an_explicit_other_size_names_both(repa, folder):
    code, out, error = repa("train", "--data", folder, *SMALL, "--steps", 1, "--image-size", 32)
    assert code == 2 and not out and error.count("\n") == 1
    assert "--image-size" in error and "32" in error and "prepared with 16" in error


@pytest.mark.parametrize("data", ["nonsense", "/no/such/folder"])
def test_data_that_are_not_there_are_one_line(repa, tmp_path, monkeypatch, data):
    monkeypatch.chdir(tmp_path)
    code, out, error = repa("train", "--data", data, *SMALL, "--steps", 1)
    assert code in (1, 2) and not out and error.count("\n") == 1 and data in error
    assert not list(tmp_path.glob("runs/*/*.json"))


@pytest.mark.parametrize(
    "number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)]
)
def test_a_signal_to_the_whole_group_ends_the_run_saved_and_no_process_stays(folder, number):
    command = [sys.executable, "-m", "repa_cli", "train", "--data", "set", *SMALL]
    command += ["--steps", "100000", "--checkpoint-every", "5", "--workers", "2"]
    run = subprocess.Popen(
        command, cwd=folder.parent, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    deadline = time.monotonic() + 120
    while not checkpoints_of(folder.parent / "runs/set"):
        assert run.poll() is None and time.monotonic() < deadline, run.communicate()
        time.sleep(0.05)
    os.killpg(run.pid, number)
    _, error = run.communicate(timeout=60)
    assert run.returncode == 128 + number, error
    assert "Traceback" not in error and "which is saved; go on with" in error.splitlines()[-1]
    assert ends(run.pid)


def test_a_run_that_is_killed_takes_those_that_read_with_it(folder):
    command = [sys.executable, "-m", "repa_cli", "train", "--data", "set", *SMALL]
    command += ["--steps", "100000", "--checkpoint-every", "5", "--workers", "1"]
    run = subprocess.Popen(
        command, cwd=folder.parent, stderr=subprocess.DEVNULL, start_new_session=True
    )
    deadline = time.monotonic() + 120
    while not checkpoints_of(folder.parent / "runs/set"):
        assert run.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    run.kill()
    run.wait()
    assert ends(run.pid)


def test_a_run_is_called_like_the_folder_of_its_data_however_that_is_written(
    repa, folder, monkeypatch
):
    (folder.parent / "link").symlink_to(folder)
    for written, name in (("./set/", "set"), ("link", "link")):
        code, out, error = repa("train", "--data", written, *SMALL, "--steps", 1, "--json")
        assert code == 0 and json.loads(out)["run"] == f"runs/{name}", error
        shutil.rmtree("runs")
    (folder / "inside").mkdir()
    monkeypatch.chdir(folder / "inside")
    code, out, error = repa("train", "--data", "..", *SMALL, "--steps", 1, "--json")
    assert code == 0 and json.loads(out)["run"] == "runs/set", error
    code, out, error = repa("train", "--data", "/", "--steps", 1)
    assert code == 2 and not out and error.count("\n") == 1
    assert "--data" in error and "give --out" in error
