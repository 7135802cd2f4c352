"""Ends of `repa train` that are not its last step: kills, signals, damage, no finite loss."""

import json
import re
import shlex
import signal
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tiny_command import CLI_TINY, files_of, names
from tiny_run import QUIET, TINY

import repa.training.loop as loop
import repa.training.run.opening as opening
from repa.data import open_training_data
from repa.training.batch import EpochOrder
from repa.training.loop import train
from repa.training.run.folder import checkpoints_of
from repa.training.run.state import step_of

CLI = [sys.executable, "-m", "repa_cli", "train"]


def test_command_killed_without_mercy_resumes_from_the_last_checkpoint(tmp_path):
    arguments = [*CLI, *CLI_TINY, "--steps", "40", "--checkpoint-every", "2", "--out", "run"]
    process = subprocess.Popen(arguments, cwd=tmp_path, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 60
    while not checkpoints_of(tmp_path / "run") and time.monotonic() < deadline:
        time.sleep(0.01)
    process.kill()
    process.communicate()
    done = subprocess.run(
        [*arguments, "--resume"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert names(tmp_path / "run") == ["step-0000038", "step-0000040"]
    whole = train(replace(TINY, num_steps=40), tmp_path / "whole", reporting=QUIET)
    killed = checkpoints_of(tmp_path / "run")[0]
    ours, theirs = load_file(killed / "ema.safetensors"), load_file(whole / "ema.safetensors")
    for name, tensor in ours.items():
        torch.testing.assert_close(tensor, theirs[name], atol=1e-5, rtol=1e-4)


def advised(error):
    """The commands that a message advises, as they would be typed."""
    return [shlex.split(command)[1:] for command in re.findall(r"repa train [^;\n]*", error)]


@pytest.fixture
def damaged_images(monkeypatch):
    """Let two images of the digits be damaged, those of steps 4 and 6 of a tiny run."""

    class DamagedData:
        def __getattr__(self, name):
            return getattr(data, name)

        def batch(self, indices, generator):
            batch = data.batch(indices, generator)
            bad = torch.from_numpy(np.isin(indices, damaged))
            return replace(batch, inputs=batch.inputs.where(~bad[:, None, None, None], torch.nan))

    data = open_training_data("digits", 16)
    order = EpochOrder(TINY.seed, data.count)(np.arange(8 * TINY.batch_size))
    damaged = [order[3 * TINY.batch_size], order[5 * TINY.batch_size + 2]]
    monkeypatch.setattr(opening, "open_training_data", lambda name, size: DamagedData())


def log_of(run):
    return [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]


def test_a_run_that_meets_two_damaged_images_leaves_their_steps_out_and_says_so(
    training, tmp_path, damaged_images
):
    code, _, error = training("--steps", 8, "--checkpoint-every", 5, "--log-every", 3)
    assert code == 0, error
    assert "the loss or its gradient was not finite at step 4: left out." in error
    assert "the loss or its gradient was not finite at step 6: left out." in error
    entries = [(e["step"], e.get("not_finite"), "loss" in e) for e in log_of(tmp_path / "run")]
    # Step 4 is in the log before the checkpoint of step 5, from which it is not taken again.
    told = [(5, [4], False), (6, [6], False)]
    assert entries == [(3, None, True), *told, (8, None, True)]
    # The weights are those of a run whose steps 4 and 6 are left out because that is asked for.
    skipped = train(replace(TINY, num_steps=8), tmp_path / "other", skip=[4, 6], reporting=QUIET)
    for name in ("model", "ema", "optimizer"):
        ours, theirs = (
            load_file(folder / f"{name}.safetensors")
            for folder in (checkpoints_of(tmp_path / "run")[0], skipped)
        )
        assert all(torch.equal(ours[key], theirs[key]) for key in theirs), name


@pytest.mark.parametrize(
    ("option", "value"),
    [("--patience", "20"), ("--learning-rate", "0.0005"), ("--precision", "fp32")],
)
def test_a_run_out_of_patience_stops_before_it_saves_and_every_way_on_leads_to_the_end(
    training, repa, tmp_path, damaged_images, monkeypatch, option, value
):
    rare = ("--steps", 7, "--checkpoint-every", 2, "--log-every", 100, "--precision", "bf16")
    code, _, error = training(*rare, "--patience", 2)
    assert code == 1
    assert "error: the loss or its gradient was not finite at steps 4, 6. Go on" in error
    # What was saved after step 4 told of it first; step 6 is not saved.
    assert names(tmp_path / "run") == ["step-0000002", "step-0000004"]
    (command,) = [command for command in advised(error) if option in command]
    assert command[-2:] == [option, value]
    code, _, error = repa(*command)
    assert code == 0, error
    assert names(tmp_path / "run")[-1] == "step-0000007"


def test_the_command_that_an_interrupted_run_names_goes_on_with_it(
    training, repa, tmp_path, monkeypatch
):
    def step(*arguments, **options):
        signal.raise_signal(signal.SIGINT)
        return train_step(*arguments, **options)

    train_step = loop.train_step
    with monkeypatch.context() as patch:
        patch.setattr(loop, "train_step", step)
        code, _, error = training("--steps", 3, "--out", "my run; it's new")
    assert code == 130
    (line,) = [line for line in error.splitlines() if "go on with: " in line]
    code, out, error = repa(*shlex.split(line.partition("go on with: repa ")[2]))
    assert code == 0, error
    assert "step-0000003" in out


def test_a_damaged_checkpoint_is_one_line_and_the_command_that_it_offers_leads_to_the_end(
    training, repa, tmp_path
):
    assert training("--steps", 6, "--checkpoint-every", 3)[0] == 0
    whole = files_of(tmp_path / "run/checkpoints/step-0000006")
    damaged = tmp_path / "run/checkpoints/step-0000006/optimizer.safetensors"
    content = damaged.read_bytes()
    damaged.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    for _ in range(2):  # nothing was changed by being told
        code, out, error = repa("train", "--out", "run", "--resume")
        assert code == 1 and not out and error.count("\n") == 1
        assert "step-0000006 is damaged: " in error and "optimizer.safetensors" in error
    (command,) = advised(error)
    assert command[-2:] == ["--from-step", "3"]
    code, out, error = repa(*command)
    assert code == 0, error
    assert "later checkpoints are in run/set-aside" in error
    assert files_of(tmp_path / "run/checkpoints/step-0000006") == whole
    assert repa("train", "--out", "run", "--resume")[0] == 0


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["INT", "TERM"]
)
def test_a_signal_ends_the_command_saved_with_the_code_of_the_signal(
    training, tmp_path, monkeypatch, number, code
):
    def step(*arguments, **options):
        signal.raise_signal(number)
        return train_step(*arguments, **options)

    train_step = loop.train_step
    monkeypatch.setattr(loop, "train_step", step)
    found, out, error = training("--steps", 3)
    assert found == code and not out
    assert "stopped after step 1, which is saved" in error.splitlines()[-1]
    assert names(tmp_path / "run") == ["step-0000001"]


def test_a_state_of_odd_types_and_a_binary_log_are_no_traceback(training, repa, tmp_path):
    assert training("--steps", 2, "--checkpoint-every", 1)[0] == 0
    (tmp_path / "run/log.jsonl").write_bytes(bytes(range(256)) * 9)
    assert training("--steps", 3, "--resume")[0] == 0
    state = tmp_path / "run/checkpoints/step-0000003/state.json"
    state.write_text('{"format": 1, "step": {"a": [3]}, "config": 7}')
    code, _, error = training("--steps", 4, "--resume")
    assert code == 1 and error.count("\n") == 1 and "step-0000003 is damaged" in error


def test_processes_that_are_told_to_end_save_together_and_the_run_goes_on(tmp_path):
    arguments = [*CLI, *CLI_TINY, "--out", "run", "--log-every", "1", "--preview-every", "0"]
    process = subprocess.Popen(
        [*arguments, "--steps", "100000", "--processes", "2"],
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 120
    while not (tmp_path / "run/log.jsonl").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    error = process.communicate(timeout=120)[1]
    assert process.returncode == 143, error
    assert all(line.startswith("repa: ") for line in error.splitlines()), error
    (line,) = [line for line in error.splitlines() if "which is saved; go on with" in line]
    assert line.endswith("--out run --resume --processes 2")
    last = checkpoints_of(tmp_path / "run")[0]
    assert f"after step {step_of(last)}, which" in line
    # Any number of processes reads it.
    steps = ["--steps", str(step_of(last) + 1), "--resume"]
    done = subprocess.run(
        [*arguments, *steps], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
