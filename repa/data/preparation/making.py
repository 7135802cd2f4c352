"""Prepare a set: one call for all that `repa prepare` does.

The folder of the set holds, while it is made, three more files: `prepare.lock`,
`prepare.inspection` and `prepare.progress`. A killed preparation goes on by repeating it, with any
number of processes, and ends with the same bytes. prepared.json, without which a folder is no
prepared set, is written last.
"""

import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from repa.data.image_set import ImageSet
from repa.data.preparation.encoding import Networks
from repa.data.preparation.inspection import broken_error, inspect
from repa.data.preparation.pipeline import StageTimes, fill
from repa.data.preparation.plan import (
    Plan,
    described,
    difference,
    make_plan,
    notes_of,
    total_bytes,
)
from repa.data.preparation.set_writer import attach_writer, begin_files, read_header
from repa.data.preparation.settings import PrepareConfig
from repa.data.prepared_set import (
    CHECKSUMS,
    INSPECTION,
    MANIFEST,
    PROGRESS,
    is_prepared,
    read_manifest,
)
from repa.data.row_files import HELD_OUT, Layout
from repa.data.sources import open_source
from repa.errors import ChecksumError, DataError, OutputExistsError
from repa_base.checksums import file_sha256, sealed
from repa_base.files import check_room, is_full, replacing, size_text, write_text
from repa_base.in_place.marks_file import lock_marks
from repa_base.processes import Processes, all_values, at_first, attempt, together
from repa_base.progress import Progress, Steps
from repa_base.workplace import remove_leftovers

MakeReference = Callable[[Path], Mapping[str, Any]]
"""Makes the reference of the held-out images in the folder of a set; returns what the manifest says
of it, its `file` among it. Every process calls it."""

_LOCK = "prepare.lock"
_OURS = (MANIFEST, PROGRESS, INSPECTION, _LOCK)
_MADE = (MANIFEST, PROGRESS, INSPECTION, CHECKSUMS, "images.zip", "held-out.zip", "moments*.npy")
_MADE += ("features/*.npy", "features-flipped/*.npy", f"{HELD_OUT}-*.npz")
_ATTEMPTS = 4  # to write what the disk keeps
_REMEDY = "use --overwrite to begin anew, or another --out"


@dataclass(frozen=True)
class Prepared:
    """A prepared set, and how it came to be.

    Attributes:
        folder: The set.
        manifest: What it says of itself.
        was_finished: Whether it was complete before, with the same settings.
        num_made: Images that were made, by all processes.
        seconds: Time that it took for them.
        busy: Share of that time in which each stage of this process was at work.
    """

    folder: Path
    manifest: Mapping[str, Any]
    was_finished: bool = False
    num_made: int = 0
    seconds: float = 0.0
    busy: Mapping[str, float] | None = None


def prepare(
    config: PrepareConfig,
    *,
    processes: Processes | None = None,
    progress: Progress | None = None,
    on_note: Callable[[str], object] | None = None,
    make_reference: MakeReference | None = None,
) -> Prepared:
    """Prepare the images of a source, or go on with a preparation that was interrupted.

    Args:
        config: What is prepared.
        processes: Those that share the work, each calling this; all return when it is complete.
        progress: Called with what is done ("inspecting", "preparing", "verifying"), how many of the
            images, and how many there are: of this process, as a share of all.
        on_note: Is told at the first process, in one line for a person, what is large, converted,
            left out or made again.
        make_reference: Makes the reference of held-out images, if some are.

    Raises:
        DataError: The source cannot be used, files of it cannot be or have changed; the message
            names them.
        OutputExistsError: The folder holds other files, or a set of other settings or images, or
            another process is at work on it (InUseError).
        SettingError: A setting does not suit a network.
        OSError: The disk has no room; what is done stays.
        ChecksumError: The disk does not keep what is written.
    """
    processes = processes or Processes()
    first = processes.is_first
    note = on_note if on_note and first else lambda text: None
    report = progress or (lambda name, done, total: None)
    with together(processes):
        source = open_source(config.source)
        networks = Networks.load(config, processes.device(config.device))
        if first:
            _check_folder(config)
            _announce(config, source, networks, note)
    with _locked(config.out, processes):
        if config.overwrite:
            at_first(processes, (config.out / INSPECTION).unlink) if _has(config, processes) else 0
        inspection = inspect(
            source,
            config.out,
            processes,
            num_threads=_num_threads(config, processes),
            progress=_scaled(report, "inspecting", source.count),
            on_note=note,
        )
        if inspection.broken and not config.skip_broken:
            raise broken_error(source, inspection.broken)
        plan = make_plan(config, source, inspection, networks)
        batch_size = at_first(processes, lambda: _begin(config, plan))
        if batch_size is None:
            return Prepared(config.out, read_manifest(config.out), was_finished=True)
        plan = replace(plan, manifest={**plan.manifest, "batch_size": batch_size})
        _describe(config, plan, inspection.broken, note)
        return _Making(config, plan, networks, processes, report, note).run(make_reference)


@dataclass(frozen=True)
class _Making:
    config: PrepareConfig
    plan: Plan
    networks: Networks
    processes: Processes
    report: Progress
    note: Callable[[str], object]

    def run(self, make_reference: MakeReference | None) -> Prepared:
        made, seconds, busy = 0, 0.0, {}
        for _ in range(_ATTEMPTS):
            start = time.monotonic()
            times = self._fill()
            rows = self.processes.share(sum(self.processes.gather(times.num_rows)))
            if rows > made:
                made, seconds, busy = rows, time.monotonic() - start, times.busy()
            files, damaged = self._complete()
            if not damaged:
                manifest = self._finish(files, make_reference)
                return Prepared(self.config.out, manifest, False, made, seconds, busy)
            self.note(f"damaged on disk: {damaged} rows; making them again.")
        reason = f"does not keep what is written, after {_ATTEMPTS} attempts"
        raise ChecksumError(f"{self.config.out} {reason}: use another disk (--out).")

    def _fill(self) -> StageTimes:
        blocks = self.plan.blocks()[self.processes.rank :: self.processes.size]
        steps = _scaled(self.report, "preparing", self.plan.num_rows)
        threads = _num_threads(self.config, self.processes)
        with (
            _naming_the_way_on(),
            together(self.processes),
            attach_writer(self.config.out, self.plan) as writer,
        ):
            return fill(
                self.plan, writer, self.networks, blocks, num_threads=threads, progress=steps
            )

    def _complete(self) -> tuple[dict[str, Any], int]:
        """Verify the files, each process some of them; return what they are, and the damage."""
        processes = self.processes
        own = list(self.plan.layout.all_files)[processes.rank :: processes.size]
        outcome = attempt(partial(self._verify, own))
        found = list(all_values(processes.gather(outcome)))
        files = {name: file for part, _ in found for name, file in part.items()}
        return processes.share((files, sum(damaged for _, damaged in found)))

    def _verify(self, keys: list[str]) -> tuple[dict[str, Any], int]:
        files, damage = {}, 0
        layout = self.plan.layout.all_files
        total = sum(layout[key].count for key in keys)
        done = 0
        with attach_writer(self.config.out, self.plan) as writer:
            for key in keys:
                before = done
                steps = lambda n, _, before=before: self.report(  # noqa: E731
                    "verifying", before + n, total
                )
                files[layout[key].name], damaged = writer.complete(key, steps)
                damage += damaged
                done += layout[key].count
        return files, damage

    def _finish(
        self, files: dict[str, Any], make_reference: MakeReference | None
    ) -> Mapping[str, Any]:
        out, plan = self.config.out, self.plan
        at_first(self.processes, self._write_checksums)
        held_out = plan.manifest["held_out"]
        if held_out and make_reference:
            held_out = {**held_out, **make_reference(out)}

        def write() -> Mapping[str, Any]:
            names = [CHECKSUMS, *([held_out["file"]] if held_out and "file" in held_out else [])]
            others = {
                name: {"size": (out / name).stat().st_size, "sha256": file_sha256(out / name)}
                for name in names
            }
            manifest = {**plan.manifest, "held_out": held_out, "files": {**files, **others}}
            text = json.dumps(manifest, sort_keys=True)
            manifest["identity"] = hashlib.sha256(text.encode()).hexdigest()
            write_text(out / MANIFEST, json.dumps(sealed(manifest), indent=1) + "\n")
            return manifest

        return at_first(self.processes, write)

    def _write_checksums(self) -> None:
        out = self.config.out
        with attach_writer(out, self.plan) as writer:
            found = {key: writer.checksums(key) for key in self.plan.layout.all_files}
        with replacing(out / CHECKSUMS) as partial_path, partial_path.open("wb") as stream:
            np.savez(stream, **found)  # pyright: ignore[reportArgumentType]


def _check_folder(config: PrepareConfig) -> None:
    """Find out whether the set may be written where it is to be; make its folder."""
    out, source = config.out, config.source
    if out.exists() and not out.is_dir():
        raise OutputExistsError(f"{out} is a file; use another --out.")
    real, origin = out.resolve(), source.resolve()
    if real.is_relative_to(origin) or origin.is_relative_to(real):
        raise OutputExistsError(f"{out} and {source} lie in one another; use another --out.")
    out.mkdir(parents=True, exist_ok=True)
    names = [path.name for path in out.iterdir()]
    if names and not any(name in _OURS for name in names):
        raise OutputExistsError(f"{out} holds other files ({min(names)}); use another --out.")


def _announce(
    config: PrepareConfig, source: ImageSet, networks: Networks, note: Callable[[str], object]
) -> None:
    """Say how large the set will be, and find out whether there is room, before any work."""
    layout = Layout(
        image_size=config.image_size,
        count=source.count,
        labels=None,
        moments_shape=networks.moments_shape,
        features=networks.features,
        flip=config.flip,
    )
    from metrics.images.picture_files import described_not_taken

    if source.not_taken:
        note(f"{described_not_taken(source.not_taken)}.")
    classes = f" in {source.num_classes:,} classes" if source.labels is not None else ""
    size = f"{config.image_size} x {config.image_size}"
    free = size_text(shutil.disk_usage(config.out).free)
    note(
        f"{source.name}: {source.count:,} pictures{classes} to {size} pixels make "
        f"{described(layout)}; {free} are free."
    )
    if not any((config.out / name).exists() for name in (MANIFEST, PROGRESS)):
        check_room(total_bytes(layout), config.out, what="the prepared set needs")


def _begin(config: PrepareConfig, plan: Plan) -> int | None:
    """Begin the files, or go on with them; return the size of the run's blocks, None if finished.

    Raises:
        OutputExistsError: What is there is of other settings or images.
    """
    out = config.out
    try:
        if is_prepared(out):
            other = difference(read_manifest(out), plan.manifest, finished=True)
            if other is None:
                return None
            raise OutputExistsError(f"{out} {other}; {_REMEDY}.")
        theirs = read_header(out)
        other = difference(theirs, plan.manifest, finished=False) if theirs else None
        if other is not None:
            raise OutputExistsError(f"{out} is unfinished and {other}; {_REMEDY}.")
    except (OutputExistsError, DataError):
        if not config.overwrite:
            raise
        _remove_made(out)
        theirs = None
    if theirs:
        plan = replace(plan, manifest={**plan.manifest, "batch_size": theirs["batch_size"]})
    begin_files(out, plan)
    return plan.manifest["batch_size"]


def _remove_made(out: Path) -> None:
    """Remove what an earlier preparation has made, its manifest first."""
    for pattern in _MADE:
        for path in out.glob(pattern):
            path.unlink()
    for name in ("features", "features-flipped"):
        with suppress(OSError):
            (out / name).rmdir()


def _has(config: PrepareConfig, processes: Processes) -> bool:
    return at_first(processes, (config.out / INSPECTION).exists)


def _describe(
    config: PrepareConfig, plan: Plan, broken: tuple[str, ...], note: Callable[[str], object]
) -> None:
    for each in notes_of(plan):
        note(each)
    if broken:
        note(f"{len(broken):,} files that cannot be used are left out; {MANIFEST} lists them.")
    if (size := plan.manifest["batch_size"]) != config.batch_size:
        note(f"going on with the run's blocks of {size} images, not {config.batch_size}.")


def _num_threads(config: PrepareConfig, processes: Processes) -> int:
    return config.num_threads or max(1, (os.cpu_count() or 1) // processes.size)


def _scaled(report: Progress, name: str, total: int) -> Steps:
    """Return what reports a process's share as that of all."""
    return lambda done, own: report(name, done * total / max(own, 1), total)


@contextmanager
def _naming_the_way_on() -> Iterator[None]:
    """Say of a full disk how to go on."""
    try:
        yield
    except OSError as error:
        if not is_full(error):
            raise
        reason = f"{error.strerror}; make room and repeat the command: what is done stays"
        raise OSError(error.errno, reason, error.filename) from error


@contextmanager
def _locked(out: Path, processes: Processes) -> Iterator[None]:
    """Hold the set's lock, by the first process, for the block; leave nothing in a finished set."""
    held: list[int] = []
    at_first(processes, lambda: held.append(lock_marks(out / _LOCK, out)))
    try:
        yield
    finally:
        for descriptor in held:
            if is_prepared(out):
                remove_leftovers(out)  # of kills
                for name in (PROGRESS, INSPECTION, _LOCK):
                    (out / name).unlink(missing_ok=True)
            os.close(descriptor)
