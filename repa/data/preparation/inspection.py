"""The first look at every file of a source: its content's hash, and whether it decodes.

What was seen is kept in `prepare.inspection`, a record a file with a checksum of its own that also
covers the file's stamp: a start that follows looks again at what has changed, and at nothing else.
"""

import hashlib
import json
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from repa.data.image_set import ImageSet, check_sides, decoded
from repa.data.preparation.threads import in_threads
from repa.data.prepared_set import INSPECTION
from repa.errors import DataError
from repa_base.in_place.marks_file import MarksFile, attach_marks, replace_marks
from repa_base.processes import Processes, all_values, at_first, attempt, together
from repa_base.progress import Steps

_RECORD = np.dtype(
    [
        ("sha256", "u1", 32),
        ("width", "<u4"),
        ("height", "<u4"),
        ("state", "u1"),
        ("flags", "u1"),
        ("spare", "u1", 2),
        ("check", "<u4"),
    ]
)
_USABLE, _BROKEN = 1, 2
TRANSPARENT, OTHER_COLOURS, TURNED = 1, 2, 4
"""Flags: what became of a picture, or did not, when it was decoded."""

_NAMED, _TOLD = 3, 100  # files that an error names, and that a process tells of as it goes


@dataclass(frozen=True)
class Inspection:
    """What was seen of every file of a source; the records are in the order of the source."""

    records: np.ndarray
    broken: tuple[str, ...]
    """What is wrong with each file that cannot be used, its name first."""

    @property
    def usable(self) -> np.ndarray:
        """The places of the files that can be used."""
        return np.flatnonzero(self.records["state"] == _USABLE)

    def hashes(self, places: np.ndarray) -> list[bytes]:
        """Return the SHA-256 of the files' content."""
        return [row.tobytes() for row in self.records["sha256"][places]]

    def num_flagged(self, places: np.ndarray, flag: int) -> int:
        """Return how many of the files have a flag."""
        return int(np.count_nonzero(self.records["flags"][places] & flag))


def inspect(
    source: ImageSet,
    folder: Path,
    processes: Processes,
    *,
    num_threads: int,
    progress: Steps,
    on_note: Callable[[str], object],
) -> Inspection:
    """Look at every file that has not been looked at, each process at its share.

    Args:
        source: The pictures.
        folder: Where what was seen is kept.
        processes: Those that share the work; all get the result.
        num_threads: Threads of this process.
        progress: Called with how many files of this process's share are done.
        on_note: Told of each file that cannot be used, by the first process of those of its share.

    Raises:
        DataError: The processes see different files.
    """
    header = _header(source)
    with together(processes):
        if processes.share(header) != header:
            raise DataError(f"{source.name} is not the same to all processes: is it in use?")
    path = folder / INSPECTION
    make = partial(_records_file, path, header, source.count)
    at_first(processes, lambda: _begin(path, make))
    file = attach_marks(path, make)
    try:
        own = range(source.count)[processes.rank :: processes.size]
        broken = attempt(partial(_look, source, file, own, num_threads, progress, on_note))
    finally:
        file.close()
    reasons = [reason for part in all_values(processes.gather(broken)) for reason in part]
    everything = processes.share(tuple(reasons) if processes.is_first else None)
    file = attach_marks(path, make)
    try:
        content = file.marks(0, source.count)
    finally:
        file.close()
    records = np.frombuffer(content, _RECORD)
    return Inspection(records, everything or ())


def broken_error(source: ImageSet, broken: Sequence[str]) -> DataError:
    """Return the error of files that cannot be used."""
    several = "1 file" if len(broken) == 1 else f"{len(broken)} files"
    named = "; ".join(reason.rstrip(".") for reason in broken[:_NAMED])
    more = f"; and {len(broken) - _NAMED} more, named above" if len(broken) > _NAMED else ""
    remedy = "mend or remove, or leave out with --skip-broken"
    return DataError(f"{source.name}: {several} to {remedy}: {named}{more}.")


def checked_content(source: ImageSet, place: int, sha256: bytes) -> bytes:
    """Read a file again.

    Raises:
        DataError: It is not what was inspected.
    """
    content = source.read(place)
    if hashlib.sha256(content).digest() != sha256:
        title = source.title(place)
        raise DataError(f"{title} has changed since it was inspected; use --overwrite.")
    return content


def _header(source: ImageSet) -> bytes:
    names = hashlib.sha256("\0".join(source.names).encode("utf-8", "surrogateescape"))
    told = {"repa_inspection": 1, "files": source.count, "names": names.hexdigest()}
    return json.dumps(told).encode() + b"\n"


def _records_file(path: Path, header: bytes, count: int, descriptor: int) -> MarksFile:
    return MarksFile(path, descriptor, header, count, _RECORD.itemsize)


def _begin(path: Path, make: Callable[[int], MarksFile]) -> None:
    """Begin the file, unless one of the same files is there."""
    if path.exists():
        with path.open("r+b") as stream:
            if make(stream.fileno()).has_its_header:
                return
    replace_marks(path, make).close()


def _look(
    source: ImageSet,
    file: MarksFile,
    own: range,
    num_threads: int,
    progress: Steps,
    on_note: Callable[[str], object],
) -> list[str]:
    """Look at this process's files; return what is wrong with those that cannot be used."""
    known = np.frombuffer(file.marks(0, source.count), _RECORD)
    reasons: list[str] = []
    progress(0, len(own))
    looked = in_threads(
        lambda place: _record(source, place, known[place]), own, num_threads, ahead=4 * num_threads
    )
    for done, (place, (record, reason)) in enumerate(zip(own, looked, strict=True), start=1):
        if record is not None:
            file.mark(place, record)
        if reason:
            reasons.append(reason)
            if len(reasons) <= _TOLD:
                on_note(reason)
        progress(done, len(own))
    return reasons


def _record(source: ImageSet, place: int, known: np.ndarray) -> tuple[bytes | None, str]:
    """Return the record of a file, None if it is `known`, and what is wrong with it."""
    record = np.zeros((), _RECORD)
    try:
        stamp = source.stamp(place)
        if known["state"] == _USABLE and known["check"] == _check(known, place, stamp):
            return None, ""
        content = source.read(place)
        record["sha256"] = np.frombuffer(hashlib.sha256(content).digest(), np.uint8)
        picture = decoded(content, source.title(place))
        record["height"], record["width"] = picture.pixels.shape[:2]
        check_sides(picture.pixels, source.title(place))
        record["flags"] = (
            TRANSPARENT * picture.was_transparent
            | OTHER_COLOURS * picture.was_other_colours
            | TURNED * picture.is_turned
        )
        record["state"], reason = _USABLE, ""
    except DataError as error:
        record["state"], reason, stamp = _BROKEN, str(error), b""
    record["check"] = _check(record, place, stamp)
    return record.tobytes(), reason


def _check(record: np.ndarray, place: int, stamp: bytes) -> int:
    return zlib.crc32(record.tobytes()[:-4], zlib.crc32(f"{place} ".encode() + stamp))
