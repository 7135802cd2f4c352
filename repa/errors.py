"""Errors of the method that a user can mend; those of files and settings come from below."""

from repa_base.errors import ChecksumError as ChecksumError
from repa_base.errors import DownloadError as DownloadError
from repa_base.errors import InUseError as InUseError
from repa_base.errors import NoMemoryError as NoMemoryError
from repa_base.errors import OtherProcessError as OtherProcessError
from repa_base.errors import OutputExistsError as OutputExistsError
from repa_base.errors import RepaError as RepaError
from repa_base.errors import SettingError as SettingError
from repa_base.errors import UnknownNameError as UnknownNameError
from repa_base.errors import first_line as first_line
from repa_base.errors import suggestion as suggestion


class CheckpointMismatchError(RepaError):
    """A checkpoint's tensors are not those of the model: names missing, unexpected or misshapen."""


class CheckpointFormatError(RepaError):
    """A file is not a checkpoint, or is damaged."""


class UntoldError(CheckpointFormatError, ValueError):
    """A checkpoint does not tell enough of itself; the message names the option that says it."""


class MissingPackageError(RepaError):
    """An optional package is needed; the message says how to install it."""


class NonFiniteError(RepaError):
    """A network gave NaN or infinite values."""


class DataError(RepaError):
    """A data set cannot be read as asked."""
