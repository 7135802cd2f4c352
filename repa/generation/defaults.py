"""Defaults of sampling by model: where a model departs from the published protocol. No torch.

The departures stand in the registry, under "sampling" of a checkpoint; the published protocol
itself is the defaults of `repa.generation.settings`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from repa.checkpoints.names import SAMPLING
from repa.registry import find_entry, is_registered, load_registry


@dataclass(frozen=True)
class ModelDefaults:
    """Settings by name that a model has instead of the published ones, and where they are from.

    `registered` names the registered model that they belong to; None is the published protocol.
    `dataset` is the data set by which a file's model was found to be like that one, `dialect` the
    form of the file whose authors' settings they are.
    """

    values: Mapping[str, Any] = field(default_factory=dict)
    registered: str | None = None
    dataset: str | None = None
    dialect: str | None = None


def defaults_of(model: str | Path, **hints: Any) -> ModelDefaults:  # noqa: ANN401
    """Find the defaults of a registered name, or of a checkpoint's file or run's folder.

    A checkpoint that says on which data set it was trained has those of the first registered model
    of the same one; another dialect has its authors' settings, and any other checkpoint the
    published protocol. `hints` are those of `repa.checkpoints.read_checkpoint`.

    Raises:
        RepaError: The file cannot be read, see `repa.checkpoints.read_checkpoint`.
    """
    if is_registered("checkpoints", model):
        return ModelDefaults(find_entry("checkpoints", str(model)).get("sampling", {}), str(model))
    from repa.checkpoints import read_checkpoint

    checkpoint = read_checkpoint(model, **hints)
    if own := SAMPLING.get(checkpoint.dialect):
        return ModelDefaults(own, dialect=checkpoint.dialect)
    return defaults_of_dataset(checkpoint.settings.dataset)


def defaults_of_dataset(dataset: str | None) -> ModelDefaults:
    """Return the defaults of our own checkpoints of a data set: those of the first registered one.

    The published protocol where there is none.
    """
    for name, entry in load_registry()["checkpoints"].items():
        if dataset == entry["dataset"] and "sampling" in entry:
            return ModelDefaults(entry["sampling"], name, dataset)
    return ModelDefaults()
