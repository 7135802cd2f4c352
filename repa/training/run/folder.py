"""The folder of a training run: whose it is, its settings and their history, log, checkpoints.

`repa.training.loop` lists its files. A line of history.jsonl stands for each time that the run went
on otherwise: {"from_step": 1001, "changed": {"learning_rate": [0.001, 0.0005]}, "skip": [1234]}
A line with "instead_of": 2000 went back, from a run that had come to that step; settings and steps
left out are those of the lines before it. Until its later checkpoints are set aside that line does
not count, and whoever opens the run first goes back. config.json and each line hold a checksum of
themselves, and config.json the number of lines that count, "draws", the format of the random draws,
and, of data that can change, "data_set": how many images and classes they have, the names of those,
the SHA-256 of the weights of encoders whose features they hold, and "identity", a hash of all.
"""

import json
import re
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from repa.errors import (
    CheckpointFormatError,
    InUseError,
    OutputExistsError,
    RepaError,
    SettingError,
)
from repa.training.batch import DRAWS
from repa.training.run.state import step_of
from repa.training.settings import CHANGEABLE, TrainConfig
from repa_base.checksums import parse_json, sealed, unsealed
from repa_base.files import append_text, write_text
from repa_base.locks import lock_if_free
from repa_base.workplace import is_workplace, remove_leftovers

REPORTING = "reporting.json"
"""See `repa.training.run.milestones`; written before what makes the folder a run's."""

_CONFIG, _HISTORY, _LOCK = "config.json", "history.jsonl", "run.lock"
_LINES, _DATA, _DRAWS = "history_lines", "data_set", "draws"  # in config.json, beside the settings
_BEFORE = (_LOCK, REPORTING)  # what may stand in a folder that is no run's yet
_CHECKPOINT = re.compile(r"step-\d{7,}")
_SET_ASIDE = "set-aside"
_TOLD = ("count", "num_classes", "image_size", "latent_space", "encoders")
"""Of what is remembered of data, that which says how they differ."""


def read_run_config(out: Path) -> TrainConfig | None:
    """Return the settings of the run in a folder, or None when it holds no run.

    Raises:
        CheckpointFormatError: The settings are damaged, or of another version of the toolkit.
    """
    return _read_config(out).config


def check_run_folder(config: TrainConfig, out: Path, *, resume: bool) -> TrainConfig | None:
    """Find out, writing nothing, whether a run of these settings may use a folder.

    Returns:
        The settings of the run that it holds, or None.

    Raises:
        OutputExistsError: It holds a run and `resume` is False, a run of another network, of other
            data or draws, or something else.
    """
    found = _read_config(out)
    stored = found.config
    if stored is None:
        found = out.iterdir() if out.is_dir() else ()
        if out.is_file() or any(p.name not in _BEFORE and not is_workplace(p) for p in found):
            raise OutputExistsError(f"{out} is not empty and holds no run: use another --out.")
        return None
    if not resume:
        raise OutputExistsError(f"{out} holds a run already: add --resume, or another --out.")
    if found.draws != DRAWS:
        raise OutputExistsError(
            f"{out} holds a run whose random draws are of format {found.draws}, and this version "
            f"makes those of format {DRAWS}: finish it with the version that began it, or start "
            "from its weights with --init and another --out."
        )
    if other := ", ".join(n for n in changes(stored, config) if n not in CHANGEABLE):
        reason = f"was started with other settings ({other})"
        raise OutputExistsError(f"{out} {reason}: use another --out.")
    return stored


def record_settings(
    out: Path,
    config: TrainConfig,
    *,
    before: TrainConfig | None,
    step: int,
    skip: Iterable[int],
    instead_of: int | None = None,
    later: Iterable[Path] = (),
    data: Mapping[str, Any] | None = None,
) -> tuple[frozenset[int], list[str]]:
    """Write settings and history; the folder is a run's from then on.

    Its settings were `before` until now, None at the start of a run, and it has taken `step` steps;
    `skip` are numbers of steps, from 1, whose update is to be left out, `instead_of` is the step
    that the run goes back from, if it does, and `later` are its checkpoints of steps to be taken
    anew, which are set aside. `data` is what the run remembers of its data.

    Returns:
        All steps whose update is left out, earlier ones included, and what is new in words.

    Raises:
        SettingError: See `check_steps`, here and for CheckpointFormatError.
    """
    history, recorded, new = check_steps(out, config, step, skip)
    changed = changes(before or config, config)
    _write_config(out, before or config, len(history), data)  # first of all, it is a run's folder
    if changed or new or instead_of is not None:
        entry = {"from_step": step + 1, "changed": changed, "skip": new}
        if instead_of is not None:
            entry["instead_of"] = instead_of
        history.append(entry)
        # Before the new settings: no change holds that is not recorded. One that is recorded holds
        # once config.json counts its line; until then going back is under way.
        write_text(out / _HISTORY, "".join(json.dumps(sealed(e)) + "\n" for e in history))
    set_aside(out, later)
    _write_config(out, config, len(history), data)
    notes = [f"{name} {old} -> {now}" for name, (old, now) in changed.items()]
    notes += [f"without the update of step {number}" for number in new]
    return recorded | set(new), notes


def check_steps(
    out: Path, config: TrainConfig, step: int, skip: Iterable[int]
) -> tuple[list[dict[str, Any]], frozenset[int], list[int]]:
    """Check what a run that has taken `step` steps is to do by its history and what is asked now.

    Returns:
        The lines of its history that count, the steps that they leave out, and those of `skip` that
        are new.

    Raises:
        SettingError: The run is past its last step, or a step to be left out is not to come.
        CheckpointFormatError: The history is damaged.
    """
    if config.num_steps < step:
        rule = f"num_steps must be at least {step}, the steps that the run has taken"
        raise SettingError("num_steps", f"{rule}, got {config.num_steps}.")
    history, _ = _read_history(out)
    recorded = frozenset(number for entry in history for number in entry["skip"])
    new = sorted(set(skip) - recorded)
    for number in new:
        if not step < number <= config.num_steps:
            rule = f"only steps after {step} and up to {config.num_steps}"
            raise SettingError("skip", f"step {number} cannot be left out, {rule}.")
    return history, recorded, new


def return_under_way(out: Path) -> tuple[int, int] | None:
    """Return the steps that a run was going back to, and from, when a kill came; None otherwise.

    Not all of its later checkpoints may be set aside by then.
    """
    _, others = _read_history(out)
    going = [e for e in others if "instead_of" in e]
    return (going[-1]["from_step"] - 1, going[-1]["instead_of"]) if going else None


def check_data(out: Path, data: Mapping[str, Any] | None, name: str) -> None:
    """Find out whether the data, called `name`, are those that the run in a folder began with.

    Raises:
        OutputExistsError: They are not; the message says what differs.
    """
    if read_run_config(out) is None:
        return
    before, now = _read_config(out).data or {}, data or {}
    if before.get("identity") == now.get("identity"):
        return
    parts = [f"{key} {before.get(key)}, now {now.get(key)}" for key in _TOLD]
    told = [part for part, key in zip(parts, _TOLD, strict=True) if before.get(key) != now.get(key)]
    weights = [each.get("encoder_weights") or {} for each in (before, now)]
    told += [
        f"features of {name} by weights of SHA-256 {str(sha256)[:12]}, now {str(other)[:12]}"
        for name, sha256 in weights[0].items()
        if (other := weights[1].get(name, sha256)) != sha256
    ]
    raise OutputExistsError(
        f"{out} was trained on other data than {name} holds by now "
        f"({'; '.join(told) or 'of other content'}): put them back, or use another --out."
    )


@contextmanager
def locked(out: Path) -> Iterator[None]:
    """Make the folder if need be, and keep other processes from training in it.

    What a killed process left of its files and checkpoints is removed.

    Raises:
        OutputExistsError: Another process does already.
        OSError: The folder cannot be made.
    """
    out.mkdir(parents=True, exist_ok=True)
    with (out / _LOCK).open("w") as lock:
        if lock_if_free(lock.fileno(), out) is False:
            raise InUseError(f"{out}: another process trains in it.")
        remove_leftovers(out)
        remove_leftovers(out / "checkpoints")
        yield


def checkpoints_of(out: Path) -> list[Path]:
    """Return a run's checkpoints, the latest first."""
    return checkpoints_in(out / "checkpoints")


def checkpoints_in(folder: Path) -> list[Path]:
    """Return the checkpoints in a folder of them, the latest first."""
    found = [(step_of(p), p) for p in folder.glob("step-*") if _CHECKPOINT.fullmatch(p.name)]
    return [path for _, path in sorted(found, reverse=True)]


def set_aside(out: Path, checkpoints: Iterable[Path]) -> None:
    """Move checkpoints of a run where they count no more; what stands there already goes."""
    for path in checkpoints:
        target = out / _SET_ASIDE / path.name
        if target.exists():
            shutil.rmtree(target)
        target.parent.mkdir(exist_ok=True)
        path.rename(target)


class Log:
    """A file of JSON lines, one an entry.

    Entries after the step resumed from are dropped, and so is what is no entry. `at_start` are the
    keys that entries of that step have.
    """

    def __init__(self, path: Path, step: int) -> None:
        self._path = path
        self._since, self._step = time.monotonic(), step
        text = path.read_text("utf-8", errors="replace") if path.exists() else ""
        lines = text.splitlines(keepends=True)
        kept = [line for line in lines if _is_entry_until(line, step)]
        if kept != lines:
            write_text(path, "".join(kept))
        entries = [parse_json(line) for line in kept]
        self.at_start = {key for entry in entries if entry["step"] == step for key in entry}

    def leave_out(self, seconds: float) -> None:
        """Do not count a time among that of the steps."""
        self._since += seconds

    def write(self, step: int, values: Mapping[str, Any]) -> None:
        """Add an entry of a step."""
        append_text(self._path, json.dumps({"step": step, **values}) + "\n")

    def write_step(self, step: int, measured: Mapping[str, Any]) -> None:
        """Add an entry of what a step measured, with the steps a second since the one before."""
        now = time.monotonic()
        rate = (step - self._step) / max(now - self._since, 1e-9)
        self._since, self._step = now, step
        self.write(step, {**measured, "steps_per_second": round(rate, 3)})


def changes(before: TrainConfig, after: TrainConfig) -> dict[str, tuple[object, object]]:
    """Return the settings that differ, by name: what they were, and what they are."""
    old, new = asdict(before), asdict(after)
    return {name: (old[name], new[name]) for name in new if old[name] != new[name]}


@dataclass(frozen=True)
class _Stored:
    """What config.json holds: nothing, or settings, lines of history that count, and the rest.

    None of the lines is all of them; of the data, that they are fixed.
    """

    config: TrainConfig | None = None
    lines: int | None = None
    data: dict[str, Any] | None = None
    draws: int = 1


def _read_config(out: Path) -> _Stored:
    path = out / _CONFIG
    if not path.exists():
        return _Stored()
    try:
        values = unsealed(parse_json(path.read_text("utf-8")))
        lines, data = values.pop(_LINES, None), values.pop(_DATA, None)
        draws = values.pop(_DRAWS, 1)
        if not isinstance(data, dict | None):
            raise ValueError(f"{_DATA} is no JSON object")
        return _Stored(TrainConfig.from_mapping(values), lines, data, draws)
    except (RepaError, ValueError, TypeError, AttributeError) as error:
        what = f'holds no settings ({error}); those of a checkpoint are "config" in its state.json'
        raise CheckpointFormatError(f"{path}: {what}.") from error


def _write_config(
    out: Path, config: TrainConfig, num_lines: int, data: Mapping[str, Any] | None
) -> None:
    known = {} if data is None else {_DATA: data}
    record = sealed({**config.sections(), **known, _DRAWS: DRAWS, _LINES: num_lines})
    write_text(out / _CONFIG, json.dumps(record, indent=2) + "\n")


def _read_history(out: Path) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return the entries that count, and what a kill can leave: one of settings that never held."""
    path, count = out / _HISTORY, _read_config(out).lines
    try:
        lines = path.read_text("utf-8").splitlines() if path.exists() else []
        entries = [unsealed(parse_json(line)) for line in lines]
        if count is not None and len(entries) < count:
            raise ValueError(f"{len(entries)} of {count} lines are left")
        numbers = [number for entry in entries for number in entry["skip"]]
        if not all(type(number) is int for number in numbers):
            raise ValueError("a step to be left out is no number")
    except (ValueError, TypeError, KeyError) as error:
        raise CheckpointFormatError(f"{path}: is damaged ({error}).") from error
    count = len(entries) if count is None else count
    return entries[:count], entries[count:]


def _is_entry_until(line: str, step: int) -> bool:
    """Whether a line is a complete entry of at most this step; a kill can leave half of one."""
    try:
        return line.endswith("\n") and parse_json(line)["step"] <= step
    except (ValueError, TypeError, KeyError):
        return False
