"""Several processes that train together: the losses of one, what is saved, and what is refused."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from tiny_run import file_bytes
from worlds import run_world

TESTS = Path(__file__).parents[2]
MEASURED = ("loss", "velocity", "alignment", "gradient_norm")


@pytest.fixture(scope="module", params=[2, 3])
def shared(request, tmp_path_factory):
    """What so many processes made: their number, their folder, and the errors of each."""
    folder = tmp_path_factory.mktemp("shared")
    found = run_world(request.param, TESTS / "training_in_processes.py", folder)
    assert [code for code, _, _ in found] == [0] * request.param, found
    return request.param, folder, [json.loads(out) for _, out, _ in found]


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    folder = tmp_path_factory.mktemp("alone")
    ((code, _, error),) = run_world(1, TESTS / "training_in_processes.py", folder)
    assert code == 0, error
    return folder


def log_of(run):
    return [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]


RUNS = ["plain", "accumulated", "aligned", "aligned, accumulated", "computed"]


@pytest.mark.parametrize("name", RUNS)
def test_losses_are_those_of_one_process_step_by_step(shared, alone, name):
    size, folder, _ = shared
    single = log_of(alone / name)
    found = log_of(folder / name)
    assert len(found) == len(single) == (7 if name == "computed" else 50)
    for ours, theirs in zip(found, single, strict=True):
        assert (ours["processes"], theirs["processes"]) == (size, 1)
        for key in MEASURED:
            assert ours[key] == pytest.approx(theirs[key], abs=1e-6), (ours["step"], key)
        until = {"plain": 0, "accumulated": 0, "computed": 4}.get(name, 30)
        assert (ours["alignment"] != 0) == (ours["step"] <= until)


@pytest.mark.parametrize(
    ("name", "whole"),
    [("accumulated", "plain"), ("aligned, accumulated", "aligned"), ("computed", "short")],
)
def test_losses_do_not_depend_on_the_parts_of_a_batch_or_where_features_are(alone, name, whole):
    for ours, theirs in zip(log_of(alone / name), log_of(alone / whole), strict=True):
        for key in MEASURED:
            assert ours[key] == pytest.approx(theirs[key], abs=1e-6), (ours["step"], key)


def test_a_run_resumed_by_as_many_processes_ends_with_the_same_bytes(shared):
    _, folder, _ = shared
    resumed, whole = (folder / name / "checkpoints/step-0000007" for name in ("parts", "short"))
    assert file_bytes(resumed) == file_bytes(whole)


def test_a_run_that_is_watched_ends_with_the_same_bytes(shared):
    _, folder, _ = shared
    run = folder / "watched"
    last = "checkpoints/step-0000007"
    assert file_bytes(run / last) == file_bytes(folder / "short" / last)
    judged = [entry["step"] for entry in log_of(run) if "held_out" in entry]
    assert judged == [3, 6, 7]
    drawn = sorted(path.name for path in (run / "previews").iterdir())
    assert drawn == ["step-0000005.png", "step-0000007.png"]


def test_a_step_that_is_not_finite_at_one_process_is_left_out_at_all(shared):
    _, folder, _ = shared
    left_out, skipped = (
        folder / name / "checkpoints/step-0000005" for name in ("damaged", "skipped")
    )
    for name in ("model", "ema", "optimizer"):
        file = f"{name}.safetensors"
        assert (left_out / file).read_bytes() == (skipped / file).read_bytes()
    told = [entry["step"] for entry in log_of(folder / "damaged") if "not_finite" in entry]
    assert told == [3] and log_of(folder / "damaged")[2]["not_finite"] == [3]


def test_what_is_refused_is_known_to_every_process_and_nothing_is_left(shared):
    size, folder, said = shared
    assert all(each == said[0] for each in said)
    assert said[0]["divided"].startswith(f"batch_size 7 cannot be divided among {size} processes")
    other = f"process {size - 1} was started with other arguments than the first one"
    assert said[0]["settings"] == (
        f"{other} (learning_rate 0.002, not 0.001): give all of them the same."
    )
    assert said[0]["arguments"].startswith(f"{other} (skip (3,), not ())")
    assert said[0]["watching"].startswith(f"{other} (checkpoint_every 5, not 50)")
    assert said[0]["keeping"].startswith(f"{other} (keep_features nowhere, not unset)")
    assert "holds a run already" in said[0]["there"]
    assert said[0]["apart"] == (
        f"process {size - 1} does not find the features that the first one keeps in apart: it must "
        "be the same folder for all, on a disk that they share."
    )
    refused = ("divided", "settings", "arguments", "watching", "keeping")
    assert not any((folder / name).exists() for name in refused)


def killed(tmp_path, size, *kills):
    command = [sys.executable, TESTS / "killed_training.py", tmp_path, str(size), "0", *kills]
    quiet = {**os.environ, "TORCH_CPP_LOG_LEVEL": "ERROR"}
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=550, env=quiet
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(("size", "kill"), [(1, "all"), (2, "one"), (3, "all")])
def test_a_run_that_is_killed_ends_with_the_same_bytes(tmp_path, size, kill):
    killed(tmp_path, size, kill)


@pytest.mark.slow
@pytest.mark.parametrize(("size", "count"), [(1, 7), (2, 7), (3, 6)])
def test_a_run_that_is_killed_many_times_ends_with_the_same_bytes(tmp_path, size, count):
    killed(tmp_path, size, *(["one", "all"] * 4)[:count])
