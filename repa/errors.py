"""Errors of the method that a user can mend; those of files and settings come from below."""

from repa_base.errors import (
    ChecksumError,
    DownloadError,
    InUseError,
    OutputExistsError,
    RepaError,
    SettingError,
    UnknownNameError,
    suggestion,
)

__all__ = [
    "CheckpointFormatError",
    "CheckpointMismatchError",
    "ChecksumError",
    "DataError",
    "DownloadError",
    "InUseError",
    "MissingPackageError",
    "NonFiniteError",
    "OutputExistsError",
    "RepaError",
    "SettingError",
    "UnknownNameError",
    "suggestion",
]


class CheckpointMismatchError(RepaError):
    """A checkpoint's tensors are not those of the model: names missing, unexpected or misshapen."""


class CheckpointFormatError(RepaError):
    """A file is not a checkpoint, or is damaged."""


class MissingPackageError(RepaError):
    """An optional package is needed; the message says how to install it."""


class NonFiniteError(RepaError):
    """A network gave NaN or infinite values."""


class DataError(RepaError):
    """A data set cannot be read as asked."""
