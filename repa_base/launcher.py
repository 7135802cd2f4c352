"""The launcher that has started this process beside others: torchrun, or one of our own.

It waits for its workers and ends the others when one fails. Here a worker notices that its launcher
has gone, and leaves word of its error where the launcher looks for it. Does not import torch.
"""

import json
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

OURS = "REPA_LAUNCHED"
"""Set in processes of our own launcher, which prints their errors itself."""

_PARENT = os.getppid()
"""As early as this file is imported: what ends later is noticed."""

_SECONDS = 1.0
"""Between two looks at whether the launcher lives."""


def is_first_process() -> bool:
    """Whether this process is the one that prints, of those that a launcher has started."""
    return os.environ.get("RANK", "0") == "0"


@contextmanager
def ending_with_launcher() -> Iterator[None]:
    """End this process at once if the launcher ends within the block: nobody waits for it then.

    The others that it waits for may have gone as well. What is on disk stays, as after a kill.
    Without a launcher there is nothing to notice.
    """
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        yield
        return
    left = threading.Event()
    threading.Thread(target=_watch, args=(left,), name="launcher", daemon=True).start()
    try:
        yield
    finally:
        left.set()


def tells_errors() -> bool:
    """Whether this process prints an error that it has left for its launcher as well."""
    return is_first_process() and OURS not in os.environ


def leave_error(message: str, *, consequence: bool = False) -> bool:
    """Write an error of this process where its launcher looks for it; return whether it does.

    It does not without a launcher, nor where the file cannot be written. A `consequence` is that of
    another process's end.
    """
    name = os.environ.get("TORCHELASTIC_ERROR_FILE")
    if not name:
        return False
    now = time.time()
    # In torch's form: the launcher shows what stands in the place of a traceback.
    details = {"py_callstack": message, "timestamp": str(int(now))}
    details |= {"time": now, "consequence": consequence}
    path = Path(name)
    try:
        path.write_text(json.dumps({"message": {"message": message, "extraInfo": details}}))
    except OSError:  # a full disk may have been the error
        with suppress(OSError):
            path.unlink()  # half of it would be an error of the launcher
        return False
    return True


def _watch(left: threading.Event) -> None:
    while not left.wait(_SECONDS):
        if os.getppid() != _PARENT:
            if is_first_process():
                text = "the launcher of the processes has ended, and so do they"
                os.write(2, f"repa: error: {text}; repeat the command to go on.\n".encode())
            os._exit(1)
