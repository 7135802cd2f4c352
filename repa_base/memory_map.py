"""Memory maps of features on disk, without their pages counting as memory for long."""

import mmap

import numpy as np


def release_pages(array: np.ndarray) -> None:
    """Let go of what was read of a read-only memory map; other arrays are left as they are.

    Pages that were read stay with the process until the system needs room, and count as its memory.
    They remain in the system's cache, so reading them again costs little. Systems without
    `MADV_DONTNEED` keep them.
    """
    pages, advice = getattr(array, "_mmap", None), getattr(mmap, "MADV_DONTNEED", None)
    if isinstance(array, np.memmap) and array.mode == "r" and pages and advice:
        pages.madvise(advice)
