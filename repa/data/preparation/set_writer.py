"""Write the rows of a set in place, in any order and by several processes, and survive a kill.

Beside the files of rows, which have their full size from the first moment, stands
`prepare.progress`: the manifest in one line, then a record a row with the checksum of each of its
parts. A record of another plan, of another row or of other bytes never fits. Zips get their ends,
and arrays their heads, when all is verified: until then no reader takes them for what they will be.
"""

import contextlib
import hashlib
import json
import os
import zlib
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from repa.data.preparation.plan import Plan
from repa.data.prepared_set import PROGRESS
from repa.data.row_files import RowFile, row_offset, rows_end
from repa.errors import DataError
from repa_base.files import reserve, write_at
from repa_base.in_place.marks_file import MarksFile, attach_marks, replace_marks
from repa_base.progress import Steps

_BEGINNING = "repa_unfinished_set"
_MAX_HEADER = 1 << 26
_PIECE_BYTES = 1 << 23


class SetWriter(contextlib.AbstractContextManager["SetWriter"]):
    """The files of a set in the making; a context manager that closes them."""

    def __init__(self, folder: Path, plan: Plan, marks: MarksFile) -> None:
        self.folder, self.plan, self._marks = folder, plan, marks
        self._files = plan.layout.all_files
        self._record = record_type(plan)
        self._descriptors: dict[str, int] = {}
        with contextlib.ExitStack() as on_failure:
            on_failure.callback(self.close)
            for key, file in self._files.items():
                self._descriptors[key] = os.open(folder / file.name, os.O_RDWR)
            on_failure.pop_all()

    def is_done(self, rows: range) -> bool:
        """Whether rows that follow each other are all marked as being on disk."""
        records = np.frombuffer(self._marks.marks(rows.start, len(rows)), self._record)
        return len(records) == len(rows) and all(
            record.tobytes() == self._mark(row, record["crcs"].tobytes())
            for row, record in zip(rows, records, strict=True)
        )

    def put(self, row: int, parts: Mapping[str, tuple[bytes, int]]) -> bytes:
        """Put the parts of a row, bytes and their CRC-32 by key of the file, in their places.

        Returns:
            The row's mark, for `mark`.
        """
        crcs = np.zeros(self._record["crcs"].shape, "<u4")
        for slot, key in enumerate(self.plan.keys(row)):
            content, crc = parts[key]
            file, place = self._files[key], self.plan.place_in(key, row)
            prefix = file.prefix(place, crc)
            offset = row_offset(file, place) - len(prefix)
            try:
                write_at(self._descriptors[key], prefix + content, offset)
            except OSError as error:
                path = str(self.folder / file.name)
                raise OSError(error.errno, error.strerror, path) from error
            crcs[slot] = crc
        return self._mark(row, crcs.tobytes())

    def mark(self, marks: Sequence[tuple[int, bytes]]) -> None:
        """Bring all that was put to disk, and only then mark the rows."""
        for descriptor in self._descriptors.values():
            os.fsync(descriptor)
        for row, mark in marks:
            self._marks.mark(row, mark)

    def checksums(self, key: str) -> np.ndarray:
        """Return the CRC-32 of every row of a file, uint32, as the marks tell."""
        first = self.plan.num_kept if key not in self.plan.layout.files else 0
        slot = self.plan.keys(first).index(key)
        content = self._marks.marks(first, self._files[key].count)
        return np.frombuffer(content, self._record)["crcs"][:, slot].astype(np.uint32)

    def complete(self, key: str, progress: Steps) -> tuple[dict[str, Any], int]:
        """Compare every row of a file with its mark, and write what stands before and behind them.

        Returns:
            Size and SHA-256 of the file, and how many rows are not as they were written; those have
            lost their marks.
        """
        file, descriptor = self._files[key], self._descriptors[key]
        checksums, damaged = self.checksums(key), 0
        digest = hashlib.sha256(file.head)
        write_at(descriptor, file.head, 0)
        stride = file.prefix_bytes + file.row_bytes
        step = max(1, _PIECE_BYTES // stride)
        for first in range(0, file.count, step):
            count = min(step, file.count - first)
            content = os.pread(descriptor, count * stride, len(file.head) + first * stride)
            digest.update(content)
            for place in range(count):
                row = content[place * stride : (place + 1) * stride]
                if not _is_intact(file, first + place, row, int(checksums[first + place])):
                    offset = self.plan.num_kept if key not in self.plan.layout.files else 0
                    self._marks.mark(offset + first + place, bytes(self._record.itemsize))
                    damaged += 1
            progress(first + count, file.count)
        end = rows_end(file)
        for piece in file.tail(checksums.tolist()):
            write_at(descriptor, piece, end)
            digest.update(piece)
            end += len(piece)
        os.ftruncate(descriptor, end)
        os.fsync(descriptor)
        return {"size": end, "sha256": digest.hexdigest()}, damaged

    def close(self) -> None:
        """Let go of the files."""
        for descriptor in self._descriptors.values():
            os.close(descriptor)
        self._descriptors = {}
        self._marks.close()

    def __exit__(self, *error: object) -> None:
        self.close()

    def _mark(self, row: int, crcs: bytes) -> bytes:
        check = zlib.crc32(f"{self.plan.identity} {row} ".encode() + crcs)
        return crcs + check.to_bytes(4, "little") + b"\1\0\0\0"  # so that no mark is zeros


def begin_files(folder: Path, plan: Plan) -> None:
    """Make the files of a plan, or those that lack, and reserve their whole size.

    Raises:
        OSError: The disk has no room for them.
    """
    path = folder / PROGRESS
    if read_header(folder) is None:
        replace_marks(path, partial(_marks_of, path, plan)).close()
    for file in plan.layout.all_files.values():
        target = folder / file.name
        target.parent.mkdir(exist_ok=True)
        descriptor = os.open(target, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            if os.fstat(descriptor).st_size < rows_end(file):
                reserve(descriptor, rows_end(file), target)
        finally:
            os.close(descriptor)


def attach_writer(folder: Path, plan: Plan) -> SetWriter:
    """Open the files that `begin_files` has made.

    Raises:
        InUseError: They are another plan's by now.
    """
    path = folder / PROGRESS
    return SetWriter(folder, plan, attach_marks(path, partial(_marks_of, path, plan)))


def read_header(folder: Path) -> dict[str, Any] | None:
    """Return the manifest of an unfinished set; None if none has been begun.

    Raises:
        DataError: The progress file is damaged.
    """
    path = folder / PROGRESS
    if not path.exists():
        return None
    with path.open("rb") as stream:
        line = stream.readline(_MAX_HEADER)
    try:
        told = json.loads(line)
        manifest = told["manifest"]
        if told["sha256"] == _sha256(manifest):
            return manifest
    except (ValueError, LookupError, TypeError, RecursionError):
        pass
    raise DataError(f"{path} is damaged: use --overwrite to begin anew.")


def record_type(plan: Plan) -> np.dtype:
    """Return the form of a row's record: checksums, and what tells whose they are."""
    slots = len(plan.layout.files)
    return np.dtype([("crcs", "<u4", (slots,)), ("check", "<u4"), ("marked", "<u4")])


def _marks_of(path: Path, plan: Plan, descriptor: int) -> MarksFile:
    told = {_BEGINNING: 1, "sha256": _sha256(plan.manifest), "manifest": plan.manifest}
    header = json.dumps(told).encode() + b"\n"
    return MarksFile(path, descriptor, header, plan.num_rows, record_type(plan).itemsize)


def _sha256(manifest: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()


def _is_intact(file: RowFile, place: int, row: bytes, crc: int) -> bool:
    content = row[file.prefix_bytes :]
    intact = len(content) == file.row_bytes and zlib.crc32(content) == crc
    return intact and row[: file.prefix_bytes] == file.prefix(place, crc)
