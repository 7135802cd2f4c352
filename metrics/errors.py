"""The errors of `metrics` that a user can mend."""

from repa_base.errors import RepaError


class InputError(RepaError, ValueError):
    """A file or array that the user gave cannot be measured: unreadable, mismatched or too small.

    The message is one line that names the file or the array, the rule and the value found.
    """


class CacheError(OSError):
    """The feature cache cannot be written; measuring works without it."""
