"""The progress file beside an unfinished NPZ: which run it is, and which images are on disk.

One line of JSON holds the identity of the run, a checksum and its manifest; after it stand 8 bytes
an image: zeros, or a mark with the checksum of identity, index, label and pixels. So a mark of
another run, of another image or of other bytes never fits.

How it is locked and replaced: `repa_base.in_place.marks_file`.
"""

import contextlib
import json
import stat
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from repa.errors import OutputExistsError
from repa.generation.sample_files.sample_run import MARK_BYTES, SampleRun
from repa_base.in_place.marks_file import MarksFile, attach_marks, replace_marks

_BEGINNING = b'{"repa_unfinished_samples": '
_FORMAT = 2  # the first had no checksums and began with the manifest
_MAX_HEADER = 1 << 24
_PIECE = 1 << 17  # marks counted at once


@dataclass(frozen=True)
class Found:
    """What a progress file tells: a run, or in words why it tells none; if empty, neither."""

    run: SampleRun | None = None
    trouble: str = ""


NOTHING = Found()


def find_run(path: Path) -> Found:
    """Look into a progress file, which need not exist.

    Raises:
        OutputExistsError: It is a stranger's file.
    """
    stranger = OutputExistsError(f"{path} was not made by this command; use another --out.")
    try:
        # Opening a pipe would wait for its other end, and a link may lead anywhere.
        if not stat.S_ISREG(path.lstat().st_mode):
            raise stranger
        with path.open("rb") as file:
            line, rest = file.readline(_MAX_HEADER), file.read(_MAX_HEADER)
    except FileNotFoundError:
        return NOTHING
    if line.startswith(_BEGINNING):
        run = _run_of(line)
        return Found(run) if run else Found(trouble="is damaged")
    if _is_of_an_earlier_version(line, rest):
        return Found(trouble="is of an earlier version, without checksums of the images")
    if line:
        raise stranger
    return NOTHING


class ProgressFile(MarksFile):
    """The progress file of a run, by an open descriptor."""

    def __init__(self, path: Path, run: SampleRun, descriptor: int) -> None:
        super().__init__(path, descriptor, _header(run), run.num_images, MARK_BYTES)
        self.run = run

    @classmethod
    def replace(
        cls, path: Path, run: SampleRun, earlier: "ProgressFile | None" = None, kept: int = 0
    ) -> "ProgressFile":
        """Put a new, locked file in the place of one whose lock is held.

        It keeps the marks that an earlier one of the same identity has of the first `kept` images.
        """
        return replace_marks(path, partial(cls, path, run), earlier, kept)

    @classmethod
    def attach(cls, path: Path, run: SampleRun) -> "ProgressFile":
        """Open the file of a run that another process has begun or continued.

        Raises:
            InUseError: It is not, or no longer, that run's.
        """
        return attach_marks(path, partial(cls, path, run))

    def num_marked(self, first: int, count: int) -> int:
        """Return how many of images first to first + count - 1 are marked."""
        end = first + count
        pieces = ((start, min(_PIECE, end - start)) for start in range(first, end, _PIECE))
        return sum(_num_set(self.marks(*piece)) for piece in pieces)


def progress_bytes(run: SampleRun) -> int:
    """Return the size of a run's progress file."""
    return len(_header(run)) + run.num_images * MARK_BYTES


def _header(run: SampleRun) -> bytes:
    described = {"run": run.identity, "checksum": run.checksum, "manifest": run.manifest}
    return _BEGINNING + f"{_FORMAT}, {json.dumps(described)[1:]}\n".encode("ascii")


def _run_of(line: bytes) -> SampleRun | None:
    """Return the run that a first line tells of, or None if a byte of it is damaged."""
    with contextlib.suppress(ValueError, RecursionError, KeyError, TypeError):
        described = json.loads(line)
        run = SampleRun(described["run"], json.dumps(described["manifest"]))
        if _header(run) == line and min(run.num_images, run.block_size) > 0:
            return run
    return None


def _is_of_an_earlier_version(line: bytes, rest: bytes) -> bool:
    """Whether a file is a manifest and one byte an image, 0 or 1."""
    with contextlib.suppress(ValueError, RecursionError, KeyError, TypeError):
        return json.loads(line)["num_images"] == len(rest) and not rest.strip(b"\0\1")
    return False


def _num_set(marks: bytes) -> int:
    whole = len(marks) // MARK_BYTES * MARK_BYTES
    return int(np.count_nonzero(np.frombuffer(marks[:whole], "<u8") >> 32 == 1))
