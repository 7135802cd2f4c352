"""Outputs: may they be written, is there room, and files that appear whole or not at all."""

import errno
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from repa_base.errors import OutputExistsError

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a name to write a file or folder under; afterwards it is brought to disk and renamed.

    When the block fails, or the process is killed, what stood under `path` stands there still. A
    folder replaces a folder in two steps, so a kill between them can leave neither.

    Args:
        path: The file or folder in the end; its folder is made.

    Yields:
        A free name beside it, to be made by the block.

    Raises:
        OSError: It cannot be written; the error names `path`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        yield partial
        for file in (*(partial.rglob("*") if partial.is_dir() else ()), partial):
            to_disk(file)
        if partial.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        partial.replace(path)
        to_disk(path.parent)
    except OSError as error:
        if error.filename is not None and Path(os.fsdecode(error.filename)) != partial:
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        if partial.is_dir():
            shutil.rmtree(partial, ignore_errors=True)
        else:
            partial.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file that is there whole or not at all."""
    with replacing(path) as partial:
        partial.write_text(text, encoding="utf-8")


def to_disk(path: Path) -> None:
    """Wait until a file, or a folder's list of files, is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def check_output(path: Path, *, overwrite: bool = False, option: str = "--out") -> None:
    """Find out, before any work, whether an output may be written; make its folder.

    Args:
        path: The output.
        overwrite: Whether a file of that name may be replaced.
        option: What names the output, for the message.

    Raises:
        OutputExistsError: The output is there, or is a folder.
        OSError: No file can be made in its folder.
    """
    if path.is_dir():
        raise OutputExistsError(f"{path} is a folder; use another {option}.")
    if path.exists() and not overwrite:
        raise OutputExistsError(
            f"{path} exists; use --overwrite to replace it, or another {option}."
        )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise OSError(
            error.errno, "no file can be made in this folder", str(path.parent)
        ) from error


def check_room(size: int, path: Path, *, what: str = "the file needs") -> None:
    """Find out whether a disk has room.

    Args:
        size: Bytes.
        path: A folder, or a file to be made in one.
        what: Subject and verb of the message.

    Raises:
        OSError: There is no room (ENOSPC); the message gives the sizes.
    """
    free = shutil.disk_usage(path if path.is_dir() else path.parent).free
    if size > free:
        raise _no_room(size, free, path, what)


def reserve(descriptor: int, size: int, path: Path) -> None:
    """Take `size` bytes of disk for a file now, so that a long run cannot fill the disk later.

    Args:
        descriptor: The file, open for writing.
        size: Bytes, at least 1.
        path: The file's path, for the message.

    Raises:
        OSError: There is no room (ENOSPC); the message gives the sizes.
    """
    check_room(size, path)
    try:
        os.posix_fallocate(descriptor, 0, size)
    except AttributeError:  # macOS has no such call
        os.ftruncate(descriptor, size)
    except OSError as error:
        if error.errno in _FULL:
            free = shutil.disk_usage(path.parent).free
            raise _no_room(size, free, path, "the file needs") from error
        os.ftruncate(descriptor, size)  # a file system that cannot reserve


def write_at(descriptor: int, content: bytes, offset: int) -> None:
    """Write all of `content` at `offset`, in as many calls as the system wants."""
    view = memoryview(content)
    while view:
        written = os.pwrite(descriptor, view, offset)
        view, offset = view[written:], offset + written


def _no_room(size: int, free: int, path: Path, what: str) -> OSError:
    reason = f"No space: {what} {size / 1e6:,.1f} MB, {free / 1e6:,.1f} MB are free"
    return OSError(errno.ENOSPC, reason, str(path))
