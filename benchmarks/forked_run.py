"""The command's `main()` in a fork of a process that has imported everything, to save the imports.

What runs is the command's whole path but the start of Python. A fork is safe here because the
warm process starts no thread and computes nothing.
"""

import importlib
import os
import signal
import sys
import tempfile
import time
import traceback

import small_runs

_NEEDED = ("sklearn.datasets", "timm", "repa.generation.job", "repa.training.loop")
_NEEDED += ("repa.evaluation.evaluate", "repa.sheets", "repa_cli.app")


def warm_up():
    """Import what the commands import, and start no thread."""
    for name in _NEEDED:
        importlib.import_module(name)


class Forked:
    """The command's `main()` in a fork of this process, in a folder."""

    def __init__(self, folder, command):
        self._texts = [folder.with_name(f"{folder.name}.{name}") for name in ("out", "err")]
        sys.stdout.flush()
        sys.stderr.flush()
        self.process, self.status = os.fork(), None
        if self.process == 0:
            self._be(folder, command)

    def ends(self):
        """Whether it has ended."""
        if self.status is None:
            process, status = os.waitpid(self.process, os.WNOHANG)
            self.status = status if process else None
        return self.status is not None

    def ends_within(self, seconds, pause=0.003):
        """Wait for the end; return whether it came."""
        end = time.monotonic() + seconds
        while not self.ends() and time.monotonic() < end:
            time.sleep(pause)
        return self.ends()

    def kill(self):
        """End it as SIGKILL does."""
        os.kill(self.process, signal.SIGKILL)
        os.waitpid(self.process, 0)

    @property
    def code(self):
        """Exit code, or the signal that ended it below 0."""
        return os.waitstatus_to_exitcode(self.status)

    def texts(self):
        """Return what was printed on stdout and on stderr."""
        return [path.read_text(errors="replace") for path in self._texts]

    def _be(self, folder, command):
        """Run the command and never return."""
        code = 1
        try:
            for descriptor, path in zip((1, 2), self._texts, strict=True):
                os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), descriptor)
            os.chdir(folder)
            os.environ.update(small_runs.environment_of(folder))
            tempfile.tempdir = None
            from repa_cli.app import main

            main(list(command))
        except SystemExit as end:
            code = end.code or 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
