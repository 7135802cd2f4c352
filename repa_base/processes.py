"""Several processes on one task: who I am among them, and values that travel between them.

torchrun starts them and says in the environment who is who; without it there is one. Every process
calls the same functions in the same order. Nothing here is global: who needs the others is handed
a `Processes`.
"""

import os
import pickle
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor, distributed
from torch.distributed.rendezvous import rendezvous

from repa_base.device import resolve_device
from repa_base.errors import OtherProcessError, RepaError, first_line
from repa_base.launcher import ending_with_launcher

T = TypeVar("T")
Backend = Literal["gloo", "nccl"]

PATIENCE = timedelta(days=7)
"""How long processes wait for each other: shares of a long sampling run may end hours apart."""

MEETING = timedelta(minutes=5)
"""How long a process looks for the first one at the start."""

STEPPING = timedelta(minutes=30)
"""How long GPUs wait for each other's tensors: all that takes longer is waited for by the CPU."""

CALLING = timedelta(seconds=30)
"""How long it looks for its launcher, where that is what the processes meet at: it was there before
them, and may have ended since."""


@dataclass(frozen=True)
class Processes:
    """This process among those that work together; alone, it has no others to wait for.

    `rank` says which of them this is, from 0, `local_rank` which of those on this machine, `size`
    how many there are. Values travel in PyTorch's `group`; None is its default group.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    group: Any = field(default=None, repr=False, compare=False)

    @property
    def is_first(self) -> bool:
        """Whether this is the process that prints and finishes."""
        return self.rank == 0

    def share(self, value: T | None) -> T:
        """Return the first process's value at every process; the others' values are ignored.

        Raises:
            OtherProcessError: Another process has ended, here and in `gather` and `barrier`.
        """
        box: list[Any] = [value]
        if self.size > 1:
            with ended_in_words():
                distributed.broadcast_object_list(box, src=0, group=self.group)
        return box[0]

    def gather(self, value: T) -> Iterable[T]:
        """Return the values by rank at the first process, received one at a time; else none."""
        if self.rank == 0:
            return self._received(value)
        with ended_in_words():
            distributed.send_object_list([value], dst=0, group=self.group)
        return ()

    def barrier(self) -> None:
        """Wait until every process is here."""
        if self.size > 1:
            with ended_in_words():
                distributed.barrier(group=self.group)

    def highest(self, value: int) -> int:
        """Return the highest of all processes' values at each of them; no GPU has a part in it.

        Raises:
            OtherProcessError: Another process has ended, here and in `mean_` and `copy_from_first`.
        """
        if self.size == 1:
            return value
        found = torch.tensor(value)
        with ended_in_words():
            distributed.all_reduce(found, op=distributed.ReduceOp.MAX, group=self.group)
        return int(found)

    def mean_(self, tensor: Tensor) -> Tensor:
        """Replace a tensor by the mean of all processes' tensors, and return it."""
        if self.size > 1:
            with ended_in_words():
                distributed.all_reduce(tensor)
            tensor /= self.size
        return tensor

    def copy_from_first(self, tensors: Iterable[Tensor]) -> None:
        """Fill tensors of the same shapes at all processes with the first process's values."""
        if self.size > 1:
            with ended_in_words(), torch.no_grad():
                for tensor in tensors:
                    distributed.broadcast(tensor, src=0)

    def device(self, name: str) -> torch.device:
        """Do as `resolve_device`; of several GPUs, `auto` and `cuda` give each process its own."""
        device = resolve_device(name)
        if device.type == "cuda" and device.index is None and self.size > 1:
            return resolve_device(f"cuda:{self.local_rank}")
        return device

    def _received(self, own: T) -> Iterator[T]:
        yield own
        for rank in range(1, self.size):
            box: list[Any] = [None]
            with ended_in_words():
                distributed.recv_object_list(box, src=rank, group=self.group)
            yield box[0]


@contextmanager
def joined_processes(
    backend: Backend | str = "gloo", patience: timedelta = PATIENCE
) -> Iterator[Processes]:
    """Connect to the processes that torchrun started, if it did, for the length of the block.

    A process group that exists already is used and left as it is. If torchrun ends within the block
    so does this process, see `repa_base.launcher`.

    Args:
        backend: PyTorch's name of the connection of tensors, its default group in the block.
            Values travel by the CPU, and so by gloo, whatever it is; see `suitable_backend`.
        patience: How long to wait for the others; tensors on GPUs wait for `STEPPING` at most.

    Raises:
        RepaError: The processes cannot be reached.
    """
    existing = distributed.is_initialized()
    names = (("RANK", "0"), ("WORLD_SIZE", "1"), ("LOCAL_RANK", "0"))
    rank, size, local_rank = (int(os.environ.get(name, default)) for name, default in names)
    if existing:
        rank, size = distributed.get_rank(), distributed.get_world_size()
    if size == 1:
        yield Processes(rank, size, local_rank)
        return
    with ending_with_launcher():
        if not existing:
            _connect(backend, patience, rank, size)
        group = None
        try:
            if distributed.get_backend() != "gloo":
                group = distributed.new_group(timeout=patience, backend="gloo")
            yield Processes(rank, size, local_rank, group)
        finally:
            if not existing or group is not None:
                distributed.destroy_process_group(group if existing else None)


def _connect(backend: str, patience: timedelta, rank: int, size: int) -> None:
    try:
        at_launcher = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
        waiting = CALLING if at_launcher else MEETING
        store, *_ = next(rendezvous("env://", rank, size, timeout=waiting))
        store.set_timeout(patience)
        _check_backends(store, backend, rank, size)
        if backend == "nccl":
            patience = min(patience, STEPPING)
            torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
        distributed.init_process_group(
            backend, store=store, timeout=patience, rank=rank, world_size=size
        )
    except (RuntimeError, ValueError) as error:
        raise RepaError(
            f"cannot connect to the other processes ({first_line(error)}); torchrun "
            "starts them so that they find each other."
        ) from error


def _check_backends(store: Any, backend: str, rank: int, size: int) -> None:  # noqa: ANN401
    """Find out before anyone waits for a tensor whether all carry them alike."""
    names = [f"backend/{number}" for number in range(size)]
    store.set(names[rank], backend)
    first, *others = (name.decode() for name in store.multi_get(names))
    for number, other in enumerate(others, start=1):
        if other != first:
            told = f"process {number} shares tensors by {other}, the first one by {first}"
            raise RepaError(f"{told}: give all of them the same device.")


@contextmanager
def ended_in_words() -> Iterator[None]:
    """Say of a failure to reach the other processes what it means.

    Raises:
        OtherProcessError: A RuntimeError of the connection, in the block.
    """
    try:
        yield
    except RuntimeError as error:
        raise OtherProcessError(
            "another process ended early, or let the others wait for too long; its own message "
            "says why."
        ) from error


def suitable_backend(device: str) -> Backend:
    """Return what carries tensors between processes, each on its own device of this name.

    GPUs have nccl, if every process has its own; all else, and all on one named GPU, gloo.
    """
    of_gpus = device in ("auto", "cuda") and torch.cuda.is_available()
    return "nccl" if of_gpus else "gloo"


def is_lost_connection(error: RuntimeError) -> bool:
    """Whether an error says that another process cannot be reached any more."""
    return isinstance(error, distributed.DistError) or "gloo" in str(error).lower()


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


def check_same(processes: Processes, arguments: Mapping[str, Any]) -> None:
    """Find out whether all processes were started with the same arguments, by their names.

    They are the same if they are written alike, as NaN is to NaN; one that is None is as one that
    was not given.

    Raises:
        RepaError: One was not, at all of them; the message names what differs.
    """
    first = processes.share(arguments)
    names = dict.fromkeys([*first, *arguments])
    pairs = {name: (arguments.get(name), first.get(name)) for name in names}
    shown = {n: ["unset" if v is None else v for v in pair] for n, pair in pairs.items()}
    told = [
        f"{name} {own}, not {other}"
        for name, (own, other) in shown.items()
        if repr(own) != repr(other)
    ]
    with together(processes):
        if told:
            raise RepaError(
                f"process {processes.rank} was started with other arguments than the first one "
                f"({'; '.join(told)}): give all of them the same."
            )


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
