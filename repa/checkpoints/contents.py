"""Read a file of safetensors or of torch.save: tensors, and whatever else stands beside them.

Nothing in a file is ever executed. What the tensors are is the dialects' affair.
"""

import argparse
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from repa.errors import CheckpointFormatError


class Contents(NamedTuple):
    """What a file holds.

    Attributes:
        tensors: By name, perhaps memory-mapped, if the file holds tensors alone at its top level.
        extra: The metadata of safetensors; of a pickled dict that holds more than tensors, all.
    """

    tensors: Mapping[str, Tensor]
    extra: Mapping[str, Any]


def read_contents(path: Path) -> Contents:
    """Read a file of either kind, told by its first bytes.

    Raises:
        CheckpointFormatError: It is of another kind, is damaged, or holds no dict.
    """
    with path.open("rb") as file:
        head = file.read(9)
    if len(head) == 9 and head[8:] == b"{":
        return _read_safetensors(path)
    # A zip archive, or the bare pickle of torch before 1.6.
    if head.startswith((b"PK\3\4", b"\x80\x02")):
        return _read_pickled(path, archive=head.startswith(b"PK"))
    if head.lstrip().lower().startswith((b"<!doc", b"<html")):
        raise CheckpointFormatError(f"{path}: is a web page, no checkpoint; download it again.")
    raise CheckpointFormatError(
        f"{path}: is no checkpoint: neither safetensors nor a file of torch.save."
    )


def is_state_dict(value: object) -> bool:
    """Whether a value is a dict, not empty, of names and tensors alone."""
    return (
        isinstance(value, dict)
        and bool(value)
        and all(isinstance(k, str) and isinstance(v, Tensor) for k, v in value.items())
    )


def first_line(error: Exception) -> str:
    """Return the first line of an error's message, or its type's name if it has none."""
    return (str(error).splitlines() or [type(error).__name__])[0]


def _read_safetensors(path: Path) -> Contents:
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            return Contents(tensors, file.metadata() or {})
    except SafetensorError as error:
        raise _damaged(path, error) from error


def _read_pickled(path: Path, *, archive: bool) -> Contents:
    try:
        # weights_only runs no code; a Namespace, in which the reference keeps its arguments, can
        # do nothing but hold attributes.
        with torch.serialization.safe_globals([argparse.Namespace]):
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=archive)
    except OSError:
        raise
    except Exception as error:  # arbitrary bytes fail in arbitrary ways
        if archive and not _made_by_torch(path):
            raise CheckpointFormatError(
                f"{path}: is an NPZ file or another archive, no checkpoint."
            ) from error
        raise _damaged(path, error) from error
    if not isinstance(content, dict):
        raise CheckpointFormatError(f"{path}: holds no state dict, but a {type(content).__name__}.")
    return Contents(content, {}) if is_state_dict(content) else Contents({}, content)


def _made_by_torch(path: Path) -> bool:
    """Whether an archive has the parts that `torch.save` writes, as far as it can be read."""
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.endswith("/data.pkl") for name in archive.namelist())
    except (zipfile.BadZipFile, OSError, ValueError):
        return True


def _damaged(path: Path, error: Exception) -> CheckpointFormatError:
    return CheckpointFormatError(f"{path}: is damaged or no checkpoint: {first_line(error)}")
