"""Errors that a user can mend: one line each, naming the file, the field and the remedy.

`repa_cli.app.main` prints them as one line and exits with 1; anything else that is raised is a bug
of ours and keeps its traceback.
"""

import difflib
from collections.abc import Iterable


class RepaError(Exception):
    """Base of every error of the `repa` package that a user can mend."""

    def __reduce__(self) -> tuple[type["RepaError"], tuple[object, ...]]:
        """Travel to another process as the text alone, whatever the constructor takes."""
        return RepaError, self.args


class UnknownNameError(RepaError):
    """A name is not in the registry, or in a list of choices."""

    def __init__(self, kind: str, name: str, known: Iterable[str]) -> None:
        super().__init__(f"unknown {kind} {name!r}{suggestion(name, known)}")


class CheckpointMismatchError(RepaError):
    """A checkpoint's tensors are not those of the model: names missing, unexpected or misshapen."""


class CheckpointFormatError(RepaError):
    """A file is not a checkpoint, or is damaged."""


class DownloadError(RepaError):
    """A file is not in the cache and could not be downloaded."""


class ChecksumError(RepaError):
    """A file's size or hash is not the recorded one."""


class OutputExistsError(RepaError):
    """An output exists already and was made by other settings, or is no output of ours."""


class MissingPackageError(RepaError):
    """An optional package is needed; the message says how to install it."""


class SettingError(RepaError):
    """A setting is out of its range; `field` is its name in the configuration."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field = field


class NonFiniteError(RepaError):
    """A network gave NaN or infinite values."""


class DataError(RepaError):
    """A data set cannot be read as asked."""


def suggestion(name: str, known: Iterable[str]) -> str:
    """Return ", did you mean ...?" for the closest known name, then the list of them all."""
    known = sorted(known)
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    return f"{hint} (known: {', '.join(known) or 'none'})"
