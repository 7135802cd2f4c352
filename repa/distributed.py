"""Several processes on one task: who I am among them, and waiting for the others.

torchrun says it in the environment; without it there is one process.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
from torch import distributed

from repa.device import resolve_device
from repa.errors import RepaError

# Ranks of a long sampling run may finish hours apart.
_PATIENCE = timedelta(days=7)


@dataclass(frozen=True)
class World:
    """This process among the others: rank 0 to size - 1, and its rank on this machine."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0

    @property
    def is_first(self) -> bool:
        """Whether this is the process that prints and finishes."""
        return self.rank == 0

    def barrier(self) -> None:
        """Wait until every process is here.

        Raises:
            RepaError: One of them has ended, so that it will never come.
        """
        if self.size == 1:
            return
        try:
            distributed.barrier()
        except RuntimeError as error:
            raise RepaError("another process ended early; its own message says why.") from error

    def device(self, name: str) -> torch.device:
        """Return the named device; of several GPUs, `auto` and `cuda` give each process its own.

        Raises:
            RepaError: See `repa.device.resolve_device`.
        """
        device = resolve_device(name)
        if device.type == "cuda" and device.index is None and self.size > 1:
            return resolve_device(f"cuda:{self.local_rank}")
        return device


def world_from_environment() -> World:
    """Return what torchrun set, or a world of one."""
    rank, size, local_rank = (
        int(os.environ.get(name, default))
        for name, default in (("RANK", "0"), ("WORLD_SIZE", "1"), ("LOCAL_RANK", "0"))
    )
    return World(rank, size, local_rank)


@contextmanager
def joined_world() -> Iterator[World]:
    """Connect to the other processes, if there are any, for the length of the block.

    The connection is for waiting and for small values, so it is gloo, which needs no GPU. A process
    group that exists already is used and left as it is.
    """
    world = world_from_environment()
    if world.size == 1 or distributed.is_initialized():
        yield world
        return
    distributed.init_process_group("gloo", timeout=_PATIENCE)
    try:
        yield world
    finally:
        distributed.destroy_process_group()
