"""Read a file of safetensors or of torch.save: tensors, and whatever else stands beside them.

Nothing in a file is ever executed. What the tensors are is the readers' affair.
"""

import argparse
import re
import sys
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor
from torch.serialization import get_unsafe_globals_in_checkpoint

from repa.errors import CheckpointFormatError, first_line

Tensors = Mapping[str, Tensor]
"""Tensors by name, perhaps memory-mapped."""

Extra = Mapping[str, Any]
"""What stands beside the tensors, by key."""

_GLOBAL = re.compile(r"GLOBAL ([\w.]+)")
"""How torch names what it refuses to look up."""

_LONGEST_NAME = 200
_DATA_MODULES = ("collections", "datetime", "decimal", "enum", "fractions", "pathlib", "uuid")
"""Of the standard library, those that hold values."""


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
    except CheckpointFormatError:
        raise
    except Exception as error:  # arbitrary bytes fail in arbitrary ways
        if isinstance(error, OSError) and error.filename is not None:
            raise  # it says itself which file it is of, as one that may not be read
        what = _refusal(error)
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
        # Looked at first: torch takes minutes to word its refusal of a very long name.
        asked = get_unsafe_globals_in_checkpoint(path) if mmap else []
        if any(len(name) > _LONGEST_NAME for name in asked):
            raise CheckpointFormatError(f"{path}: is damaged: a name in it has no end.")
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
    if not isinstance(content, dict):
        raise CheckpointFormatError(f"{path}: holds no state dict, but a {type(content).__name__}.")
    return (content, {}) if is_state_dict(content) else ({}, content)


def _refusal(error: Exception) -> str:
    """Say why a file is not opened; never in torch's words, which tell how to run what is in it."""
    text = str(error)
    if (asked := _GLOBAL.search(text)) is None:
        reason = "" if text.startswith("Weights only load failed") else f": {first_line(error)}"
        return f"is damaged or no checkpoint{reason}"
    name = asked[1].replace("__builtin__.", "builtins.")
    name = name if "." in name else f"builtins.{name}"
    name = name[:_LONGEST_NAME]  # of a damaged file it can go on and on
    module = name.split(".")[0]
    if module in sys.stdlib_module_names and module not in _DATA_MODULES:
        return (
            f"asks to run code ({name}) when it is loaded: it is not opened. Get the weights as "
            "safetensors, or from a source you trust."
        )
    return (
        f"holds {name}, neither a tensor nor a plain value: it is not opened, because that would "
        f"run code of {module}. Get the weights alone, best as safetensors."
    )


def _made_by_torch(path: Path) -> bool:
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.endswith("/data.pkl") for name in archive.namelist())
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        return True
