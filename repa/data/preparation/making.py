"""Prepare a set: one call for all that `repa prepare` does.

The folder of the set holds, while it is made, three more files: `prepare.lock`,
`prepare.inspection` and `prepare.progress`. A killed preparation goes on by repeating it, with any
number of processes, and ends with the same bytes. prepared.json, without which a folder is no
prepared set, is written last.
"""

import json
import os
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from repa.data.held_out import check_held_out
from repa.data.image_set import ImageSet
from repa.data.preparation.encoding import Networks
from repa.data.preparation.inspection import broken_error, inspect
from repa.data.preparation.pipeline import StageTimes, fill
from repa.data.preparation.plan import (
    Plan,
    described,
    identity_of,
    make_plan,
    notes_of,
    settings_manifest,
)
from repa.data.preparation.set_folder import (
    begin,
    check_place,
    check_set_room,
    disk_of,
    earlier,
    forget_inspection,
    locked,
    naming_the_way_on,
)
from repa.data.preparation.set_writer import attach_writer
from repa.data.preparation.settings import PrepareConfig
from repa.data.prepared_set import CHECKSUMS, MANIFEST, read_manifest
from repa.data.row_files import Layout
from repa.data.sources import open_source
from repa.errors import ChecksumError
from repa_base.checksums import file_sha256, sealed
from repa_base.files import replacing, size_text, write_text
from repa_base.processes import Processes, all_values, at_first, attempt, together
from repa_base.progress import Progress, Steps

MakeReference = Callable[[Path], Mapping[str, Any]]
"""Makes the reference of the held-out images in the folder of a set; returns what the manifest says
of it, its `file` among it. Every process calls it."""

_ATTEMPTS = 4  # to write what the disk keeps


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
            names them. Or a finished set is there, and is damaged.
        OutputExistsError: The folder holds other files, or a set of other settings or images, or
            another process is at work on it (InUseError).
        SettingError: A setting does not suit a network, or the number of images.
        OSError: The disk has no room; what is done stays.
        ChecksumError: The disk does not keep what is written.
    """
    processes = processes or Processes()
    first = processes.is_first
    note = on_note if on_note and first else lambda text: None
    report = progress or (lambda name, done, total: None)
    with together(processes):
        source = open_source(config.source)
        if config.held_out is not None:
            check_held_out(config.held_out, source.count, source.labels)
        if first:
            check_place(config)
        networks = Networks.load(config, processes.device(config.device))
        if first:
            begun = earlier(config, settings_manifest(config, source, networks))
            _announce(config, source, networks, note, anew=begun is None)
    with locked(config.out, processes):
        if config.overwrite:
            at_first(processes, lambda: forget_inspection(config.out))
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
        manifest = at_first(processes, lambda: begin(config, plan))
        if manifest is None:
            return Prepared(config.out, read_manifest(config.out), was_finished=True)
        plan = replace(plan, manifest=manifest)
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
            naming_the_way_on(self.config),
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
        by_name = {name: file for part, _ in found for name, file in part.items()}
        # In their own order: prepared.json is the same bytes for any number of processes.
        names = [file.name for file in self.plan.layout.all_files.values() if file.name in by_name]
        files = {name: by_name[name] for name in names}
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
            manifest |= self.networks.described()  # where this run has found them
            manifest["identity"] = identity_of(manifest)
            write_text(out / MANIFEST, json.dumps(sealed(manifest), indent=1) + "\n")
            return manifest

        return at_first(self.processes, write)

    def _write_checksums(self) -> None:
        out = self.config.out
        with attach_writer(out, self.plan) as writer:
            found = {key: writer.checksums(key) for key in self.plan.layout.all_files}
        with replacing(out / CHECKSUMS) as partial_path, partial_path.open("wb") as stream:
            np.savez(stream, **found)  # pyright: ignore[reportArgumentType]


def _announce(
    config: PrepareConfig,
    source: ImageSet,
    networks: Networks,
    note: Callable[[str], object],
    *,
    anew: bool,
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
    free = size_text(shutil.disk_usage(disk_of(config.out)).free)
    note(
        f"{source.name}: {source.count:,} pictures{classes} to {size} pixels make "
        f"{described(layout)}; {free} are free."
    )
    if anew:
        check_set_room(config.out, layout)


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
