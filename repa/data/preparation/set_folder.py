"""The folder of a set in the making: may it be written, is there room, what an earlier run left.

Nothing is made or removed before all that can be known has been looked at; `begin` alone removes.
"""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from repa.data.preparation.plan import Plan, difference, total_bytes
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
        again = "repeat the command" + " without --overwrite" * config.overwrite
        reason = f"{error.strerror}; make room and {again}: what is done stays"
        raise OSError(error.errno, reason, error.filename) from error


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
