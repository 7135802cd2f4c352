"""Read SiT checkpoints of every dialect into a network ready for sampling.

Dialects: our safetensors (a JSON description under the metadata key "repa"); a bare state dict as
REPA releases it; the reference trainer's {"ema": state dict, "args": ..., ...}; a folder that our
trainer wrote. Nothing in a file is ever executed. Where a file does not say what network it holds,
the registry or its tensors' shapes do.
"""

import argparse
import json
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from repa.checkpoints.settings import (
    CheckpointSettings,
    settings_from_description,
    settings_from_tensors,
)
from repa.errors import CheckpointFormatError, CheckpointMismatchError, UnknownNameError
from repa.models.sit import SiT
from repa.registry import entry_names, fetch, file_sha256, find_entry, is_registered

_NAMED = 4  # tensors that a message names before it says how many more there are


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that has been read, its tensors not yet in a network.

    Attributes:
        name: Name in the registry, or the file's name without its folder.
        path: The file.
        settings: What network it holds, and for what.
        tensors: The state dict, perhaps memory-mapped, in the file's dtypes.
    """

    name: str
    path: Path
    settings: CheckpointSettings
    tensors: Mapping[str, Tensor] = field(repr=False)

    @property
    def sha256(self) -> str:
        """SHA-256 of the file in hexadecimal."""
        return file_sha256(self.path)

    def build(self, device: torch.device | str = "cpu") -> SiT:
        """Return the network in float32 and evaluation mode, without gradients.

        Raises:
            CheckpointFormatError: The settings make no network.
            CheckpointMismatchError: Tensors are missing, unexpected or misshapen.
        """
        try:
            with torch.device("meta"):
                model = SiT(**self.settings.model)
        except (TypeError, ValueError, LookupError, ArithmeticError, RuntimeError) as error:
            raise CheckpointFormatError(
                f"{self.path}: describes no SiT: {_first_line(error)}"
            ) from error
        _check_tensors(self.path, model.state_dict(), self.tensors)
        tensors = {
            name: tensor.to(device, torch.float32, copy=True)
            for name, tensor in self.tensors.items()
        }
        model.load_state_dict(tensors, strict=True, assign=True)
        return model.requires_grad_(False).eval()


@dataclass(frozen=True)
class LoadedModel:
    """A network ready for sampling, and what is known of it."""

    model: SiT
    settings: CheckpointSettings
    name: str
    sha256: str


def load_model(name_or_path: str | Path, device: torch.device | str = "cpu") -> LoadedModel:
    """Load a SiT by its name in the registry, from a file, or from a training run's folder.

    Args:
        name_or_path: A registered name comes before a file of that name. Of a run's folder the
            latest moving average is taken.
        device: Where the network goes.

    Raises:
        UnknownNameError: Neither a name nor a path.
        CheckpointFormatError: The file is no checkpoint, or is damaged.
        CheckpointMismatchError: Its tensors are not those of the network it should hold.
        DownloadError: See `repa.registry.fetch`, also for ChecksumError.
    """
    checkpoint = read_checkpoint(name_or_path)
    model = checkpoint.build(device)
    return LoadedModel(model, checkpoint.settings, checkpoint.name, checkpoint.sha256)


def read_checkpoint(name_or_path: str | Path) -> Checkpoint:
    """Find and read a checkpoint without building its network; raises as `load_model` does."""
    name, path, entry = _locate(str(name_or_path))
    tensors, description, args = _read(path)
    if entry is not None and entry["model"] is not None:
        description = entry
    try:
        if description is None:
            settings = settings_from_tensors(tensors, args)
        else:
            settings = settings_from_description(description, tensors)
    except (ValueError, TypeError, AttributeError, LookupError, ArithmeticError) as error:
        raise CheckpointFormatError(f"{path}: {error}.") from error
    return Checkpoint(name, path, settings, tensors)


def _locate(name_or_path: str) -> tuple[str, Path, dict[str, Any] | None]:
    """Return the name to report, the file, and the registry's entry if it has one."""
    if is_registered("checkpoints", name_or_path):
        return (
            name_or_path,
            fetch("checkpoints", name_or_path),
            find_entry("checkpoints", name_or_path),
        )
    path = Path(name_or_path)
    if path.is_dir():
        file = _latest_average(path)
        return f"{path.resolve().name}/{file.parent.name}", file, None
    if not path.exists():
        raise UnknownNameError("model, file or folder", name_or_path, entry_names("checkpoints"))
    return path.name, path, None


def _latest_average(run: Path) -> Path:
    """Return the moving average of a training run's highest step."""
    files = [*run.glob("step-*/ema.safetensors"), *run.glob("checkpoints/step-*/ema.safetensors")]
    if (run / "ema.safetensors").exists():
        files.append(run / "ema.safetensors")
    if not files:
        raise CheckpointFormatError(
            f"{run}: is a folder without checkpoints/step-*/ema.safetensors, so no training run."
        )
    return max(files, key=lambda file: (len(file.parent.name), file.parent.name))


def _read(path: Path) -> tuple[dict[str, Tensor], Mapping[str, Any] | None, dict[str, Any]]:
    """Return tensors, our description if there is one, the reference's arguments if there are."""
    with path.open("rb") as file:
        head = file.read(9)
    if len(head) == 9 and head[8:] == b"{":
        tensors, description = _read_safetensors(path)
        return tensors, description, {}
    # A zip archive, or the bare pickle of torch before 1.6.
    if head.startswith((b"PK\3\4", b"\x80\x02")):
        tensors, args = _read_pickled(path, archive=head.startswith(b"PK"))
        return tensors, None, args
    if head.lstrip().lower().startswith((b"<!doc", b"<html")):
        raise CheckpointFormatError(f"{path}: is a web page, no checkpoint; download it again.")
    raise CheckpointFormatError(
        f"{path}: is no checkpoint: neither safetensors nor a file of torch.save."
    )


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], Mapping[str, Any] | None]:
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            text = (file.metadata() or {}).get("repa")
    except SafetensorError as error:
        raise _damaged(path, error) from error
    if text is None:
        return tensors, None
    try:
        description = json.loads(text)
        if description["format"] != 1:
            raise ValueError(f"format {description['format']!r} is newer than this toolkit")
    except (ValueError, TypeError, KeyError) as error:
        raise CheckpointFormatError(f"{path}: its description is unreadable: {error}.") from error
    return tensors, description


def _read_pickled(path: Path, *, archive: bool) -> tuple[dict[str, Tensor], dict[str, Any]]:
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
    state = content.get("ema", content) if isinstance(content, dict) else content
    if not isinstance(state, dict) or not state or not _all_tensors(state):
        raise CheckpointFormatError(
            f"{path}: holds neither a state dict nor one under the key 'ema'{_keys(content)}."
        )
    return cast(dict[str, Tensor], state), _arguments(content.get("args"))


def _made_by_torch(path: Path) -> bool:
    """Whether an archive has the parts that `torch.save` writes, as far as it can be read."""
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.endswith("/data.pkl") for name in archive.namelist())
    except (zipfile.BadZipFile, OSError, ValueError):
        return True


def _arguments(args: object) -> dict[str, Any]:
    if isinstance(args, argparse.Namespace):
        return vars(args)
    return args if isinstance(args, dict) else {}


def _all_tensors(state: Mapping[Any, Any]) -> bool:
    return all(isinstance(k, str) and isinstance(v, Tensor) for k, v in state.items())


def _keys(content: object) -> str:
    if not isinstance(content, dict):
        return f", but a {type(content).__name__}"
    return f", but the keys {', '.join(str(key) for key in list(content)[:_NAMED]) or '(none)'}"


def _damaged(path: Path, error: Exception) -> CheckpointFormatError:
    return CheckpointFormatError(f"{path}: is damaged or no checkpoint: {_first_line(error)}")


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _check_tensors(path: Path, wanted: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> None:
    """Raise CheckpointMismatchError unless names and shapes are the same."""
    problems = [
        ("missing", [name for name in wanted if name not in found]),
        ("unexpected", [name for name in found if name not in wanted]),
        (
            "misshapen",
            [
                f"{name} {tuple(found[name].shape)} instead of {tuple(tensor.shape)}"
                for name, tensor in wanted.items()
                if name in found and found[name].shape != tensor.shape
            ],
        ),
    ]
    texts = [f"{kind} {_listed(names)}" for kind, names in problems if names]
    if texts:
        raise CheckpointMismatchError(
            f"{path}: does not hold the network it should: {'; '.join(texts)}."
        )


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more
