"""From files to rows on disk: read, decode and crop in threads, encode here, write in a thread.

Each stage works ahead of the next, so that the slowest never waits but for the first images.
"""

import threading
import time
import zlib
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from repa.data.image_set import cropped, decoded
from repa.data.preparation.encoding import Networks
from repa.data.preparation.inspection import checked_content
from repa.data.preparation.plan import Plan
from repa.data.preparation.set_writer import SetWriter
from repa.data.preparation.threads import in_threads
from repa.data.row_files import HELD_OUT, IMAGES, PngForm
from repa_base.progress import Steps

_BLOCKS_AHEAD = 2
_SECONDS_TO_MARK = 2.0  # between two waits for the disk


@dataclass
class StageTimes:
    """Seconds of work a stage, added up over its threads, and those that went by."""

    num_threads: int
    seconds: dict[str, float] = field(default_factory=dict)
    elapsed: float = 0.0
    num_rows: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    @contextmanager
    def of(self, stage: str) -> Iterator[None]:
        """Count the block as work of a stage."""
        start = time.perf_counter()
        try:
            yield
        finally:
            taken = time.perf_counter() - start
            with self._lock:
                self.seconds[stage] = self.seconds.get(stage, 0.0) + taken

    def busy(self) -> dict[str, float]:
        """Return which share of the time each of the three workshops was at work."""
        if not self.elapsed:
            return {}
        loading = sum(self.seconds.get(stage, 0.0) for stage in ("read", "decode", "crop", "pack"))
        shares = {"load": loading / self.num_threads}
        shares |= {stage: self.seconds.get(stage, 0.0) for stage in ("encode", "write")}
        return {stage: seconds / self.elapsed for stage, seconds in shares.items()}


@dataclass(frozen=True)
class _Loaded:
    image: np.ndarray
    content: bytes
    crc: int


def fill(
    plan: Plan,
    writer: SetWriter,
    networks: Networks,
    blocks: Sequence[range],
    *,
    num_threads: int,
    progress: Steps,
) -> StageTimes:
    """Make the rows of these blocks that are not on disk yet.

    Raises:
        DataError: A file has changed since it was inspected.
        NonFiniteError: A network gave no number.
        OSError: The disk is full, say; what was marked stays.
    """
    total = sum(map(len, blocks))
    todo = [block for block in blocks if not writer.is_done(block)]
    done = total - sum(map(len, todo))
    times = StageTimes(num_threads)
    progress(done, total)
    start = time.perf_counter()
    rows = (row for block in todo for row in block)
    form = PngForm(plan.layout.image_size)
    ahead = _BLOCKS_AHEAD * max(plan.manifest["batch_size"], num_threads)
    work = partial(_load, plan, form, times)
    with (
        closing(in_threads(work, rows, num_threads, ahead=ahead)) as loaded,
        _Marking(writer, times) as marking,
    ):
        for block in todo:
            batch = [next(loaded) for _ in block]
            arrays: dict[str, np.ndarray] = {}
            if networks and block.start < plan.num_kept:
                with times.of("encode"):
                    titles = [plan.source.title(place) for place in plan.places[block]]
                    arrays = networks(np.stack([each.image for each in batch]), titles)
            marking.put(block, batch, arrays)
            done += len(block)
            progress(done, total)
    times.elapsed, times.num_rows = time.perf_counter() - start, sum(map(len, todo))
    return times


def _load(plan: Plan, form: PngForm, times: StageTimes, row: int) -> _Loaded:
    place = int(plan.places[row])
    title = plan.source.title(place)
    with times.of("read"):
        content = checked_content(plan.source, place, plan.inspection.hashes(np.array([place]))[0])
    with times.of("decode"):
        picture = decoded(content, title)
    with times.of("crop"):
        image = cropped(picture, plan.layout.image_size, title)
    with times.of("pack"):
        packed = form.encode(image)
        return _Loaded(image, packed, zlib.crc32(packed))


class _Marking:
    """A thread that writes blocks and, now and then, waits for the disk and marks them."""

    def __init__(self, writer: SetWriter, times: StageTimes) -> None:
        self._writer, self._times = writer, times
        self._thread = ThreadPoolExecutor(1)
        self._waiting: deque[Future[None]] = deque()
        self._marks: list[tuple[int, bytes]] = []
        self._marked_at = time.monotonic()

    def put(self, block: range, batch: Sequence[_Loaded], arrays: dict[str, np.ndarray]) -> None:
        """Have a block written; wait for an earlier one where too many wait."""
        self._waiting.append(self._thread.submit(self._write, block, batch, arrays))
        while len(self._waiting) > _BLOCKS_AHEAD:
            self._waiting.popleft().result()

    def __enter__(self) -> "_Marking":
        return self

    def __exit__(self, kind: object, *error: object) -> None:
        try:
            while self._waiting:  # also after an error of another stage: what is made stays
                self._waiting.popleft().result()
            self._thread.submit(self._mark).result()
        except Exception:
            if kind is None:
                raise
        finally:
            self._thread.shutdown(cancel_futures=True)

    def _write(self, block: range, batch: Sequence[_Loaded], arrays: dict[str, np.ndarray]) -> None:
        files = self._writer.plan.layout.all_files
        with self._times.of("write"):
            for number, (row, loaded) in enumerate(zip(block, batch, strict=True)):
                image_key = IMAGES if row < self._writer.plan.num_kept else HELD_OUT
                parts = {image_key: (loaded.content, loaded.crc)}
                for key, values in arrays.items():
                    content = files[key].encode(values[number])
                    parts[key] = content, zlib.crc32(content)
                self._marks.append((row, self._writer.put(row, parts)))
        if time.monotonic() - self._marked_at >= _SECONDS_TO_MARK:
            self._mark()

    def _mark(self) -> None:
        with self._times.of("write"):
            self._writer.mark(self._marks)
        self._marks, self._marked_at = [], time.monotonic()
