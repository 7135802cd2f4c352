"""Errors that a user can mend: one line each, naming the file, the field and the remedy.

`repa_cli.app.main` prints them as one line and exits with 1, or 2 for what was mistyped; anything
else that is raised is a bug of ours and keeps its traceback.
"""

import difflib
from collections.abc import Iterable
from typing import Any, Self

_LONGEST_LINE = 300
"""Letters; libraries quote what they found, and a damaged file's names go on and on."""
_NO_MEMORY = ("out of memory", "can't allocate memory", "not enough memory")
"""What PyTorch says of a GPU, and of a CPU on Linux and elsewhere."""


class RepaError(Exception):
    """Base of every error of the toolkit that a user can mend."""

    def __reduce__(self) -> tuple[Any, ...]:
        """Travel to another process as class, text and attributes, whatever the class takes."""
        return self._restored, (self.args, self.__dict__)

    @classmethod
    def _restored(cls, args: tuple[object, ...], attributes: dict[str, Any]) -> Self:
        error = cls.__new__(cls, *args)
        error.args = args
        error.__dict__.update(attributes)
        return error


class UnknownNameError(RepaError):
    """A name is not in the registry, or in a list of choices."""

    def __init__(self, kind: str, name: str, known: Iterable[str]) -> None:
        super().__init__(f"unknown {kind} {name!r}{suggestion(name, known)}")


class SettingError(RepaError, ValueError):
    """A setting is out of its range or of its choices; `field` is its name in the settings."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field = field


class DownloadError(RepaError):
    """A file is not in the cache and could not be downloaded."""


class ChecksumError(RepaError):
    """A file's size or hash is not the recorded one."""


class OutputExistsError(RepaError):
    """An output exists already and was made by other settings, or is no output of ours."""


class InUseError(OutputExistsError):
    """Another process is at work on the same output."""


class NoMemoryError(RepaError):
    """The memory of a device does not suffice; the message says what would need less."""


class OtherProcessError(RepaError):
    """Another process has ended, so that this one cannot go on; what ended it was told there."""


def suggestion(name: str, known: Iterable[str]) -> str:
    """Return ", did you mean ...?" for the closest known name, then the list of them all."""
    known = sorted(known)
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    return f"{hint} (known: {', '.join(known) or 'none'})"


def is_out_of_memory(error: Exception) -> bool:
    """Whether Python or PyTorch says by this error that the memory does not suffice."""
    said = isinstance(error, RuntimeError) and any(words in str(error) for words in _NO_MEMORY)
    return said or isinstance(error, MemoryError)


def first_line(error: Exception) -> str:
    """Return the first line of an error's message, cut, or its type's name if it has none."""
    line = (str(error).splitlines() or [type(error).__name__])[0]
    return line if len(line) <= _LONGEST_LINE else f"{line[:_LONGEST_LINE]} ..."
