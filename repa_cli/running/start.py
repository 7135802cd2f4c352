"""The first moments of a command, while Python and torch are loaded and nothing has begun.

A terminal shows at once that something happens, and Ctrl-C ends the process in one line: within an
import it could otherwise end in any way. Imports nothing slow.
"""

import os
import signal
import sys

INTERRUPTED = 130
"""Exit code of a command that was interrupted."""

_SIGN = "repa: loading ..."


def is_first_process() -> bool:
    """Whether this process is the one that prints, of those that a launcher has started."""
    return os.environ.get("RANK", "0") == "0"


def interrupted() -> None:
    """End the process at once, in one line."""
    if is_first_process():
        os.write(2, b"\nrepa: error: interrupted.\n")
    os._exit(INTERRUPTED)


class Loading:
    """A block of imports; a context manager."""

    def __enter__(self) -> None:
        """Show the sign, if there is a terminal, and set Ctrl-C."""
        self._before = signal.getsignal(signal.SIGINT)
        if self._before is signal.default_int_handler:  # not in a thread, not ignored
            signal.signal(signal.SIGINT, lambda *_: interrupted())
        self._shown = sys.stderr.isatty() and is_first_process()
        if self._shown:
            sys.stderr.write(_SIGN)
            sys.stderr.flush()

    def __exit__(self, *error: object) -> None:
        """Remove the sign, and let Ctrl-C be what it was."""
        if self._shown:
            sys.stderr.write(f"\r{' ' * len(_SIGN)}\r")
            sys.stderr.flush()
        if self._before is signal.default_int_handler:
            signal.signal(signal.SIGINT, self._before)
