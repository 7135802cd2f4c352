"""Measuring on this machine: where features are cached, and processes that share the images."""

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from metrics import CacheError, FeatureCache
from repa.registry import cache_dir
from repa_base.processes import Processes, at_first

T = TypeVar("T")
Message = Callable[[str], object]
"""Is told one line for a person; a command prints it."""


def ignore(message: str) -> None:
    """Tell nobody."""


def feature_cache() -> FeatureCache:
    """Return this machine's cache of features, in the cache folder."""
    return FeatureCache(cache_dir() / "features")


def with_cache(
    processes: Processes,
    work: Callable[[FeatureCache | None], T],
    *,
    kept: bool = True,
    needed: bool = False,
    warn: Message,
) -> T:
    """Do work that uses a cache of features; it is done again if the cache proves unwritable.

    Args:
        processes: Those that do it, each calling this function.
        work: Is given the same folder at every process; fails with a `CacheError` at all or none.
        kept: Whether the cache is this machine's; otherwise nothing is read from it or kept in it.
        needed: Whether there must be one all the same, because features are read again. It is then
            a temporary folder; several processes always need one.
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
        return work(FeatureCache(Path(folder)))
    finally:
        if processes.rank == 0:
            shutil.rmtree(folder)
