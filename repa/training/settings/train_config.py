"""All settings of a run: the sections together, what holds between them, and how they are stored.

Does not import torch.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from repa.encoders.names import parse_encoders
from repa.errors import RepaError, SettingError, UnknownNameError, suggestion
from repa.registry import is_registered
from repa.training.settings.sections import (
    DATASETS,
    SECTIONS,
    AlignmentSettings,
    DataSettings,
    ModelSettings,
    ObjectiveSettings,
    OptimizerSettings,
    PrecisionSettings,
    RunSettings,
)
from repa_base.settings import check_settings

CHANGEABLE = ("num_steps", "alignment_weight", "label_dropout", "learning_rate", "warmup_steps")
CHANGEABLE += ("decay_steps", "weight_decay", "max_grad_norm", "ema_decay", "precision")
CHANGEABLE += ("align_until", "data", "accumulate", "patience", "compile", "recompute")
"""Settings that a run may go on with other values of: they say how it steps, or for how long, or
where its data are by now, whose content is checked by itself. All others decide the network, the
data, the features to align with, or the draws of a step."""

_OF_NO_PRESET = ("encoder_precision", "projector", "normalise_targets", "align_until")
_OF_PRESETS = ("alignment_weight", "projector_dim")
OF_ALIGNMENT = _OF_NO_PRESET + _OF_PRESETS
"""Settings that say how to align, and nothing without an encoder."""


@dataclass(frozen=True, kw_only=True)
class TrainConfig(
    PrecisionSettings,
    OptimizerSettings,
    ObjectiveSettings,
    AlignmentSettings,
    RunSettings,
    ModelSettings,
    DataSettings,
):
    """Everything that decides the weights a run ends with, unless it goes on with other settings.

    The fields are those of all `SECTIONS`. Defaults are the reference's (REPA train.py at 67f7145),
    except that a run says its data, model and length itself, that the encoder is
    EfficientNet-lite1, which needs no download, and that the precision is float32.

    Raises:
        SettingError: A value is out of its range, or of its choices.
    """

    def __post_init__(self) -> None:
        check_settings(self)
        if self.data not in DATASETS:
            object.__setattr__(self, "data", whole_path(self.data))
        encoders = parse_encoders(self.encoder)
        if any(encoder.weights for encoder in encoders):
            object.__setattr__(self, "encoder", ",".join(str(e.absolute()) for e in encoders))
        if not encoders:
            _check_plain(self)
        for name in ("model", "init", "init_sha256"):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, str) or not value):
                raise SettingError(name, f"{name} must be a name, got {value!r}.")
        if self.init and not is_registered("checkpoints", self.init) and _is_path(self.init):
            object.__setattr__(self, "init", str(Path(self.init).absolute()))

    def is_aligned(self, step: int) -> bool:
        """Whether the step after `step` steps has the alignment loss."""
        return not self.align_until or step < self.align_until

    def learning_rate_at(self, step: int) -> float:
        """Return the step size of the step after `step` steps."""
        warmup = (step + 1) / self.warmup_steps if self.warmup_steps else 1.0
        decay = (self.num_steps - step) / self.decay_steps if self.decay_steps else 1.0
        return self.learning_rate * min(1.0, warmup, decay)

    @property
    def highest_learning_rate(self) -> float:
        """The largest step size of all steps: less than `learning_rate` if a run is too short."""
        warmup, decay = self.warmup_steps, self.decay_steps
        # Where rise and fall cross; without one of them, at the end that the other leads to.
        crossing = (self.num_steps * warmup - decay) // max(warmup + decay, 1)
        steps = (min(max(crossing + i, 0), self.num_steps - 1) for i in (0, 1))
        return max(self.learning_rate_at(step) for step in steps)

    def sections(self) -> dict[str, dict[str, Any]]:
        """Return all settings as they are stored, section by section."""
        return {
            name: {f.name: getattr(self, f.name) for f in fields(section)}
            for name, section in SECTIONS.items()
        }

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> "TrainConfig":
        """Build from stored settings, section by section or as earlier versions wrote them.

        Raises:
            RepaError: A setting is unknown, missing, of another type or out of its range.
        """
        try:
            return cls(**settings_by_name(values))
        except TypeError as error:
            raise RepaError(f"settings are incomplete: {error}") from error


def settings_by_name(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return stored settings, which may be incomplete, by their names alone.

    Raises:
        UnknownNameError: There is no such section, or no such setting in it.
    """
    if not any(isinstance(value, Mapping) for value in values.values()):  # of earlier versions
        names = [f.name for section in SECTIONS.values() for f in fields(section)]
        for name in values:
            if name not in names:
                raise UnknownNameError("setting", name, names)
        return dict(values)
    found: dict[str, Any] = {}
    for section, inside in values.items():
        if section not in SECTIONS:
            raise UnknownNameError("section", section, SECTIONS)
        if not isinstance(inside, Mapping):
            raise SettingError(section, f"section {section} holds {inside!r}, no settings.")
        known = [f.name for f in fields(SECTIONS[section])]
        for name in inside:
            if name not in known:
                raise UnknownNameError("setting", name, known)
        found |= inside
    return found


def whole_path(data: object) -> str:
    """Return the whole path of a user's data, so that a run goes on from wherever it is called.

    Raises:
        SettingError: It is neither a path nor the name of a data set.
    """
    if not isinstance(data, str):
        raise SettingError("data", f"data must be a name or a path, got {data!r}.")
    if not _is_path(data):
        hint = suggestion(data, DATASETS)
        raise SettingError("data", f"no data set, folder or zip is called {data!r}{hint}")
    return str(Path(data).absolute())


def _is_path(text: str) -> bool:
    return os.sep in text or os.path.lexists(text)


def _check_plain(config: TrainConfig) -> None:
    """Raise SettingError for what says how to align, in settings that align with nothing."""
    declared = {f.name: f.default for f in fields(config)}
    for name in _OF_NO_PRESET:
        if (value := getattr(config, name)) != declared[name]:
            raise _no_encoder(name, value)


def check_plain(config: TrainConfig, given: Mapping[str, Any], usual: Mapping[str, Any]) -> None:
    """Refuse what is given of how to align, other than usual, in settings that align with nothing.

    `TrainConfig` itself refuses what no preset has. `encoder_depth` is not among it: it is within
    the network's in any case.

    Raises:
        SettingError: The first such setting.
    """
    for name in () if parse_encoders(config.encoder) else _OF_PRESETS:
        if given.get(name, usual[name]) != usual[name]:
            raise _no_encoder(name, given[name])


def _no_encoder(name: str, value: object) -> SettingError:
    return SettingError(name, f"{name} {value} needs an encoder to align with: see encoder.")
