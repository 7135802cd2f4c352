"""Workers and their launcher, in real processes."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time

import pytest
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure

from repa_base.launcher import leave_error, tells_errors

LAUNCHER = """
import subprocess, sys, time
workers = [subprocess.Popen([sys.executable, "-c", code], stdout=2) for code in sys.argv[1:]]
while all(worker.poll() is None for worker in workers):
    time.sleep(0.05)
"""

WATCHED = """
import os, sys, time
from repa_base import launcher
launcher._SECONDS = 0.05
with launcher.ending_with_launcher():
    os.write(1, b"waiting\\n")
    time.sleep(600)
"""

LEFT = """
import os, time
from repa_base import launcher
parent, launcher._SECONDS = os.getppid(), 0.05

def outlive():
    os.write(1, b"waiting\\n")
    while os.getppid() == parent:
        time.sleep(0.05)
    time.sleep(0.5)
    print("alive", flush=True)
    os._exit(0)

with launcher.ending_with_launcher():
    pass
outlive()
"""
INSIDE = "    outlive()"

JOINED = """
import contextlib
import os
import signal
import socket
from repa_base import launcher
os.environ |= {{"RANK": "{0}", "LOCAL_RANK": "{0}", "WORLD_SIZE": "2"}}
launcher._SECONDS = 0.05
from repa_base.processes import joined_processes
with joined_processes() as us:
    us.barrier()
    os.write(1, b"waiting\\n")
    if us.rank == 0:
        us.share(1)
        list(us.gather(1))  # the other one never answers
    else:
        import time
        time.sleep(600)
"""


def orphans(*workers, **environment):
    """Kill the launcher of some workers when they wait; return what they say until they end."""
    launcher = subprocess.Popen(
        [sys.executable, "-c", LAUNCHER, *workers],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **environment},
        start_new_session=True,
    )
    try:
        with launcher.stderr:
            waiting = 0
            while waiting < len(workers):
                line = launcher.stderr.readline()
                assert line, "a worker has ended"
                waiting += line == "waiting\n"
            launcher.kill()
            launcher.wait()
            killed = time.monotonic()
            said = launcher.stderr.readlines()  # to the end: every worker has ended
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(launcher.pid, signal.SIGKILL)
    own = [line for line in said if line.startswith(("repa", "alive"))]  # torch warns, too
    return "".join(own), time.monotonic() - killed


def test_worker_ends_within_seconds_when_its_launcher_is_killed_and_one_line_says_so():
    said, seconds = orphans(WATCHED, TORCHELASTIC_RUN_ID="run", RANK="0")
    assert said == (
        "repa: error: the launcher of the processes has ended, and so do they; "
        "repeat the command to go on.\n"
    )
    assert seconds < 30
    assert orphans(WATCHED, TORCHELASTIC_RUN_ID="run", RANK="1")[0] == ""


@pytest.mark.parametrize("code", [LEFT, LEFT.replace("    pass", INSIDE)], ids=["left", "alone"])
def test_process_that_waits_for_nobody_outlives_what_started_it(code):
    environment = {"TORCHELASTIC_RUN_ID": "run"} if code is LEFT else {}
    assert orphans(code, **environment)[0] == "alive\n"


def test_joined_processes_that_wait_for_each_other_end_with_their_launcher():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    world = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "TORCHELASTIC_RUN_ID": "run"}
    said, seconds = orphans(JOINED.format(0), JOINED.format(1), **world)
    assert said.count("the launcher of the processes has ended") == 1 and said.count("\n") == 1
    assert seconds < 30


def test_error_that_is_left_stands_in_the_launcher_s_report(tmp_path, monkeypatch):
    assert not leave_error("no launcher")
    monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(tmp_path / "error.json"))
    assert leave_error("x.pt: is damaged.")
    failure = ProcessFailure(0, 1, 1, str(tmp_path / "error.json"))
    assert "traceback : x.pt: is damaged." in str(ChildFailedError("repa_cli", {1: failure}))
    assert abs(failure.timestamp - time.time()) < 60


def test_error_that_cannot_be_left_is_known_and_leaves_no_half_file(tmp_path, monkeypatch):
    def write_half(path, text):
        path.write_bytes(text[:20].encode())
        raise OSError(28, "No space left on device")

    monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(tmp_path / "none/error.json"))
    assert not leave_error("x.pt: is damaged.")
    monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(tmp_path / "error.json"))
    monkeypatch.setattr("pathlib.Path.write_text", write_half)
    assert not leave_error("x.pt: is damaged.") and not list(tmp_path.iterdir())


def test_who_tells_an_error(monkeypatch):
    told = {}
    for rank in ("0", "1"):
        for ours in ("", "1"):
            monkeypatch.setenv("RANK", rank)
            monkeypatch.delenv("REPA_LAUNCHED", raising=False)
            if ours:
                monkeypatch.setenv("REPA_LAUNCHED", ours)
            told[rank, ours] = tells_errors()
    assert [who for who, tells in told.items() if tells] == [("0", "")]
