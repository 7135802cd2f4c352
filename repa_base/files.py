"""Outputs: may they be written, is there room, and files that appear whole or not at all."""

import errno
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from repa_base.errors import OutputExistsError
from repa_base.workplace import remove_leftovers, workplace

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_FOLDER_REFUSALS = (errno.EINVAL, errno.EBADF, errno.ENOTSUP, errno.EACCES)
_OS_ERROR = re.compile(r"\(os error (\d+)\)")


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a free name to write an output under; afterwards it is brought to disk and renamed.

    When the block fails, or the process is killed, what stood under `path` stands there still. A
    folder replaces a folder in two renames, so a kill between them can leave neither.
    The name is in a hidden folder beside `path`, see `repa_base.workplace`. What a killed process
    leaves of it is removed by the next call for the same `path`.

    Args:
        path: The file or folder in the end; its folder is made. Of a link, what it leads to is
            replaced or made, in a folder that must be there. New files get the permissions that
            the system gives new files.

    Raises:
        OSError: It cannot be written; the error names `path`.
    """
    target = output_target(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    remove_leftovers(target.parent, target.name)
    with _naming(path, str(target.with_name(f".{target.name}."))), workplace(target) as place:
        partial = place / target.name
        yield partial
        _settle(partial, place.stat().st_mode & 0o666)
        if partial.is_dir() and target.exists():
            target.rename(place / ".replaced")
        partial.replace(target)
        to_disk(target.parent)


def write_text(path: Path, text: str) -> None:
    """Write a text file that is there whole or not at all."""
    with replacing(path) as partial:
        partial.write_text(text, encoding="utf-8")


def append_text(path: Path, text: str) -> None:
    """Add text to the end of a file, whose name an error of writing tells."""
    with _naming(path, str(path)), path.open("a", encoding="utf-8") as file:
        file.write(text)


def to_disk(path: Path) -> None:
    """Wait until a file is on disk, or a folder's list of files where that can be waited for."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        # Network file systems often refuse it for folders, and so does a folder without reading.
        if not (error.errno in _FOLDER_REFUSALS and path.is_dir()):
            raise


def check_output(
    path: Path, *, overwrite: bool = False, option: str = "--out", writing: bool = True
) -> None:
    """Find out, before any work, whether an output may be written; make its folder.

    A file of that name may be replaced if `overwrite`; `option` names the output in messages. If
    not `writing`, nothing is made or tried, and what the system tells of the folder is believed.

    Raises:
        OutputExistsError: The output is there, or is a folder.
        OSError: No file can be made in its folder, or where a link leads to; the message says why.
    """
    if path.is_dir():
        raise OutputExistsError(f"{path} is a folder; use another {option}.")
    if path.exists() and not overwrite:
        message = f"{path} exists; use --overwrite to replace it, or another {option}."
        raise OutputExistsError(message)
    target = output_target(path)
    if not writing:
        _look_at_folder(target)
        return
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        # Called like the hidden folder that will stand there, whose name may be too long.
        prefix = f".{target.name}."
        with tempfile.NamedTemporaryFile(dir=target.parent, prefix=prefix, suffix=".part"):
            pass
    except OSError as error:
        why = "it is a file" if isinstance(error, FileExistsError) else error.strerror
        reason = f"no file can be made in this folder ({why})"
        raise OSError(error.errno, reason, str(target.parent)) from error


def _look_at_folder(target: Path) -> None:
    """Raise OSError, as `check_output`, where it can be seen that no file can be made."""
    folder = existing_folder(target)
    number = None
    if not folder.is_dir():
        number = errno.EEXIST if folder == target.parent else errno.ENOTDIR
    elif not os.access(folder, os.W_OK | os.X_OK):
        number = errno.EROFS if os.statvfs(folder).f_flag & os.ST_RDONLY else errno.EACCES
    elif len(os.fsencode(f".{target.name}.12345678.part")) > os.pathconf(folder, "PC_NAME_MAX"):
        number = errno.ENAMETOOLONG
    if number is not None:
        why = "it is a file" if number == errno.EEXIST else os.strerror(number)
        raise OSError(number, f"no file can be made in this folder ({why})", str(target.parent))


def existing_folder(path: Path) -> Path:
    """Return the first of the folders above a path that is there, or a file in its place."""
    return next(parent for parent in path.absolute().parents if os.path.lexists(parent))


def check_room(size: int, path: Path, *, what: str = "the file needs") -> None:
    """Find out whether there is room for `size` bytes in a folder, or for a file to be made in one.

    Raises:
        OSError: There is none (ENOSPC); the message gives the sizes, after the words of `what`.
    """
    free = shutil.disk_usage(path if path.is_dir() else path.parent).free
    if size > free:
        raise _no_room(size, free, path, what)


def is_full(error: OSError) -> bool:
    """Whether an error says that there is no room: a disk, a quota, the largest size of a file."""
    return error.errno in _FULL


def reserve(descriptor: int, size: int, path: Path) -> None:
    """Make an open file `size` bytes, at least 1, on disk now, so that nothing fills it later.

    Raises:
        OSError: There is no room (ENOSPC); the message gives `path` and the sizes.
    """
    check_room(size - 512 * os.fstat(descriptor).st_blocks, path)
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
    needed, there = _told_apart(size, free)
    return OSError(errno.ENOSPC, f"No space: {what} {needed}, {there} are free", str(path))


def _told_apart(*sizes: int) -> list[str]:
    """Write sizes in bytes, each in a unit that suits it, with digits enough to differ."""
    digits = 1
    while len({_in_unit(size, digits) for size in sizes}) < len(set(sizes)):
        digits += 1
    return [_in_unit(size, digits) for size in sizes]


def size_text(size: int) -> str:
    """Return a size in words: 504.0 GB."""
    return _in_unit(size, 1)


def _in_unit(size: int, digits: int) -> str:
    for unit, name in ((10**12, "TB"), (10**9, "GB"), (10**6, "MB"), (10**3, "kB")):
        if size >= unit:
            return f"{size / unit:,.{digits}f} {name}"
    return f"{size} bytes"


def output_target(path: Path) -> Path:
    """Return where an output is in the end: of a link, what it leads to.

    A folder that a link leads into is not made: it may be on a disk that is not there just now.

    Raises:
        OSError: The folder is not there.
    """
    target = Path(os.path.realpath(path))
    if target.is_symlink():
        raise OSError(errno.ELOOP, "is a link that leads to itself", str(path))
    if path.is_symlink() and not target.parent.is_dir():
        reason = f"is a link into {target.parent}, a folder that is not there"
        raise OSError(errno.ENOENT, reason, str(path))
    return target


@contextmanager
def _naming(path: Path, hidden: str) -> Iterator[None]:
    """Let errors of writing name `path`: those of hidden files, and those without any name."""
    try:
        yield
    except OSError as error:
        if error.errno is None or not os.fsdecode(error.filename or hidden).startswith(hidden):
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error
    except Exception as error:
        # Libraries in Rust (safetensors) tell the system's error in words alone.
        if (number := _OS_ERROR.search(str(error))) is None:
            raise
        raise OSError(int(number[1]), os.strerror(int(number[1])), str(path)) from error


def _settle(partial: Path, mode: int) -> None:
    """Bring what was made to disk; some libraries make files that only their owner can read."""
    for path in (*(partial.rglob("*") if partial.is_dir() else ()), partial):
        if not path.is_dir() and stat.S_IMODE(path.stat().st_mode) != mode:
            path.chmod(mode)
        to_disk(path)
