"""The folder of a training run: whose it is, its settings and its log."""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from repa.errors import CheckpointFormatError, InUseError, OutputExistsError
from repa.training.settings import TrainConfig
from repa_base.files import write_text
from repa_base.locks import lock_if_free

_CONFIG, _LOCK = "config.json", "run.lock"


def read_run_config(out: Path) -> TrainConfig | None:
    """Return the settings of the run in a folder, or None when it holds no run.

    Raises:
        CheckpointFormatError: The settings are damaged.
        RepaError: They are of another version of the toolkit.
    """
    path = out / _CONFIG
    if not path.exists():
        return None
    try:
        values = json.loads(path.read_text())
        return TrainConfig.from_mapping(values)
    except (ValueError, TypeError, AttributeError) as error:
        raise CheckpointFormatError(f"{path}: holds no settings ({error}).") from error


def check_run_folder(config: TrainConfig, out: Path, *, resume: bool) -> None:
    """Find out, writing nothing, whether a run of these settings may use a folder.

    Raises:
        OutputExistsError: It holds a run and `resume` is False, a run of other settings, or
            something else.
    """
    stored = read_run_config(out)
    if stored is None:
        if out.is_file() or (out.is_dir() and any(p.name != _LOCK for p in out.iterdir())):
            raise OutputExistsError(f"{out} is not empty and holds no run: use another --out.")
        return
    if not resume:
        raise OutputExistsError(f"{out} holds a run already: add --resume, or another --out.")
    # A longer run is another run only where the end decides the learning rate before it.
    free = () if config.decay_steps else ("num_steps",)
    before = asdict(stored)
    other = [k for k, v in asdict(config).items() if before[k] != v and k not in free]
    if other:
        raise OutputExistsError(
            f"{out} was started with other settings ({', '.join(other)}): use another --out."
        )


def write_run_config(config: TrainConfig, out: Path) -> None:
    """Write the settings, whole or not at all; the folder is a run's from then on."""
    write_text(out / _CONFIG, config.to_json())


@contextmanager
def locked(out: Path) -> Iterator[None]:
    """Make the folder if need be, and keep other processes from training in it.

    Raises:
        OutputExistsError: Another process does already.
        OSError: The folder cannot be made.
    """
    out.mkdir(parents=True, exist_ok=True)
    with (out / _LOCK).open("w") as lock:
        if lock_if_free(lock.fileno(), out) is False:
            raise InUseError(f"{out}: another process trains in it.")
        yield


class Log:
    """A file of JSON lines, one an entry; entries after the step resumed from are dropped."""

    def __init__(self, path: Path, step: int) -> None:
        self._path = path
        self._since, self._step = time.monotonic(), step
        lines = path.read_text().splitlines(keepends=True) if path.exists() else []
        kept = [line for line in lines if _is_entry_until(line, step)]
        if kept != lines:
            write_text(path, "".join(kept))

    def write(self, step: int, losses: dict[str, float]) -> None:
        """Add an entry with the rate since the entry before."""
        now = time.monotonic()
        rate = (step - self._step) / max(now - self._since, 1e-9)
        self._since, self._step = now, step
        entry = {"step": step, **losses, "steps_per_second": round(rate, 3)}
        with self._path.open("a") as file:
            file.write(json.dumps(entry) + "\n")


def _is_entry_until(line: str, step: int) -> bool:
    """Whether a line is a complete entry of at most this step; a kill can leave half of one."""
    try:
        return line.endswith("\n") and json.loads(line)["step"] <= step
    except (ValueError, TypeError, KeyError):
        return False
