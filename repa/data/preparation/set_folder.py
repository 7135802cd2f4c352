"""The folder of a set in the making: may it be written, is there room, what an earlier run left.

Nothing is made or removed before all that can be known has been looked at; `begin` alone removes.
"""

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from itertools import takewhile
from pathlib import Path
from typing import Any

from repa.data.preparation.plan import Plan, total_bytes, without_place
from repa.data.preparation.set_writer import begin_files, read_header
from repa.data.preparation.settings import PrepareConfig
from repa.data.prepared_set import (
    CHECKSUMS,
    INSPECTION,
    MANIFEST,
    PROGRESS,
    is_prepared,
    open_prepared,
)
from repa.data.row_files import HELD_OUT, Layout
from repa.errors import OutputExistsError
from repa_base.files import check_room, existing_folder, is_full
from repa_base.in_place.marks_file import lock_marks
from repa_base.processes import Processes, at_first
from repa_base.workplace import remove_leftovers

_LOCK = "prepare.lock"
_OURS = (MANIFEST, PROGRESS, INSPECTION, _LOCK)
_MADE = (MANIFEST, PROGRESS, CHECKSUMS, "images.zip", "held-out.zip", "moments*.npy")
_MADE += ("features/*.npy", "features-flipped/*.npy", f"{HELD_OUT}-*.npz")
_FOR_THE_FIRST = ("batch_size",)  # of a manifest: what belongs to the run that began
_OF_THE_IMAGES = ("content", "labels", "count", "sizes", "converted", "skipped")
_OF_THE_CLASSES = ("num_classes", "class_names")
_MOST_LETTERS, _LETTERS_BEFORE = 70, 20  # of values in a message; a SHA-256 has 64
_REMEDY = "use --overwrite to begin anew, or another --out"


def check_place(config: PrepareConfig) -> None:
    """Find out whether a set may be written where it is to be; makes nothing.

    Raises:
        OutputExistsError: It is a file, holds other files, or lies in the source or around it.
    """
    out, source = config.out, config.source
    if out.exists() and not out.is_dir():
        raise OutputExistsError(f"{out} is a file; use another --out.")
    real, origin = out.resolve(), source.resolve()
    if real.is_relative_to(origin) or origin.is_relative_to(real):
        raise OutputExistsError(f"{out} and {source} lie in one another; use another --out.")
    names = [path.name for path in out.iterdir()] if out.exists() else []
    if names and not any(name in _OURS for name in names):
        raise OutputExistsError(f"{out} holds other files ({min(names)}); use another --out.")


def earlier(config: PrepareConfig, ours: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Return the manifest of the set that is there, finished or not; None if it begins anew.

    Args:
        config: What is prepared, and whether it begins anew whatever is there.
        ours: Its manifest, or what is known of it so far.

    Raises:
        OutputExistsError: What is there is of other settings or images.
        DataError: It is damaged, by its manifest, the sizes of its files, its checksums or labels;
            rows are not read.
    """
    if config.overwrite:
        return None
    out, finished = config.out, is_prepared(config.out)
    theirs = open_prepared(out).manifest if finished else read_header(out)
    other = difference(theirs, ours, finished=finished) if theirs else None
    if other is not None:
        state = "" if finished else "is unfinished and "
        raise OutputExistsError(f"{out} {state}{other}; {_REMEDY}.")
    return theirs


def difference(theirs: Mapping[str, Any], ours: Mapping[str, Any], *, finished: bool) -> str | None:
    """Say what makes two manifests tell of other rows; None if nothing in `ours` does.

    What belongs to the run that began is not compared, nor are the autoencoder's name and place, or
    versions where all is finished.
    """
    ignored = {*_FOR_THE_FIRST, *(["versions"] if finished else [])}
    for name in ours:
        if name in ignored:
            continue
        one, other = (_compared(name, manifest.get(name)) for manifest in (theirs, ours))
        if one != other:
            if name in _OF_THE_IMAGES:
                return "is of other images: the source has changed"
            if name in _OF_THE_CLASSES:
                return "is of other classes: the source has changed"
            if None in (one, other):
                one, other = (_named(manifest.get(name)) for manifest in (theirs, ours))
            return _told(name, one, other)
    return None


def check_set_room(out: Path, layout: Layout) -> None:
    """Find out whether there is room for a set that begins anew, in the place of what is there.

    Raises:
        OSError: There is none; the message gives the sizes.
    """
    replaced = sum(512 * path.lstat().st_blocks for path in _made(out))
    what = "beyond what it replaces, the prepared set needs" if replaced else None
    size = total_bytes(layout) - replaced
    check_room(size, disk_of(out), what=what or "the prepared set needs")


def disk_of(out: Path) -> Path:
    """Return the folder of a set, or the one that it will be made in."""
    return out if out.is_dir() else existing_folder(out)


def begin(config: PrepareConfig, plan: Plan) -> Mapping[str, Any] | None:
    """Begin the files, or go on with them; return the manifest of the run that began them.

    It is None of a set that is finished. What is there is removed where it begins anew, as far as
    a preparation has made it, and if there is room.

    Raises:
        OutputExistsError: What is there is of other settings or images; see also `earlier`.
        OSError: There is no room.
    """
    out, theirs = config.out, earlier(config, plan.manifest)
    if theirs is None:
        check_set_room(out, plan.layout)
        _remove_made(out)
    elif is_prepared(out):
        return None
    plan = replace(plan, manifest=theirs or plan.manifest)
    with naming_the_way_on(config):
        begin_files(out, plan)
    return plan.manifest


def forget_inspection(out: Path) -> None:
    """Remove what was seen of the source's files."""
    (out / INSPECTION).unlink(missing_ok=True)


@contextmanager
def naming_the_way_on(config: PrepareConfig) -> Iterator[None]:
    """Say of a full disk how to go on."""
    try:
        yield
    except OSError as error:
        if not is_full(error):
            raise
        reason = f"{error.strerror}; make room and {_again(config)}: what is done stays"
        raise OSError(error.errno, reason, error.filename) from error


def way_on(config: PrepareConfig) -> str:
    """Say what an interrupted preparation has left, and how it goes on."""
    if is_prepared(config.out):
        return f"{config.out} is still the set that was there before."
    return f"{config.out} keeps what is done; {_again(config)} to go on."


def _again(config: PrepareConfig) -> str:
    return "repeat the command" + " without --overwrite" * config.overwrite


@contextmanager
def locked(out: Path, processes: Processes) -> Iterator[None]:
    """Hold the set's lock, by the first process, for the block; leave nothing in a finished set."""
    held: list[int] = []
    at_first(processes, lambda: held.append(_lock(out)))
    try:
        yield
    finally:
        for descriptor in held:
            if is_prepared(out):
                remove_leftovers(out)  # of kills
                for name in (PROGRESS, INSPECTION, _LOCK):
                    (out / name).unlink(missing_ok=True)
            os.close(descriptor)


def _lock(out: Path) -> int:
    out.mkdir(parents=True, exist_ok=True)
    return lock_marks(out / _LOCK, out)


def _made(out: Path) -> list[Path]:
    """Return the files that an earlier preparation has made, its manifest first."""
    return [path for pattern in _MADE for path in out.glob(pattern)]


def _remove_made(out: Path) -> None:
    for path in _made(out):
        path.unlink()
    for name in ("features", "features-flipped"):
        with suppress(OSError):
            (out / name).rmdir()


def _compared(name: str, value: Any) -> Any:  # noqa: ANN401
    """Return what is compared of a part of a manifest."""
    if name == "held_out":  # the count follows, and a finished set tells of its reference too
        return value and {key: value.get(key) for key in ("amount", "rule")}
    return without_place(value) if name == "autoencoder" else value


def _named(value: Any) -> Any:  # noqa: ANN401
    """Return what stands for an autoencoder, or for what is held out."""
    return value.get("name", value.get("amount")) if isinstance(value, dict) else value


def _told(name: str, one: Any, other: Any) -> str:  # noqa: ANN401
    """Say how two values differ: of mappings with the same keys, the first that differs."""
    if name == "encoders":
        one, other = ({each["name"]: each for each in value or ()} for value in (one, other))
    if isinstance(one, dict) and isinstance(other, dict) and list(one) == list(other):
        key = next(key for key in other if one[key] != other[key])
        return _told(f"{name} {key}", one[key], other[key])
    here, there = map(_text, (one, other))
    if max(len(here), len(there)) > _MOST_LETTERS:
        same = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(here, there)))  # noqa: B905
        here, there = (_cut(text, max(0, same - _LETTERS_BEFORE)) for text in (here, there))
    return f"has {name.replace('_', ' ')} {here}, not {there}"


def _text(value: object) -> str:
    if value is None or value == {}:
        return "none"
    if isinstance(value, dict) and all(isinstance(each, dict) for each in value.values()):
        return ", ".join(value)
    return value if isinstance(value, str) else json.dumps(value)


def _cut(text: str, start: int) -> str:
    end = start + _MOST_LETTERS
    return "... " * (start > 0) + text[start:end] + " ..." * (end < len(text))
