"""The first moments of the command, in real processes."""

import os
import pty
import signal
import subprocess
import sys
import time

import pytest

BEGIN = """
import os, sys

class Begun:
    def find_spec(self, name, *_):
        if name == "repa_cli.running":
            os.write(1, b".")

sys.meta_path.insert(0, Begun())
from repa_cli.__main__ import main
sys.argv = ["repa", *sys.argv[1:]]
main()
"""
"""Says on stdout that the command runs its first line, where it guards against Ctrl-C already."""

SPY = """
import os, sys

class Spy:
    def find_spec(self, name, *_):
        if name in ("typer", "torch"):
            os.write(2, f"[{name}]".encode())
        if name == "torch":
            raise SystemExit(7)

sys.meta_path.insert(0, Spy())
from repa_cli.__main__ import main
sys.argv = ["repa", *sys.argv[1:]]
main()
"""
"""Says on stderr when the app is about to be imported, or torch, and ends there."""

LONG = ("sample", "--model", "digits", "--num", "9999", "--steps", "9999", "--labels", "3")


def begun(folder, *arguments, **options):
    """Start a command, and return when it runs its first line."""
    command = [sys.executable, "-c", BEGIN, *arguments]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "cwd": folder, **options}
    process = subprocess.Popen(command, **pipes)
    assert process.stdout.read(1) == b"."
    return process


@pytest.mark.parametrize("delay", [0.01, 0.03, 0.06, 0.1, 0.2, 0.3, 0.6, 1.0])
def test_interrupt_at_any_early_moment_is_one_line_and_exit_code_130(tmp_path, delay):
    process = begun(tmp_path, *LONG)
    time.sleep(delay)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err.decode().splitlines()[-1:] == ["repa: error: interrupted."], err
    assert b"Traceback" not in err and err.count(b"interrupted.") == 1


def test_interrupt_that_is_ignored_stays_so(tmp_path):
    def ignore():
        signal.signal(signal.SIGINT, signal.SIG_IGN)

    process = begun(tmp_path, "fid", "--help", preexec_fn=ignore)
    for _ in range(20):
        time.sleep(0.02)
        process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode == 0


@pytest.mark.parametrize("delay", [0.0, 0.05])
@pytest.mark.parametrize(("rank", "shown"), [("0", True), ("1", False)])
def test_only_the_first_of_several_processes_says_that_it_was_interrupted(
    tmp_path, rank, shown, delay
):
    process = begun(tmp_path, *LONG, env={**os.environ, "RANK": rank, "WORLD_SIZE": "2"})
    time.sleep(delay)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert (process.returncode, b"interrupted" in err) == (130, shown)


def on_a_terminal(folder, code, *arguments, **environment):
    """Run `python -c CODE` with stderr on a terminal; return exit code and what it shows."""
    ours, theirs = pty.openpty()
    command = [sys.executable, "-c", code, *map(str, arguments)]
    environment = {**os.environ, "REPA_CACHE": str(folder / "cache"), **environment}
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=theirs, cwd=folder, env=environment
    )
    os.close(theirs)
    shown = b""
    try:
        while piece := os.read(ours, 10_000):
            shown += piece
    except OSError:  # how Linux says that the other side has closed
        pass
    os.close(ours)
    return process.wait(timeout=60), shown.decode()


def visible(shown):
    """The lines that stay to be seen, of text with carriage returns."""
    lines = []
    for line in shown.replace("\r\n", "\n").split("\n"):
        seen = ""
        for piece in line.split("\r"):
            seen = piece + seen[len(piece) :]
        lines.append(seen.rstrip())
    return [line for line in lines if line]


def test_terminal_shows_a_sign_of_life_before_anything_slow_and_then_removes_it(tmp_path):
    code, shown = on_a_terminal(tmp_path, SPY, "sample", "--model", "digits")
    assert code == 7
    before, _, after = shown.partition("[typer]")
    between, _, end = after.partition("[torch]")
    assert before == "repa: loading ..." and between.endswith("repa: loading ...")
    assert visible(before + between + end) == []


def test_sign_of_life_is_for_the_terminal_of_the_first_process_alone(tmp_path):
    code, shown = on_a_terminal(tmp_path, SPY, "--version", RANK="1", WORLD_SIZE="2")
    assert (code, shown) == (0, "[typer]")
    command = [sys.executable, "-m", "repa_cli", "--version"]
    assert subprocess.run(command, capture_output=True, check=True).stderr == b""
