"""Measuring on this machine: where features are cached, and processes that share the images."""

import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from torch import distributed

from metrics import CacheError, FeatureCache, Processes
from metrics.processes import at_first
from repa.distributed import World
from repa.errors import OutputExistsError
from repa.npz import check_folder
from repa.registry import cache_dir

T = TypeVar("T")


@dataclass(frozen=True)
class WorldProcesses:
    """The processes of a joined world, for `metrics`; values travel by torch.distributed.

    Attributes:
        world: This process among the others.
    """

    world: World

    @property
    def rank(self) -> int:
        """Which of them this is."""
        return self.world.rank

    @property
    def size(self) -> int:
        """How many there are."""
        return self.world.size

    def share(self, value: T | None) -> T:
        """Return the first process's value at every process."""
        box: list[Any] = [value]
        if self.size > 1:
            distributed.broadcast_object_list(box, src=0)
        return box[0]

    def gather(self, value: T) -> Iterable[T]:
        """Return the values by rank at the first process, received one at a time; else none."""
        if self.rank == 0:
            return self._received(value)
        distributed.send_object_list([value], dst=0)
        return ()

    def _received(self, own: T) -> Iterator[T]:
        yield own
        for rank in range(1, self.size):
            box: list[Any] = [None]
            distributed.recv_object_list(box, src=rank)
            yield box[0]


def feature_cache() -> FeatureCache:
    """Return this machine's cache of features, in the cache folder."""
    return FeatureCache(cache_dir() / "features")


def with_cache(
    processes: Processes,
    work: Callable[[FeatureCache | None], T],
    *,
    kept: bool = True,
    needed: bool = False,
    warn: Callable[[str], object],
) -> T:
    """Do work that uses a cache of features; it is done again if the cache proves unwritable.

    Args:
        processes: Those that do it, each calling this function.
        work: Is given the same folder at every process; fails with a `CacheError` at all or none.
        kept: Whether the cache is this machine's; otherwise nothing is read from it or kept in it.
        needed: Whether there must be one all the same, because features are read again. It is then
            a temporary folder, beside what is kept; several processes always need one.
        warn: Is told why this machine's is not used, though it was to be.

    Returns:
        What the work returns.

    Raises:
        CacheError: The temporary folder cannot be written either.
    """
    if kept:
        try:
            return work(feature_cache())
        except CacheError as error:
            warn(
                f"features are not kept, and measured without their cache: {error} "
                "--no-cache says so from the start, and $REPA_CACHE can name another folder."
            )
    if not needed and processes.size == 1:
        return work(FeatureCache(feature_cache().folder, read_only=True) if kept else None)
    folder = at_first(processes, lambda: tempfile.mkdtemp(prefix="repa-features-"))
    try:
        return work(FeatureCache(Path(folder), beside=feature_cache() if kept else None))
    finally:
        if processes.rank == 0:
            shutil.rmtree(folder)


def check_new_output(out: Path, *, overwrite: bool = False) -> None:
    """Find out, before any work, whether an output may be written; make its folder.

    Raises:
        OutputExistsError: The output is there, or is a folder.
        OSError: No file can be made in the folder.
    """
    if out.is_dir():
        raise OutputExistsError(f"{out} is a folder; use another --out.")
    if out.exists() and not overwrite:
        raise OutputExistsError(f"{out} exists; use --overwrite to replace it, or another --out.")
    check_folder(out)
