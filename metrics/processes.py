"""Several processes on one measurement: what they must be able to do, and how they share the work.

Every process calls the same functions in the same order. How values travel between them is the
caller's affair; a process alone needs nothing.
"""

import pickle
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol, TypeVar, runtime_checkable

T = TypeVar("T")


@runtime_checkable
class Processes(Protocol):
    """This process among those that measure together.

    Attributes:
        rank: Which of them this is, from 0.
        size: How many there are.
    """

    @property
    def rank(self) -> int: ...  # noqa: D102
    @property
    def size(self) -> int: ...  # noqa: D102

    def share(self, value: T | None) -> T:
        """Return the first process's value at every process; the others' values are ignored."""
        ...

    def gather(self, value: T) -> Iterable[T]:
        """Return every process's value by rank at the first process, one at a time; else none."""
        ...


@dataclass(frozen=True)
class SingleProcess:
    """A process that has no others beside it."""

    rank: int = field(default=0, init=False)
    size: int = field(default=1, init=False)

    def share(self, value: T | None) -> T:
        """Return the value."""
        return value  # pyright: ignore[reportReturnType]

    def gather(self, value: T) -> Iterable[T]:
        """Return the value alone."""
        return [value]


def own_rows(processes: Processes, count: int, batch_size: int) -> range:
    """Return this process's share of `count` images: contiguous, in whole batches.

    The batches are those of a single process, because a network's last digits depend on them.
    """
    batches = -(-count // batch_size)
    first, end = (batches * rank // processes.size for rank in (processes.rank, processes.rank + 1))
    return range(first * batch_size, min(end * batch_size, count))


@dataclass(frozen=True)
class Failure:
    """An error on its way to other processes; one that cannot be pickled arrives as its text."""

    error: Exception

    def __reduce__(self) -> tuple[type["Failure"], tuple[Exception]]:
        try:
            pickle.loads(pickle.dumps(self.error))
        except Exception:
            return Failure, (RuntimeError(f"{type(self.error).__name__}: {self.error}"),)
        return Failure, (self.error,)


def attempt(work: Callable[[], T]) -> T | Failure:
    """Return what the work returns, or the error that it met, to be sent to other processes."""
    try:
        return work()
    except Exception as error:
        return Failure(error)


def at_first(processes: Processes, work: Callable[[], T]) -> T:
    """Do the work at the first process; return its value, or raise its error, at all of them."""
    outcome = processes.share(attempt(work) if processes.rank == 0 else None)
    if isinstance(outcome, Failure):
        raise outcome.error
    return outcome  # pyright: ignore[reportReturnType]


@contextmanager
def together(processes: Processes) -> Iterator[None]:
    """Let no process go on behind the block unless all do; raise the first error at each of them.

    It is for what may fail at one process and not at another: its files, its GPU.
    """
    failure = None
    try:
        yield
    except Exception as error:
        failure = Failure(error)
    failures = processes.gather(failure)
    at_first(processes, lambda: list(all_values(failures)))


def all_values(outcomes: Iterable[T | Failure]) -> Iterator[T]:
    """Yield the values of attempts; take them all before the first error, if any, is raised."""
    failure = None
    for outcome in outcomes:
        if isinstance(outcome, Failure):
            failure = failure or outcome
        elif failure is None:
            yield outcome
    if failure is not None:
        raise failure.error
