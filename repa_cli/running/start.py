"""The first moments of a command, while it is loaded and read and nothing has begun.

A terminal shows at once that something happens, and Ctrl-C ends the process in one line: within an
import it could otherwise end in any way. Imports nothing slow.
"""

import os
import signal
import sys
import threading

from repa_base.launcher import is_first_process, tells_errors

INTERRUPTED = 130
"""Exit code of a command that was interrupted."""

_SIGN = "repa: loading ..."


class Unbegun:
    """A time in which Ctrl-C ends the process at once, in one line; a context manager.

    `end` is its end before that of the block.
    """

    def __enter__(self) -> "Unbegun":
        """Begin, in the main thread and where Ctrl-C is as Python sets it, which may be ignored."""
        main = threading.current_thread() is threading.main_thread()
        self._held = main and signal.getsignal(signal.SIGINT) is signal.default_int_handler
        if self._held:
            signal.signal(signal.SIGINT, lambda *_: _interrupted())
        return self

    def end(self) -> None:
        """Let Ctrl-C be what it was."""
        if self._held:
            signal.signal(signal.SIGINT, signal.default_int_handler)
            self._held = False

    def __exit__(self, *error: object) -> None:
        self.end()


class Loading(Unbegun):
    """A block of imports: as `Unbegun`, with a sign of life on a terminal."""

    def __enter__(self) -> "Loading":
        """Show the sign."""
        super().__enter__()
        completing = "_REPA_COMPLETE" in os.environ
        self._shown = is_first_process() and sys.stderr.isatty() and not completing
        if self._shown:
            sys.stderr.write(_SIGN)
            sys.stderr.flush()
        return self

    def end(self) -> None:
        """Remove the sign."""
        if self._shown:
            sys.stderr.write(f"\r{' ' * len(_SIGN)}\r")
            sys.stderr.flush()
            self._shown = False
        super().end()


def hush_torch() -> None:
    """Let a process that has others beside it not warn, once torch is imported, of what is meant.

    It is that gradients are shared by the slower way, which resuming and --align-until need.
    """
    if "RANK" in os.environ:
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")


def _interrupted() -> None:
    if tells_errors():
        over_the_sign = b"\r" if os.isatty(2) else b""
        os.write(2, over_the_sign + b"repa: error: interrupted.\n")
    os._exit(INTERRUPTED)
