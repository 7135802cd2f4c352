"""How long work takes on this machine, from a short measurement at this moment.

It is repeated within a time limit, and the fastest repetition counts: what else the machine does at
the moment makes some of them slower, and none faster. The first one, which loads and allocates,
does not count.
"""

import time
from collections.abc import Callable

import torch

ENOUGH = 2.0  # seconds of a measurement
FEWEST, MOST = 3, 50  # repetitions
SLOW = 3.0  # seconds of what is not repeated


def fastest(work: Callable[[], object], device: torch.device | str) -> tuple[float, int]:
    """Return the least seconds of some repetitions, and how many there were.

    The first time does not count, unless it is so slow that there is no other.
    """
    first = seconds_of(work, device)
    if first > SLOW:
        return first, 1
    found = []
    while len(found) < FEWEST or (sum(found) < ENOUGH and len(found) < MOST):
        found.append(seconds_of(work, device))
        if sum(found) > 2 * ENOUGH:  # others keep the machine busy
            break
    return min(found), len(found)


def seconds_of(work: Callable[[], object], device: torch.device | str) -> float:
    """Return the seconds until a device has done some work, once."""
    _wait(device)
    start = time.perf_counter()
    work()
    _wait(device)
    return time.perf_counter() - start


def _wait(device: torch.device | str) -> None:
    """Wait until a GPU has done all that it was told; a CPU has."""
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)
