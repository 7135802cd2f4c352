"""Several processes of a command on this machine, as torchrun starts them, with one message.

torchrun shows every failure in some forty lines; here its library does the work, and the error that
came first is the one line that is printed.
"""

import os
import sys
import uuid
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from repa_base.launcher import OURS
from repa_cli.output import print_error
from repa_cli.running.start import INTERRUPTED, Loading

if TYPE_CHECKING:
    from torch.distributed.elastic.multiprocessing.errors import ProcessFailure


_ENDING = 6 * 3600  # seconds


def launch(count: int, arguments: Sequence[str]) -> int:
    """Run a command in so many processes, and return the exit code.

    When one fails the others are ended, as they are by an interrupt.
    """
    with Loading():
        import logging

        from torch.distributed.elastic.multiprocessing import SignalException
        from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
        from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    logging.disable(logging.ERROR)  # of this process, which only launches
    os.environ[OURS] = "1"
    # By then those that were told to end are killed: a large checkpoint takes minutes to save.
    os.environ.setdefault("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", str(_ENDING))
    os.environ.setdefault("OMP_NUM_THREADS", str(max((os.cpu_count() or 1) // count, 1)))
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=count,
        run_id=uuid.uuid4().hex,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=0,
    )
    try:
        elastic_launch(config, sys.executable)("-m", "repa_cli", *arguments)
    except ChildFailedError as error:
        return _tell(error.failures)
    except SignalException as error:
        print_error("interrupted.")
        return 128 + error.sigval
    except KeyboardInterrupt:
        print_error("interrupted.")
        return INTERRUPTED
    return 0


def _tell(failures: "Mapping[int, ProcessFailure]") -> int:
    """Print the error that ended the others, if it has not printed itself; return its exit code."""
    words = {rank: _left(failure) for rank, failure in failures.items()}

    def place(rank: int) -> tuple[int, float]:
        """Errors by their time, then ends without a word, then what follows from another's end."""
        if words[rank]:
            return (2 if words[rank]["consequence"] else 0), words[rank]["time"]
        # The launcher ends the others by this signal.
        return (3 if failures[rank].signal_name() == "SIGTERM" else 1), rank

    rank = min(failures, key=place)
    failure = failures[rank]
    if words[rank]:
        print_error(words[rank]["py_callstack"])
    elif failure.exitcode < 0:
        what = f"process {rank} was ended by {failure.signal_name()}"
        print_error(f"{what}; repeat the command to go on.")
    # Else it is a bug of ours, whose traceback is there.
    return max(failure.exitcode, 1)


def _left(failure: "ProcessFailure") -> dict[str, Any]:
    """Return what `leave_error` wrote, if it did."""
    message = failure.error_file_data.get("message")
    left = message.get("extraInfo", {}) if isinstance(message, dict) else {}
    return left if "consequence" in left else {}
