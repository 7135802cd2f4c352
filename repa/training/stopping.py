"""Ending a run by a signal: after the step in hand, at all of its processes at once."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from repa_base.processes import Processes


class Interrupted(KeyboardInterrupt):
    """A signal ended the run after a complete step, saved; the message says how to go on."""

    def __init__(self, message: str, number: int = signal.SIGINT) -> None:
        super().__init__(message)
        self.signal = number


class GivenUpError(Exception):
    """Work beside the steps is left undone, since the run shall end."""


class Stop(threading.Event):
    """Set by a signal to this process, whose number it holds then."""

    def __init__(self, processes: Processes) -> None:
        super().__init__()
        self._processes, self.number = processes, 0

    def agreed(self) -> bool:
        """Whether any process has had a signal, which all of them ask together."""
        self.number = self._processes.highest(self.number)
        return self.number > 0


@contextmanager
def stop_on_signals(processes: Processes) -> Iterator[Stop]:
    """Set an event on the first SIGINT or SIGTERM; a second one interrupts at once.

    Of several processes each may have both from a terminal and from its launcher, which ends what
    does not end soon: there more signals change nothing.
    """
    stop = Stop(processes)
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def handle(number: int, frame: object) -> None:
        if stop.is_set():
            if processes.size == 1:
                raise KeyboardInterrupt
            return
        stop.number = number
        stop.set()

    before = {s: signal.signal(s, handle) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
