"""`repa train`: runs that begin, go on, are made longer and start from others."""

import json
import re

import pytest
from tiny_command import files_of, names


def test_command_trains_resumes_and_refuses_to_overwrite(training, repa, tmp_path):
    code, out, error = training("--steps", 2, "--json")
    assert code == 0, error
    assert json.loads(out)["checkpoint"] == "run/checkpoints/step-0000002"
    code, _, error = training("--steps", 3)
    assert code == 1
    assert error.count("\n") == 1 and "--resume" in error
    # The rest is the run's own.
    code, out, error = repa("train", "--out", "run", "--steps", 3, "--resume")
    assert code == 0, error
    assert "step-0000003" in out
    code, _, error = repa("train", "--out", "rnu", "--resume")
    assert code == 1 and "rnu holds no run to go on with" in error
    assert not (tmp_path / "rnu").exists()
    code, _, error = training("--step", 3, "--resume")
    assert code == 2 and error.count("\n") == 1


def test_command_keeps_the_checkpoints_asked_for(training, repa, tmp_path, monkeypatch):
    monkeypatch.setattr("repa_base.device.ENOUGH", 0.05)
    every = ("--checkpoint-every", 1)
    assert training("--steps", 5, *every, "--keep-last", 1, "--keep-every", 2)[0] == 0
    assert names(tmp_path / "run") == ["step-0000002", "step-0000004", "step-0000005"]
    # The command that the program names when it is stopped keeps them, and goes on as it was.
    code, out, _ = repa("train", "--out", "run", "--resume", "--steps", 7, "--dry-run", "--json")
    assert code == 0 and json.loads(out)["reporting"]["keep_every"] == 2
    assert repa("train", "--out", "run", "--resume", "--steps", 7)[0] == 0
    assert names(tmp_path / "run") == [f"step-000000{step}" for step in (2, 4, 6, 7)]
    assert repa("train", "--out", "run", "--resume", "--steps", 8, "--keep-every", 0)[0] == 0
    assert names(tmp_path / "run") == [f"step-000000{step}" for step in (2, 4, 6, 8)]


def test_command_leaves_out_several_steps(training, tmp_path):
    code, _, error = training("--steps", 3, "--skip", 1, "--skip", 3)
    assert code == 0 and "without the update of step 1, without the update of step 3" in error
    code, _, error = training("--steps", 4, "--resume", "--skip", 2)
    assert code == 2 and "--skip" in error and "only steps after 3 and up to 4" in error


def test_a_run_cannot_be_given_fewer_steps_than_it_has_taken(training, tmp_path):
    assert training("--steps", 3)[0] == 0
    before = files_of(tmp_path / "run")
    code, out, error = training("--steps", 2, "--resume")
    assert code == 2 and not out and error.count("\n") == 1
    assert "--steps" in error and "at least 3" in error
    assert files_of(tmp_path / "run") == before
    code, out, error = training("--steps", 3, "--resume")
    assert code == 0 and "step-0000003" in out
    assert files_of(tmp_path / "run") == before


def test_a_job_that_is_queued_again_starts_a_run_and_goes_on_with_the_settings_of_the_run(
    training, repa, tmp_path
):
    again = ("train", "--preset", "digits", "--out", "run", "--resume")
    code, _, error = training("--preset", "digits", "--resume", "--steps", 2)
    assert code == 0 and "--preset" not in error
    assert training("--resume", "--steps", 3, "--learning-rate", 5e-4)[0] == 0
    before = files_of(tmp_path / "run")
    code, _, error = repa(*again)
    assert code == 0, error
    assert "a preset only starts a run" in error
    assert files_of(tmp_path / "run") == before


@pytest.mark.parametrize(("arguments", "code"), [((), 2), (("--resume",), 2)])
def test_a_step_to_go_on_from_that_is_none_is_mistyped(training, arguments, code):
    assert training("--steps", 2)[0] == 0
    found, _, error = training("--steps", 2, *arguments, "--from-step", 1)
    assert found == code and error.count("\n") == 1 and "--from-step" in error


def test_a_finished_run_made_longer_ends_as_a_run_of_that_length_from_the_start(
    training, repa, tmp_path
):
    assert training("--steps", 3)[0] == 0
    code, _, error = repa("train", "--out", "run", "--resume", "--steps", 7)
    assert code == 0, error
    assert "num_steps 3 -> 7" in error
    assert training("--steps", 7, "--out", "whole")[0] == 0
    ours, theirs = (tmp_path / f"{run}/checkpoints/step-0000007" for run in ("run", "whole"))
    assert [p.read_bytes() for p in sorted(ours.iterdir())] == [
        p.read_bytes() for p in sorted(theirs.iterdir())
    ]


def test_a_run_whose_rate_fell_says_why_it_cannot_just_be_made_longer_and_what_can(
    training, repa, tmp_path
):
    assert training("--steps", 4, "--decay-steps", 3)[0] == 0
    longer = ("train", "--out", "run", "--resume", "--steps", 8)
    code, _, error = repa(*longer)
    assert code == 2 and error.count("\n") == 1
    assert "--steps" in error and "would jump to 0.001" in error and "--decay-steps 0" in error
    code, out, error = repa(*longer, "--decay-steps", 0)
    assert code == 0, error
    assert "step-0000008" in out


def test_the_note_on_a_rate_that_is_never_reached_advises_what_reaches_it(training, tmp_path):
    schedule = ("--warmup-steps", 20, "--decay-steps", 30)
    code, _, error = training("--steps", 10, *schedule)
    assert code == 0
    (line,) = [line for line in error.splitlines() if "learning rate comes to" in line]
    logged = [json.loads(x) for x in (tmp_path / "run/log.jsonl").read_text().splitlines()]
    assert all(0 < entry["learning_rate"] < 1e-3 for entry in logged)
    options = re.findall(r"(--(?:warmup|decay)-steps) (\d+)", line)
    advice = [part for option in options for part in option]
    code, _, error = training("--steps", 10, *advice, "--out", "other", "--log-every", 1)
    assert code == 0 and "learning rate comes to" not in error
    logged = [json.loads(x) for x in (tmp_path / "other/log.jsonl").read_text().splitlines()]
    assert max(entry["learning_rate"] for entry in logged) == 1e-3


def test_command_starts_a_run_from_another_one_and_says_what_is_made_anew(training, repa, tmp_path):
    code, _, error = training("--steps", 1)
    assert code == 0, error
    start = ["--init", "run", "--image-size", 32, "--steps", 1, "--out", "finer"]
    code, out, error = training(*start)
    assert code == 0 and "finer/checkpoints/step-0000001" in out
    assert "/run (SHA-256 " in error
    assert "position embedding made anew (4 x 4 tokens, not 2 x 2)" in error
    code, out, error = training(*start, "--resume", "--steps", 2, "--init", "other")
    assert code == 1 and not out and error.count("\n") == 1 and "other settings (init)" in error
    code, _, error = repa("train", "--out", "finer", "--resume", "--steps", 2)
    assert code == 0 and "starting from" not in error, error
