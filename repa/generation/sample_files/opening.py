"""Begin the NPZ of a run, or find and continue what an earlier start left of it.

Whatever is there is told apart: a finished file, one with the first images of this run, an
unfinished run of these settings or of others, and files of others, which are left alone. A kill
between any two steps leaves what the next start continues or begins anew.
"""

import contextlib
import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from metrics import InputError
from repa.errors import InUseError, OutputExistsError
from repa.generation.sample_files.progress_file import (
    NOTHING,
    ProgressFile,
    find_run,
    progress_bytes,
)
from repa.generation.sample_files.sample_file import REMEDY, NpzWriter, part_path
from repa.generation.sample_files.sample_run import (
    Manifest,
    SampleRun,
    difference,
    is_beginning,
    open_beginning,
    read_manifest,
    same_settings,
)
from repa_base.files import (
    check_output,
    check_room,
    existing_folder,
    output_target,
    reserve,
    write_at,
)
from repa_base.in_place.marks_file import check_unlocked, lock_marks

_COPIED = 256  # images at once


def open_output(path: Path, manifest: Manifest, *, overwrite: bool = False) -> NpzWriter | None:
    """Open the NPZ of a run for writing; None if it is finished, with these settings.

    The manifest, JSON values, tells the settings that decide the images, among them `num_images`,
    `image_size` and `batch_size`, the images of a block. An unfinished run of the same settings is
    continued in its own blocks, whatever the manifest says, also if it was to make fewer images. A
    finished file with fewer images is extended: the images of its whole blocks are copied, the
    others made anew, and it stays until the longer file is complete. Of a link, what it leads to is
    written. What has other settings is refused, or with `overwrite` replaced.

    Raises:
        OutputExistsError: The output, or its unfinished part, is there and was made by other
            settings or is no output of ours; or another process is writing it (InUseError).
        OSError: The folder cannot be written, or the disk has no room for the whole file.
    """
    check_sample_file(path, overwrite=overwrite)
    manifest = json.loads(json.dumps(manifest))  # tuples become lists, as they are when it is read
    return _Output(_target(path), manifest, overwrite).open()


def look_at_output_of(path: Path, manifest: Manifest, *, overwrite: bool = False) -> "Outlook":
    """Find out what `open_output` would do, and write nothing.

    Raises:
        OutputExistsError: As of `open_output`.
        OSError: The folder cannot be written. That there is no room stands in what is returned.
    """
    check_sample_file(path, overwrite=overwrite, writing=False)
    manifest = json.loads(json.dumps(manifest))
    return _Output(_target(path), manifest, overwrite).look()


def attach_output(path: Path, run: SampleRun, *, overwrite: bool = False) -> NpzWriter:
    """Open the NPZ of a run that another process has opened by `open_output` and holds.

    Raises:
        InUseError: The files are another run's by now.
    """
    path = _target(path)
    # In this order: when there is a .part of a new run, the progress file is that run's already.
    try:
        part = os.open(part_path(path), os.O_RDWR)
    except FileNotFoundError as error:
        raise InUseError(f"{path} is another run's by now.") from error
    with contextlib.ExitStack() as on_failure:
        on_failure.callback(os.close, part)
        progress = ProgressFile.attach(_progress_path(path), run)
        on_failure.pop_all()
    return NpzWriter(path, progress, part, overwrite=overwrite)


def check_sample_file(path: Path, *, overwrite: bool = False, writing: bool = True) -> None:
    """Find out early whether an output can be written; make its folder, but not a link's.

    If not `writing`, nothing is made; see `repa_base.files.check_output`.

    Raises:
        OutputExistsError: A folder, or a file that is no output of ours, has the name.
        OSError: No file can be made in the folder.
    """
    target = _target(path)
    ours = target.is_file() and read_manifest(target) is not None
    if target.is_file() and not ours and not overwrite:
        raise OutputExistsError(f"{path} was not made by this command; {REMEDY}.")
    check_output(target, overwrite=overwrite or ours, writing=writing)


def unfinished_part(path: Path) -> Path | None:
    """Return the file that keeps what is done of an unfinished output, if there is one."""
    part = part_path(_target(path))
    return part if part.exists() else None


def _target(path: Path) -> Path:
    """Return the path of an output as it is given, or what it leads to if it is a link."""
    return output_target(path) if path.is_symlink() else path


def _progress_path(path: Path) -> Path:
    return path.with_name(f"{path.name}.progress")


@dataclass(frozen=True)
class Outlook:
    """What is at an output before a run, and what the run will need there.

    Attributes:
        was_finished: Whether there is nothing to do.
        num_done: Images that are on disk and stay.
        block_size: Images that are made at a time.
        file_bytes: Size of the finished file.
        progress_bytes: Size, beside it, of what tells how far it is, while it runs.
        needed_bytes: What has to be reserved yet.
        free_bytes: What is free on that disk.
        shortage: The error for which the run would end at once; None if there is room.
    """

    was_finished: bool
    num_done: int
    block_size: int
    file_bytes: int
    progress_bytes: int
    needed_bytes: int
    free_bytes: int
    shortage: OSError | None


@dataclass(frozen=True)
class _Output:
    """An output, not a link, and what it shall hold."""

    path: Path
    manifest: Manifest
    overwrite: bool

    @property
    def part(self) -> Path:
        return part_path(self.path)

    @property
    def progress(self) -> Path:
        return _progress_path(self.path)

    def open(self) -> NpzWriter | None:
        """Find out whether to stop, to go on or to start, and do it under the lock."""
        if self._is_finished() and not self._is_left_over():
            return None
        self._unfinished_run()  # what is a stranger's is not even locked
        lock = lock_marks(self.progress, self.path)
        try:
            # Another run may have finished between the first look and the lock.
            if self._is_finished():
                if not self.part.exists():
                    self.progress.unlink()
                return None
            run = self._unfinished_run()
            earlier = ProgressFile(self.progress, run, lock) if run else None
            writer = self._continue(earlier) if earlier else None
            writer = writer or self._start()
        finally:
            os.close(lock)  # the file that has replaced it has a lock of its own
        with contextlib.ExitStack() as on_failure:
            on_failure.callback(writer.close)
            self._take_over(writer)
            on_failure.pop_all()
        return writer

    def look(self) -> Outlook:
        """Find out what `open` would do."""
        if self._is_finished():
            run = SampleRun.new(self.manifest)
            return self._outlook(run, run.num_images, 0, was_finished=True)
        run = self._unfinished_run()
        check_unlocked(self.progress, self.path)
        there = 512 * self.part.stat().st_blocks if self.part.exists() else 0
        if run is not None:
            done = self._num_to_keep(run)
            if done or run.block_size == self.manifest["batch_size"]:
                run = run.of(self.manifest)
                return self._outlook(run, done, run.file_bytes - there)
        shorter = open_beginning(self.path, self.manifest)
        run = SampleRun.new(shorter.manifest if shorter else self.manifest).of(self.manifest)
        done = run.num_whole(shorter.images.count) if shorter else 0
        return self._outlook(run, done, run.file_bytes - there)

    def _num_to_keep(self, run: SampleRun) -> int:
        """Return how many images of an unfinished run stay."""
        longer = run.num_images < self.manifest["num_images"]
        kept = run.num_whole(run.num_images) if longer else run.num_images
        with contextlib.closing(
            ProgressFile(self.progress, run, os.open(self.progress, os.O_RDONLY))
        ) as earlier:
            return earlier.num_marked(0, kept)

    def _outlook(
        self, run: SampleRun, done: int, needed: int, *, was_finished: bool = False
    ) -> Outlook:
        folder, shortage, needed = existing_folder(self.part), None, max(needed, 0)
        try:
            check_room(needed, folder)
        except OSError as error:
            shortage = OSError(error.errno, error.strerror, str(self.part))
        free, beside = shutil.disk_usage(folder).free, progress_bytes(run)
        sizes = run.block_size, run.file_bytes, beside, needed, free
        return Outlook(was_finished, done, *sizes, None if was_finished else shortage)

    def _is_finished(self) -> bool:
        """Whether the output is complete; one of other settings is refused."""
        if not self.path.exists():
            return False
        there = read_manifest(self.path)
        finished = same_settings(there, self.manifest)
        if finished or self.overwrite or open_beginning(self.path, self.manifest):
            return finished
        raise OutputExistsError(f"{self.path} {difference(there, self.manifest)}; {REMEDY}.")

    def _is_left_over(self) -> bool:
        """Whether the progress file is what a kill left of the run that finished the output."""
        with contextlib.suppress(OutputExistsError, OSError):
            run = find_run(self.progress).run
            alone = not os.path.lexists(self.part)
            return alone and run is not None and same_settings(run.manifest, self.manifest)
        return False

    def _unfinished_run(self) -> SampleRun | None:
        """Return the run to go on with, or None if one is to be begun; refuse what may not go."""
        found = find_run(self.progress)
        if not os.path.lexists(self.part):
            return None
        if found == NOTHING:
            reason = f"no {self.progress.name} tells whose it is"
            raise OutputExistsError(f"{self.part}: {reason}; remove it, or use another --out.")
        run, problem = found.run, f"{self.progress} {found.trouble}"
        if run is not None:
            theirs, ours = run.manifest, self.manifest
            if same_settings(theirs, ours) or is_beginning(theirs, ours):
                return run if self.part.stat().st_size >= run.file_bytes else None
            problem = f"{self.part} {difference(theirs, ours)}"
        if not self.overwrite:
            raise OutputExistsError(f"{problem}; {REMEDY}.")
        return None

    def _start(self) -> NpzWriter:
        """Write the settings, with no image done, and reserve the whole file."""
        shorter = open_beginning(self.path, self.manifest)
        run = SampleRun.new(shorter.manifest if shorter else self.manifest).of(self.manifest)
        self.part.unlink(missing_ok=True)
        with contextlib.ExitStack() as on_failure:
            on_failure.callback(self._remove_unfinished)
            check_room(run.file_bytes, self.part)
            # The progress file comes first: without it a part could not be told from a stranger's.
            progress = ProgressFile.replace(self.progress, run)
            on_failure.callback(progress.close)
            part = os.open(self.part, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
            on_failure.callback(os.close, part)
            reserve(part, run.file_bytes, self.part)
            on_failure.pop_all()
        return NpzWriter(self.path, progress, part, overwrite=self.overwrite)

    def _continue(self, earlier: ProgressFile) -> NpzWriter | None:
        """Go on with an unfinished run, or return None if it has nothing to go on with.

        If it is to make more images than it was, their labels are copied to their new place before
        marks and manifest are replaced as one. A kill on the way costs at most what the labels have
        overwritten, which is found when the file is completed.
        """
        run, before = earlier.run, earlier.run.num_images
        if run.block_size != self.manifest["batch_size"] and not earlier.num_marked(0, before):
            return None
        part = os.open(self.part, os.O_RDWR)
        with contextlib.ExitStack() as on_failure:
            on_failure.callback(os.close, part)
            kept = before
            if is_beginning(run.manifest, self.manifest):
                run = run.of(self.manifest)
                reserve(part, run.file_bytes, self.part)
                old, new = earlier.run.members[1], run.members[1]
                write_at(part, os.pread(part, old.data_bytes, old.data_offset), new.data_offset)
                os.fsync(part)
                kept = run.num_whole(before)
            progress = ProgressFile.replace(self.progress, run, earlier, kept)
            on_failure.pop_all()
        return NpzWriter(self.path, progress, part, overwrite=self.overwrite)

    def _take_over(self, writer: NpzWriter) -> None:
        """Copy the images of a shorter file, in whole blocks, and mark them if all are intact."""
        shorter, run = open_beginning(self.path, self.manifest), writer.run
        if shorter is None or shorter.manifest["batch_size"] != run.block_size:
            return
        whole, first, marks = run.num_whole(shorter.images.count), 0, []
        if writer.is_done(0, whole):
            return
        try:
            for batch in shorter.images.batches(_COPIED):  # to the end, where the checksum is
                rows = batch[: max(0, whole - first)]
                marks.append(writer.put(first, rows, shorter.labels[first : first + len(rows)]))
                first += len(batch)
        except InputError as error:
            if self.overwrite:
                return
            if not writer.num_done():
                self._remove_unfinished()
            remedy = "use --overwrite to make all images anew, or another --out"
            raise OutputExistsError(
                f"{self.path} cannot be extended ({error}); {remedy}."
            ) from error
        writer.mark(0, b"".join(marks))
        writer.num_taken_over = whole

    def _remove_unfinished(self) -> None:
        self.part.unlink(missing_ok=True)
        self.progress.unlink(missing_ok=True)
