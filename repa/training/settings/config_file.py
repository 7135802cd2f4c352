"""Settings in a file of one's own: TOML, section by section, named as they are everywhere.

    preset = "repa-b2"

    [data]
    data = "imagenet"

    [optimizer]
    learning_rate = 2e-4

    [reporting]
    checkpoint_every = 5000

Every key may be left out. Does not import torch.
"""

import difflib
from collections.abc import Container, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from repa.encoders.names import NO_ENCODER
from repa.errors import SettingError, first_line, suggestion
from repa.training.settings.presets import PRESETS
from repa.training.settings.reporting import OF_EVALUATIONS, Reporting
from repa.training.settings.sections import SECTIONS
from repa.training.settings.train_config import OF_ALIGNMENT
from repa_base.settings import check_value, rules

_ALL_SECTIONS: dict[str, type] = {**SECTIONS, "reporting": Reporting}
_PRESET = "preset"


@dataclass(frozen=True)
class ConfigFile:
    """What a file says: a preset, settings of the run and of what it reports, by their names."""

    path: Path | None = None
    preset: str | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    reporting: Mapping[str, Any] = field(default_factory=dict)

    def under(self, typed: Mapping[str, Any]) -> dict[str, Any]:
        """Return all settings together: what is typed, else what the file says.

        `encoder` none takes with it how the file aligns, `projector` conv how wide the file's mlp
        is, and `eval_every` 0 how it evaluates.
        """
        gone: tuple[str, ...] = ()
        if str(typed.get("encoder")).strip() == NO_ENCODER:
            gone += OF_ALIGNMENT
        if typed.get("projector") == "conv":
            gone += ("projector_dim",)
        if typed.get("eval_every") == 0:
            gone += OF_EVALUATIONS
        said = {**self.settings, **self.reporting}
        return {name: value for name, value in said.items() if name not in gone} | {**typed}

    @contextmanager
    def named_in_errors(self, typed: Container[str]) -> Iterator[None]:
        """Name file and section where a setting is refused that is the file's, and not typed."""
        try:
            yield
        except SettingError as error:
            name = error.field
            homes = [home for home, section in _ALL_SECTIONS.items() if name in rules(section)]
            said = name in self.settings or name in self.reporting
            if self.path is None or name in typed or not (said and homes):
                raise
            told = str(error).removeprefix(name)
            told = told if told.startswith(" ") else f": {error}"
            raise _error(self.path, f"[{homes[0]}] {name}{told}") from error


def read_config_file(path: Path) -> ConfigFile:
    """Read settings from a TOML file; a path in it is seen from where the command is called.

    Raises:
        SettingError: It is no TOML, or a section, a key or a value is none; the message is one line
            that names file and key, and the closest that there is.
        OSError: It cannot be read.
    """
    import tomllib  # --help does without

    try:
        values = tomllib.loads(path.read_text("utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise _error(path, f"is no TOML ({first_line(error)}).") from error
    preset = values.pop(_PRESET, None)
    if preset is not None and preset not in PRESETS:
        raise _error(path, f"unknown preset {preset!r}{suggestion(str(preset), PRESETS)}")
    found: dict[str, dict[str, Any]] = {}
    for name, section in values.items():
        if name not in _ALL_SECTIONS or not isinstance(section, dict):
            raise _error(path, _unknown_section(name, section))
        for key, value in section.items():
            if key not in rules(_ALL_SECTIONS[name]):
                raise _error(path, _unknown_key(name, key))
            _check(path, name, key, value)
        found[name] = section
    reporting = found.pop("reporting", {})
    settings = {key: value for section in found.values() for key, value in section.items()}
    return ConfigFile(path, preset, settings, reporting)


def _check(path: Path, section: str, key: str, value: object) -> None:
    """Raise SettingError, which names the file, if a value is of another type or out of range."""
    declared, _ = rules(_ALL_SECTIONS[section])[key]
    if declared.type not in (int, float, bool) and not isinstance(value, str):
        raise _error(path, f"[{section}] {key} must be text, got {value!r}.")
    try:
        check_value(_ALL_SECTIONS[section], key, value)
    except SettingError as error:
        raise _error(path, f"[{section}] {error}") from error


def _unknown_section(name: str, value: object) -> str:
    """Say what a name at the top of the file, which is no section there, was meant to be."""
    for section, settings in _ALL_SECTIONS.items():
        if name in rules(settings) and not isinstance(value, dict):
            return f"{name} belongs under [{section}]."
    if name in _ALL_SECTIONS:
        return f"{name} is a section: write [{name}] and its keys below."
    return f"unknown section {name!r}{suggestion(name, [*_ALL_SECTIONS, _PRESET])}"


def _unknown_key(section: str, key: str) -> str:
    """Say what an unknown key was meant to be: the closest one of all sections."""
    homes = {name: home for home, settings in _ALL_SECTIONS.items() for name in rules(settings)}
    if key in homes:
        return f"{section}.{key} is unknown; it belongs under [{homes[key]}]."
    own = difflib.get_close_matches(key, rules(_ALL_SECTIONS[section]), n=1, cutoff=0.5)
    close = own or difflib.get_close_matches(key, homes, n=1, cutoff=0.5)
    hint = f"; did you mean {homes[close[0]]}.{close[0]}?" if close else ""
    known = f" (known: {', '.join(rules(_ALL_SECTIONS[section]))})" if not close else ""
    return f"unknown key {section}.{key}{hint}{known}"


def _error(path: Path, reason: str) -> SettingError:
    return SettingError("config", f"{path}: {reason}")
