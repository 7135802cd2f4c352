"""A command as processes that can be killed: alone or under torchrun, found again through /proc.

Every process of a run carries a mark in its environment, so that those that outlive their parents
are found as well.
"""

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from small_runs import environment_of

GRACE = 60.0
"""Seconds after a kill within which all processes of the run must be gone."""

WHO = ("launcher", "one worker", "launcher and first worker", "all")


class StartedRun:
    """One start of a command by one process, or by torchrun with several workers."""

    def __init__(self, folder, command, size):
        self.size, self.killed_at = size, None
        self._mark = f"REPA_KILLS={folder.name}-{time.monotonic_ns()}"
        program = [sys.executable, "-m", "repa_cli"]
        if size > 1:
            program = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
            program += ["--nproc-per-node", str(size), "-m", "--", "repa_cli"]
        name, value = self._mark.split("=")
        # Files, because an orphan would keep a pipe open.
        self._outputs = [tempfile.TemporaryFile("w+") for _ in range(2)]  # noqa: SIM115
        self.process = subprocess.Popen(
            [*program, *command],
            cwd=folder,
            env={**environment_of(folder), name: value},
            stdin=subprocess.DEVNULL,
            stdout=self._outputs[0],
            stderr=self._outputs[1],
            start_new_session=True,
        )

    def living(self):
        """Return the rank, by process, of all that live of this run; None of who has none."""
        found, mark = {}, self._mark.encode()
        for path in Path("/proc").glob("[0-9]*/environ"):
            try:
                variables = path.read_bytes().split(b"\0")
            except OSError:  # another user's, or gone
                continue
            if mark in variables:
                ranks = [int(v.removeprefix(b"RANK=")) for v in variables if v[:5] == b"RANK="]
                found[int(path.parent.name)] = ranks[0] if ranks else None
        return found

    def ends_within(self, seconds):
        """Wait for the process that was started; return whether it has ended."""
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            return False
        return True

    def kill(self, who, random):
        """Kill; return who it was, which is all when there are no workers (yet)."""
        launcher = self.process.pid
        workers = {
            p: rank for p, rank in self.living().items() if p != launcher and rank is not None
        }
        who = who if workers else "all"
        if who == "one worker":
            _kill([int(random.choice(sorted(workers)))])
        elif who == "all":
            self._kill_all()
        else:
            first = [p for p, rank in workers.items() if rank == 0]
            _kill([launcher, *(first if who == "launcher and first worker" else ())])
        self.killed_at = time.monotonic()
        self.ends_within(GRACE)  # of a worker's death its launcher learns by itself
        return who

    def end_orphans(self):
        """Wait until nobody of a killed run lives; kill and count who does a minute later."""
        while (living := self.living()) and time.monotonic() < self.killed_at + GRACE:
            time.sleep(0.2)
        _kill(living)
        return len(living)

    def texts(self):
        """Return what was printed on stdout and on stderr."""
        for file in self._outputs:
            file.seek(0)
        return tuple(file.read() for file in self._outputs)

    def _kill_all(self):
        _kill([self.process.pid])  # first, so that it starts no others
        while living := self.living():
            _kill(living)
            self.process.poll()  # a zombie has a place in /proc
            time.sleep(0.01)
        self.process.wait()


def _kill(processes):
    for process in processes:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)
