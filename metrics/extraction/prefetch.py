"""Work ahead of a consumer in a background thread."""

from collections import deque
from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")

_END = object()


def prefetch(items: Iterable[T], depth: int = 2) -> Iterator[T]:
    """Yield the items while a thread prepares up to `depth` of them ahead.

    An error in the thread is raised here, after the items before it. When the consumer stops
    early, the thread stops after the item in hand and the generator of `items` is closed.
    """
    iterator, thread = iter(items), ThreadPoolExecutor(1)
    ahead = deque(thread.submit(next, iterator, _END) for _ in range(depth))
    try:
        while (item := ahead.popleft().result()) is not _END:
            ahead.append(thread.submit(next, iterator, _END))
            yield item  # pyright: ignore[reportReturnType]
    finally:
        thread.shutdown(cancel_futures=True)
        if isinstance(iterator, Generator):
            iterator.close()
