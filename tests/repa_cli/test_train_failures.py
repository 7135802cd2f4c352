"""What ends a training by several processes: one line from one of them, and nothing is lost."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from tiny_run import file_bytes

TESTS = Path(__file__).parents[1]
SECONDS = 300
"""Of six steps on a busy machine; who waits for another process in vain waits far longer."""

AGAIN = "repa train --out run --resume --processes 2"


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    """What the commands of each case gave, and the folder of the cases."""
    folder = tmp_path_factory.mktemp("failures")
    done = subprocess.run(
        [sys.executable, TESTS / "failing_training.py", folder],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
        env={**os.environ, "TORCH_CPP_LOG_LEVEL": "ERROR"},
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout), folder


@pytest.fixture
def found(given):
    """What the commands of a case gave."""
    return lambda case: given[0][case]


@pytest.fixture
def checkpoint(given):
    """Files of a checkpoint of a case."""
    return lambda case, step: file_bytes(given[1] / case / f"run/checkpoints/step-000000{step}")


def error_of(command):
    """The one line of error of a command that failed as a whole, in time."""
    assert command["code"] == 1 and not command["out"], command
    assert command["seconds"] < SECONDS and not command["alive"]
    *notes, error = command["err"].splitlines()
    assert error.startswith("repa: error: "), command
    assert not [note for note in notes if "error" in note or "Traceback" in note], command
    return error.removeprefix("repa: error: ")


def test_out_of_memory_in_one_process_ends_all_with_the_option_that_helps(found, checkpoint):
    failed, resumed = found("memory")
    assert error_of(failed).startswith("out of memory in a step: try --accumulate 2")
    assert failed["checkpoints"] == ["step-0000002"]
    assert resumed["code"] == 0 and "resuming from step 2 of 6" in resumed["err"]
    assert checkpoint("memory", 6) == checkpoint("whole", 6)


def test_processes_end_by_themselves_when_the_memory_of_another_does_not_suffice(found, checkpoint):
    first, second = found("memory, without a launcher")
    assert error_of(first).startswith("another process ended early")
    assert error_of(second).startswith("out of memory in a step: try --accumulate 2")
    assert second["checkpoints"] == ["step-0000002"]


@pytest.mark.parametrize(
    ("case", "said"),
    [
        ("other resume", "(preset unset, not digits; resume False, not True)"),
        ("other log", "(log_every 1, not 2)"),
    ],
)
def test_processes_that_were_typed_otherwise_end_at_once_and_each_says_what_differs(
    found, case, said
):
    for ended in found(case):
        error = "process 1 was started with other arguments than the first one"
        assert error_of(ended) == f"{error} {said}: give all of them the same."
        assert not ended["checkpoints"]


def test_a_full_disk_leaves_the_last_good_checkpoint_from_which_the_run_goes_on(found, checkpoint):
    failed, resumed = found("disk")
    full = "run/checkpoints/step-0000004: File too large; make room and go on with: "
    assert error_of(failed) == f"{full}{AGAIN}; what was saved stays."
    assert failed["checkpoints"] == ["step-0000002"]
    assert resumed["code"] == 0 and "resuming from step 2 of 6" in resumed["err"]
    for step in (2, 4, 6):
        assert checkpoint("disk", step) == checkpoint("whole", step)


def test_room_for_the_next_checkpoint_is_known_to_all_before_the_steps_to_it(
    found, checkpoint, given
):
    (failed,) = found("room")
    error = error_of(failed)
    assert error.startswith("run: No space: the checkpoint of step 4 needs ")
    assert error.endswith(f"make room and go on with: {AGAIN}; what was saved stays.")
    assert failed["checkpoints"] == ["step-0000002"]
    assert checkpoint("room", 2) == checkpoint("whole", 2)
    log = (given[1] / "room/run/log.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in log] == [1, 2]


def test_of_two_runs_begun_in_one_folder_at_a_time_one_is_refused_and_one_unharmed(
    found, checkpoint
):
    refused, whole = found("two")
    assert error_of({**refused, "alive": []}) == "run: another process trains in it."
    assert len(refused["alive"]) == 2  # those of the other run
    assert whole["code"] == 0 and not whole["alive"]
    for step in (2, 4, 6):
        assert checkpoint("two", step) == checkpoint("whole", step)
