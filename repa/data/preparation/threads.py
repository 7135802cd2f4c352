"""Work in threads that never stand still while there is some to do, in order."""

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

A = TypeVar("A")
T = TypeVar("T")


def in_threads(
    work: Callable[[A], T], items: Iterable[A], num_threads: int, *, ahead: int
) -> Generator[T, None, None]:
    """Yield the work's result of every item, in order, computed up to `ahead` items before.

    An error is raised in the place of its item; what is not begun by then is dropped.
    """
    pool = ThreadPoolExecutor(num_threads)
    waiting = deque()
    try:
        for item in items:
            waiting.append(pool.submit(work, item))
            if len(waiting) > ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
