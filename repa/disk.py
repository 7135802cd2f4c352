"""Room and bytes on the disk: reserve a file's size, write all of a piece at its place."""

import errno
import os
import shutil
from pathlib import Path

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def reserve(descriptor: int, size: int, path: Path) -> None:
    """Take `size` bytes of disk for a file now, so that a long run cannot fill the disk later.

    Args:
        descriptor: The file, open for writing.
        size: Bytes, at least 1.
        path: The file's path, for the message.

    Raises:
        OSError: There is no room (ENOSPC); the message gives the sizes.
    """
    free = shutil.disk_usage(path.parent).free
    reason = f"No space: the file needs {size / 1e6:,.1f} MB, {free / 1e6:,.1f} MB are free"
    if size > free:
        raise OSError(errno.ENOSPC, reason, str(path))
    try:
        os.posix_fallocate(descriptor, 0, size)
    except AttributeError:  # macOS has no such call
        os.ftruncate(descriptor, size)
    except OSError as error:
        if error.errno in _FULL:
            raise OSError(errno.ENOSPC, reason, str(path)) from error
        os.ftruncate(descriptor, size)  # a file system that cannot reserve


def write_at(descriptor: int, content: bytes, offset: int) -> None:
    """Write all of `content` at `offset`, in as many calls as the system wants."""
    view = memoryview(content)
    while view:
        written = os.pwrite(descriptor, view, offset)
        view, offset = view[written:], offset + written
