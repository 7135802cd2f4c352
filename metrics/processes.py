"""Several processes on one measurement: what they must be able to do, and how they share the work.

Every process calls the same functions in the same order. How values travel between them is the
caller's affair; a process alone needs nothing.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Protocol, TypeVar, runtime_checkable

from metrics.errors import InputError

T = TypeVar("T")

Mendable = InputError | OSError
"""What a process may meet that is no fault of the program, and that all must hear of."""


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


def attempt(work: Callable[[], T]) -> T | Mendable:
    """Return what the work returns, or the error that it met, to be sent to other processes."""
    try:
        return work()
    except (InputError, OSError) as error:
        return error


def at_first(processes: Processes, work: Callable[[], T]) -> T:
    """Do the work at the first process; return its value, or raise its error, at all of them."""
    outcome = processes.share(attempt(work) if processes.rank == 0 else None)
    if isinstance(outcome, InputError | OSError):
        raise outcome
    return outcome


def all_values(outcomes: Iterable[T | Mendable]) -> Iterator[T]:
    """Yield the values of attempts; take them all before the first error, if any, is raised."""
    failure = None
    for outcome in outcomes:
        if isinstance(outcome, InputError | OSError):
            failure = failure or outcome
        elif failure is None:
            yield outcome
    if failure is not None:
        raise failure
