"""Download a file whole or not at all: locked, resumable, checked before it gets its name.

Prints nothing; `reporting_downloads` lets a caller far above show what goes on. What it takes to
download is imported when something is: every command imports this file.
"""

import contextlib
import os
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from pathlib import Path

from repa_base.errors import ChecksumError, DownloadError

DownloadProgress = Callable[[str, str, int, int | None], None]
"""progress(name, url, done, total): bytes of a file on disk and in all, None if unknown."""

_TIMEOUT_SECONDS = 30
_PIECE_BYTES = 1 << 20
_progress: ContextVar[DownloadProgress | None] = ContextVar("progress", default=None)


@contextlib.contextmanager
def reporting_downloads(progress: DownloadProgress) -> Iterator[None]:
    """Call `progress` when a download of this context begins and after each of its pieces."""
    token = _progress.set(progress)
    try:
        yield
    finally:
        _progress.reset(token)


def download(url: str, path: Path, *, check: Callable[[Path], None] = lambda path: None) -> None:
    """Download `url` to `path`, which appears only when it is complete and has passed `check`.

    An interrupted download goes on where it stopped if the server still has the same file. Of
    several processes one downloads; the others wait for it.

    Args:
        url: Address, http or https.
        path: Where the file goes; its folder is made.
        check: Called with the complete temporary file; raises ChecksumError to refuse it.

    Raises:
        DownloadError: No network, no such address, a web page instead of a file, or a connection
            that broke off; the message says where to put the file by hand.
        ChecksumError: From `check`; the temporary file is removed.
        OSError: The disk has no room for the file.
    """
    from http.client import HTTPException

    from repa_base.files import is_full
    from repa_base.locks import locked

    path.parent.mkdir(parents=True, exist_ok=True)
    partial, lock = (path.with_name(path.name + suffix) for suffix in (".part", ".lock"))
    lock.touch()
    with locked(lock):
        if path.exists():
            return
        try:
            _transfer(url, partial, path.name)
        except (OSError, HTTPException, ValueError) as error:
            if isinstance(error, OSError) and is_full(error):
                raise
            raise DownloadError(
                f"cannot download {path.name} from {url} ({_reason(error)}); "
                f"download it elsewhere and put it at {path}"
            ) from error
        try:
            check(partial)
        except ChecksumError:
            partial.unlink()
            raise
        finally:
            _tag_path(partial).unlink(missing_ok=True)
        partial.replace(path)


def _transfer(url: str, partial: Path, name: str) -> None:
    """Fetch the whole file, or the rest of it if the server vouches that it is the same file."""
    import urllib.error
    import urllib.request
    from http import HTTPStatus

    from repa_base.files import check_room

    request = urllib.request.Request(url, headers={"User-Agent": "repa-toolkit"})
    start, tag = _resume_point(partial)
    if start:
        request.add_header("Range", f"bytes={start}-")
        request.add_header("If-Range", tag)
    try:
        answer = urllib.request.urlopen(request, timeout=_TIMEOUT_SECONDS)
    except urllib.error.HTTPError as error:
        error.close()
        if not (start and error.code == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE):
            raise
        # Nothing follows what we have, so what we have cannot be trusted.
        partial.unlink()
        return _transfer(url, partial, name)
    with answer:
        if answer.headers.get_content_type() == "text/html":
            raise ValueError("the server answered with a web page")
        resumed = answer.status == HTTPStatus.PARTIAL_CONTENT
        _tag_path(partial).write_text(answer.headers.get("ETag") or "")
        expected = answer.headers.get("Content-Length")
        with partial.open("ab" if resumed else "wb") as file:
            before = file.tell()
            total = None if expected is None else before + int(expected)
            check_room(int(expected or 0), partial)
            report = _progress.get() or (lambda name, url, done, total: None)
            report(name, url, before, total)
            while piece := answer.read(_PIECE_BYTES):
                file.write(piece)
                report(name, url, file.tell(), total)
            received = file.tell() - before
            os.fsync(file.fileno())
    if expected is not None and received != int(expected):
        raise ValueError(f"the connection broke off after {received} of {expected} bytes")


def _resume_point(partial: Path) -> tuple[int, str]:
    """Return how many bytes are there and the server's tag for them; (0, "") without a tag."""
    tag_path = _tag_path(partial)
    tag = tag_path.read_text() if partial.exists() and tag_path.exists() else ""
    # A weak tag does not promise equal bytes, so it cannot join two halves.
    return (partial.stat().st_size, tag) if tag.startswith('"') else (0, "")


def _tag_path(partial: Path) -> Path:
    return partial.with_name(f"{partial.name}.tag")


def _reason(error: Exception) -> str:
    import urllib.error

    if isinstance(error, urllib.error.HTTPError):
        return f"the server answered {error.code} {error.reason}"
    if isinstance(error, urllib.error.URLError):
        return f"no connection: {error.reason}"
    return str(error) or type(error).__name__
