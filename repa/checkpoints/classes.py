"""Classes by their names: what a model's own settings, or the registry, call them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from repa.checkpoints.reading import read_checkpoint
from repa.checkpoints.settings import CheckpointSettings, settings_from_description
from repa.errors import RepaError, SettingError
from repa.registry import class_called, find_entry, is_registered


def labels_called(
    labels: Sequence[int | str],
    model: str | Path,
    **hints: Any,  # noqa: ANN401
) -> tuple[int, ...]:
    """Return labels as numbers, given some as names of a model's classes.

    Args:
        labels: Numbers, which stay as they are, and names.
        model: Registered name, file, or folder of a training run; nothing is downloaded where the
            registry describes it.
        hints: What is said of a file, see `repa.checkpoints.read_checkpoint`.

    Raises:
        SettingError: A name means no class of the model, or several, or no names are known.
        RepaError: The model's file cannot be read, see `repa.checkpoints.read_checkpoint`.
    """
    settings = _settings_of(model, hints)
    if not (classes := settings.classes):
        named = next(label for label in labels if isinstance(label, str))
        reason = f"the names of {model}'s classes are not known, only numbers"
        raise SettingError("labels", f"{named!r}: {reason}, 0 to {settings.num_classes - 1}.")
    try:
        return tuple(
            class_called(label, classes) if isinstance(label, str) else label for label in labels
        )
    except RepaError as error:
        raise SettingError("labels", str(error)) from error


def _settings_of(model: str | Path, hints: dict[str, Any]) -> CheckpointSettings:
    if is_registered("checkpoints", model):
        entry = find_entry("checkpoints", str(model))
        if entry.get("model") is not None:
            return settings_from_description(entry, {})
    return read_checkpoint(model, **hints).settings
