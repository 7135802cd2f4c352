"""Work ahead of a consumer in a background thread."""

import queue
import threading
from collections.abc import Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")

_END = object()


def prefetch(items: Iterable[T], depth: int = 2) -> Iterator[T]:
    """Yield the items while a thread prepares up to `depth` of them ahead.

    An error in the thread is raised here, after the items before it. When the consumer stops
    early, the thread stops after the item in hand and the iterator of `items` is closed.
    """
    slots: queue.Queue[object] = queue.Queue(depth)
    stopped = threading.Event()
    failure: list[BaseException] = []
    thread = threading.Thread(target=_fill, args=(items, slots, stopped, failure), daemon=True)
    thread.start()
    try:
        while (item := slots.get()) is not _END:
            yield item  # pyright: ignore[reportReturnType]
        if failure:
            raise failure[0]
    finally:
        stopped.set()
        thread.join()


def _fill(
    items: Iterable[object],
    slots: "queue.Queue[object]",
    stopped: threading.Event,
    failure: list[BaseException],
) -> None:
    iterator = iter(items)
    try:
        for item in iterator:
            if not _put(slots, item, stopped):
                break
    except BaseException as error:
        failure.append(error)
    finally:
        close = getattr(iterator, "close", None)
        if close is not None:
            close()
        _put(slots, _END, stopped)


def _put(slots: "queue.Queue[object]", item: object, stopped: threading.Event) -> bool:
    """Put the item when there is room; give up, returning False, when the consumer has left."""
    while not stopped.is_set():
        try:
            slots.put(item, timeout=0.1)
        except queue.Full:
            continue
        return True
    return False
