"""Defaults of sampling by model: where a model departs from the published protocol. No torch.

The departures stand in the registry, under "sampling" of a checkpoint; the published protocol
itself is the defaults of `repa.generation.settings`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from repa.checkpoints.names import SAMPLING_AT_512, sampling_as_published
from repa.registry import Entry, find_entry, is_registered, load_registry

_LARGE = "imagenet-512"
_UNKNOWN = "settings that are not typed are those of 256 pixels: none published for 512 are known"
_BY_RELEASE = {
    "repa-e": "guidance of REPA-E's releases differs by release, see docs/checkpoints.md: what is "
    "not typed is REPA's"
}
"""What is said of a file whose authors publish settings release by release."""


@dataclass(frozen=True)
class ModelDefaults:
    """Settings by name that a model has instead of the published ones, and where they are from.

    `registered` names the registered model that they belong to; None is the published protocol.
    `dataset` is the data set by which a file's model was found to be like that one, `dialect` the
    form of the file whose authors' settings they are: "ours" if an export says them. `remark` says,
    for a person, what speaks against them; it is empty where nothing does. `path_type` is the path
    that the model's network is for, not a setting.
    """

    values: Mapping[str, Any] = field(default_factory=dict)
    registered: str | None = None
    dataset: str | None = None
    dialect: str | None = None
    remark: str = ""
    path_type: str = "linear"


def defaults_of(model: str | Path, **hints: Any) -> ModelDefaults:  # noqa: ANN401
    """Find the defaults of a registered name, or of a checkpoint's file or run's folder.

    A checkpoint that says on which data set it was trained has those of the first registered model
    of the same one; another dialect, and an export of it, has its authors' settings, and any other
    checkpoint the published protocol. `hints` are those of `repa.checkpoints.read_checkpoint`.

    Raises:
        RepaError: The file cannot be read, see `repa.checkpoints.read_checkpoint`.
    """
    if is_registered("checkpoints", model):
        entry = find_entry("checkpoints", str(model))
        of_dialect = sampling_as_published(entry.get("dialect") or "repa", entry["dataset"])
        values, path = of_dialect | _settings(entry), entry.get("path_type", "linear")
        return ModelDefaults(values, str(model), path_type=path)
    from repa.checkpoints import read_checkpoint

    checkpoint = read_checkpoint(model, **hints)
    dialect, dataset = checkpoint.dialect, checkpoint.settings.dataset
    known = dataset != _LARGE or checkpoint.settings.sampling or dialect in SAMPLING_AT_512
    remark = _BY_RELEASE.get(dialect, "" if known else _UNKNOWN)
    of_file = {"remark": remark, "path_type": checkpoint.settings.path_type}
    if checkpoint.sampling:
        return ModelDefaults(checkpoint.sampling, dialect=dialect, **of_file)
    return replace(defaults_of_dataset(dataset), **of_file)


def defaults_of_dataset(dataset: str | None) -> ModelDefaults:
    """Return the defaults of our own checkpoints of a data set: those of the first registered one.

    The published protocol where there is none.
    """
    for name, entry in load_registry()["checkpoints"].items():
        ours = entry.get("dialect") is None  # others' settings are of their networks, not the data
        if ours and dataset == entry["dataset"] and "sampling" in entry:
            return ModelDefaults(_settings(entry), name, dataset)
    return ModelDefaults()


def _settings(entry: Entry) -> dict[str, Any]:
    """Return the settings of an entry, lists as tuples."""
    said = entry.get("sampling", {})
    return {k: tuple(v) if isinstance(v, list) else v for k, v in said.items()}
