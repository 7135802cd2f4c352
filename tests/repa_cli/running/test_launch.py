"""`--processes N`: torch's launcher, and one message."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tiny_command import CLI_TINY
from torch.distributed.elastic.multiprocessing.errors import ProcessFailure

from repa_base.launcher import leave_error
from repa_cli.running.launch import _tell, launch


def failure(folder, rank, exitcode, message=None, seconds=0.0, **options):
    """A worker's end, with its message if it left one so many seconds after the others."""
    path = folder / f"{rank}.json"
    path.unlink(missing_ok=True)
    if message:
        os.environ["TORCHELASTIC_ERROR_FILE"] = str(path)
        leave_error(message, **options)
        content = json.loads(path.read_text())
        content["message"]["extraInfo"]["time"] += seconds
        path.write_text(json.dumps(content))
    return ProcessFailure(rank, 1000 + rank, exitcode, str(path))


@pytest.fixture
def told(tmp_path, monkeypatch, capsys):
    """Exit code and stderr of the launcher after its workers have ended like this."""
    monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", "")

    def tell(*ends):
        failures = {
            rank: failure(tmp_path, rank, code, *words[:2], **dict(*words[2:]))
            for rank, (code, *words) in enumerate(ends)
        }
        return _tell(failures), capsys.readouterr().err

    return tell


def test_the_error_that_came_first_is_told_alone_with_its_exit_code(told):
    assert told((1, "later", 0.5), (2, "first", 0.0)) == (2, "repa: error: first\n")
    assert told((2, "first", 0.0), (1, "later", 0.5)) == (2, "repa: error: first\n")


def test_an_error_is_told_rather_than_what_followed_from_it(told):
    follows = (1, "another process ended early", -5.0, {"consequence": True})
    assert told(follows, (1, "disk full")) == (1, "repa: error: disk full\n")
    killed = "repa: error: process 1 was ended by SIGKILL; repeat the command to go on.\n"
    assert told(follows, (-9,)) == told((-15,), (-9,)) == (1, killed)
    assert told((-15,), follows) == (1, "repa: error: another process ended early\n")


def test_a_bug_has_printed_its_traceback_and_nothing_more_is_told(told):
    assert told((-15,), (1,)) == (1, "")


@pytest.mark.parametrize(
    ("rank", "ours", "printed"), [("0", False, 1), ("1", False, 0), ("0", True, 0), ("1", True, 0)]
)
def test_worker_leaves_its_error_for_its_launcher(repa, tmp_path, monkeypatch, rank, ours, printed):
    monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(tmp_path / "error.json"))
    monkeypatch.setenv("RANK", rank)
    if ours:
        monkeypatch.setenv("REPA_LAUNCHED", "1")
    code, out, err = repa("sample", "--model", "digit")
    assert (code, out, err.count("\n")) == (2, "", printed)
    left = json.loads((tmp_path / "error.json").read_text())
    assert "did you mean 'digits'" in left["message"]["message"]


def test_worker_that_cannot_leave_its_error_prints_it(repa, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(tmp_path / "none/error.json"))
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("REPA_LAUNCHED", "1")
    code, _, error = repa("sample", "--model", "digit")
    assert code == 2 and "did you mean 'digits'" in error and error.count("\n") == 1


@pytest.mark.parametrize(("asked", "seconds"), [(None, 6 * 3600), ("90", 90)])
def test_what_ends_by_a_signal_has_hours_to_save_a_checkpoint(monkeypatch, asked, seconds):
    found = []

    def launcher(config, executable):
        found.append(config)
        return lambda *arguments: None

    monkeypatch.setattr("torch.distributed.launcher.api.elastic_launch", launcher)
    monkeypatch.setattr("logging.disable", lambda level: None)
    for name in ("REPA_LAUNCHED", "OMP_NUM_THREADS", "TORCH_ELASTIC_SHUTDOWN_TIMEOUT"):
        monkeypatch.setenv(name, asked or "1")  # so that they are put back
    if asked is None:
        monkeypatch.delenv("TORCH_ELASTIC_SHUTDOWN_TIMEOUT")
    assert launch(2, ["train"]) == 0
    assert found[0].shutdown_timeout == seconds


def test_processes_of_torchrun_start_no_others(repa, monkeypatch):
    monkeypatch.setattr("repa_cli.app._end", sys.exit)
    monkeypatch.setattr("repa_cli.running.launch.launch", lambda *arguments: 0)
    assert repa("train", "--from-step", 1, "--processes", 4)[0] == 0
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "theirs")
    code, out, error = repa("train", "--from-step", 1, "--processes", 4)
    assert (code, out) == (2, "")
    assert error == (
        "repa: error: Invalid value for '--processes': torchrun has started the processes already: "
        "leave it out.\n"
    )


@pytest.mark.slow
def test_torchrun_trains_and_its_processes_warn_of_nothing(tmp_path):
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    torchrun += ["--rdzv-backend", "c10d", "--rdzv-endpoint", "localhost:0"]
    quiet = {k: v for k, v in os.environ.items() if k != "TORCH_CPP_LOG_LEVEL"}
    options = [*CLI_TINY, "--preview-every", "0", "--steps", "3", "--log-every", "1"]
    done = subprocess.run(
        [*torchrun, "-m", "--", "repa_cli", "train", *options, "--out", "run"],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
        cwd=tmp_path,
        env={**quiet, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    assert "step-0000003" in done.stdout and "find_unused_parameters" not in done.stderr
    log = [json.loads(line) for line in (tmp_path / "run/log.jsonl").read_text().splitlines()]
    assert [(entry["step"], entry["processes"]) for entry in log] == [(1, 2), (2, 2), (3, 2)]


def command(*arguments):
    return [sys.executable, "-m", "repa_cli", *map(str, arguments)]


def test_error_in_several_processes_is_one_line_and_its_exit_code(tmp_path):
    done = subprocess.run(
        command("sample", "--processes", 2, "--model", "digit", "--out", tmp_path / "x.npz"),
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1), done.stderr
    assert done.stderr.startswith("repa: error: Invalid value for '--model': unknown model")


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="children are read in /proc")
@pytest.mark.parametrize(
    ("to", "number", "code", "line"),
    [
        ("worker", signal.SIGKILL, 1, "was ended by SIGKILL; repeat the command to go on."),
        ("launcher", signal.SIGINT, 130, "interrupted."),
    ],
)
def test_end_of_one_worker_or_an_interrupt_ends_all_within_a_minute(
    tmp_path, to, number, code, line
):
    out = tmp_path / "x.npz"
    options = ("--model", "digits", "--num", 9999, "--batch-size", 1, "--out", out)
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen(command("sample", "--processes", 2, *options), **pipes)
    progress = Path(f"{out}.progress")
    while not (progress.exists() and b"\1" in progress.read_bytes().partition(b"\n")[2]):
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    workers = [
        int(pid) for pid in children if b"sample" in Path(f"/proc/{pid}/cmdline").read_bytes()
    ]
    assert len(workers) == 2
    os.kill(workers[1] if to == "worker" else process.pid, number)
    _, err = process.communicate(timeout=60)  # to the end: the workers hold stderr too
    assert process.returncode == code
    assert [text for text in err.splitlines() if "error" in text] == [err.splitlines()[-1]], err
    assert err.splitlines()[-1].endswith(line)
    assert not any(Path(f"/proc/{pid}").exists() for pid in workers)
