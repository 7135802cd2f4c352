"""What steps read, read ahead of them by other processes, in the order of the steps.

Draws belong to seed and position, so that how many processes there are changes nothing. They have
no part in the signals of the run: it ends them itself, and they end with it whatever ends it.
"""

import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import resource_tracker
from typing import Any, TypeVar

import torch
from torch.utils.data import DataLoader, Dataset

from repa.data import TrainingData
from repa.errors import RepaError, first_line
from repa_base.processes import Failure, attempt

T = TypeVar("T")

_MOST = 4
_AHEAD = 2  # steps that each process reads before they are asked for


def suitable_workers(data: TrainingData) -> int:
    """Return how many processes shall read data: none what is in memory, else up to four."""
    available = getattr(os, "sched_getaffinity", lambda _: range(os.cpu_count() or 1))
    return 0 if data.in_memory else max(1, min(_MOST, len(available(0)) // 2))


@contextmanager
def reading_ahead(
    read: Callable[[int], T], steps: Iterable[int], workers: int
) -> Iterator[Callable[[int], T]]:
    """Let so many processes read ahead; the block must ask for these steps in their order.

    `read` takes the number of a step, or of a part of one, to what it reads. With no processes,
    each is read when it is asked for, in this one.

    Raises:
        RepaError: A process has ended. What reading raises is raised by the step that asked.
    """
    if workers == 0:
        yield read
        return
    loader = DataLoader(
        _Attempts(read),
        batch_size=None,
        sampler=steps,
        num_workers=workers,
        collate_fn=_as_it_is,
        multiprocessing_context="spawn",  # the run has threads, and perhaps a GPU
        prefetch_factor=_AHEAD,
        generator=torch.Generator(),  # or it would draw a number of the run's
    )
    with _without_signals():
        waiting: Any = iter(loader)

    def next_of(step: int) -> T:
        found, batch = next(waiting)
        if isinstance(batch, Failure):
            raise batch.error
        if found != step:
            raise ValueError(f"step {step} was asked for, and the next is {found}.")
        return batch

    try:
        with _ended_in_words():
            yield next_of
    finally:
        waiting._shutdown_workers()


@dataclass(frozen=True)
class _Attempts(Dataset):
    """Step to itself and what it reads, or the error that it met."""

    read: Callable[[int], Any]

    def __getitem__(self, step: int) -> tuple[int, Any]:
        return step, attempt(lambda: self.read(step))


def _as_it_is(sample: Any) -> Any:  # noqa: ANN401
    return sample


@contextmanager
def _without_signals() -> Iterator[None]:
    """Let what is started in the block never see SIGINT and SIGTERM, which go to whole groups."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    resource_tracker.ensure_running()  # its start would let the signals in again
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def _ended_in_words() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        reason = first_line(error).partition(". ")[0].rstrip(".")
        raise RepaError(
            f"a process that reads the data has ended ({reason}): go on with --resume, perhaps "
            "with fewer --workers; with 0 the run reads by itself."
        ) from error
