"""Read a file of safetensors or of torch.save: tensors, and whatever else stands beside them.

Nothing in a file is ever executed. What the tensors are is the dialects' affair.
"""

import argparse
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from repa.errors import CheckpointFormatError, first_line

Tensors = Mapping[str, Tensor]
"""Tensors by name, perhaps memory-mapped."""

Extra = Mapping[str, Any]
"""What stands beside the tensors, by key."""


def read_contents(path: Path) -> tuple[Tensors, Extra]:
    """Read a file of either kind, told by its first bytes.

    Returns:
        The tensors, if the file holds tensors alone at its top level, and the metadata of
        safetensors, or all of a pickled dict that holds more than tensors.

    Raises:
        CheckpointFormatError: It is of another kind, is damaged, or holds no dict.
    """
    with path.open("rb") as file:
        head = file.read(9)
    archive = head.startswith(b"PK\3\4")
    try:
        if head[8:] == b"{":
            with safe_open(path, framework="pt") as file:
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
                return tensors, file.metadata() or {}
        # A zip archive, or the bare pickle of torch before 1.6.
        if archive or head.startswith(b"\x80\x02"):
            return _read_pickled(path, mmap=archive)
    except (OSError, CheckpointFormatError):
        raise
    except Exception as error:  # arbitrary bytes fail in arbitrary ways
        what = f"is damaged or no checkpoint: {first_line(error)}"
        if archive and not _made_by_torch(path):
            what = "is an NPZ file or another archive, no checkpoint."
        raise CheckpointFormatError(f"{path}: {what}") from error
    what = "is no checkpoint: neither safetensors nor a file of torch.save"
    if head.lstrip().lower().startswith((b"<!doc", b"<html")):
        what = "is a web page, no checkpoint; download it again"
    raise CheckpointFormatError(f"{path}: {what}.")


def is_state_dict(value: object) -> bool:
    """Whether a value is a dict, not empty, of names and tensors alone."""
    pairs = value.items() if isinstance(value, dict) else ()
    return bool(pairs) and all(isinstance(k, str) and isinstance(v, Tensor) for k, v in pairs)


def _read_pickled(path: Path, *, mmap: bool) -> tuple[Tensors, Extra]:
    # weights_only runs no code; a Namespace, in which the reference keeps its arguments, can do
    # nothing but hold attributes.
    with torch.serialization.safe_globals([argparse.Namespace]):
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
    if not isinstance(content, dict):
        raise CheckpointFormatError(f"{path}: holds no state dict, but a {type(content).__name__}.")
    return (content, {}) if is_state_dict(content) else ({}, content)


def _made_by_torch(path: Path) -> bool:
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.endswith("/data.pkl") for name in archive.namelist())
    except (zipfile.BadZipFile, OSError, ValueError):
        return True
