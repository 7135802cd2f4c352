"""A folder of pictures as a source of images.

Links are followed, and every file counts once, by the name that has no link in it or else by the
first. What is hidden is left out, what cannot be read is an error, and other files are counted.
"""

import hashlib
import json
import operator
import os
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from stat import S_ISDIR, S_ISREG
from typing import TypeVar

import numpy as np
from jaxtyping import Int64

from metrics.errors import InputError
from metrics.images.picture import SUFFIXES, decode, read_form
from metrics.images.source import (
    Batches,
    bounded_batch,
    checked_range,
)
from repa_base.checksums import file_sha256
from repa_base.progress import Steps

T = TypeVar("T")

LABELS = "dataset.json"
"""The file of a prepared data set that tells the classes of its pictures."""
_NAMED_KINDS = 5  # suffixes that are named, of files that are not taken


@dataclass(frozen=True)
class FolderImages:
    """Image files, decoded as they are needed, by several threads.

    Attributes:
        folder: Where they lie.
        paths: The files, in the order of their relative paths.
        shape: (height, width, 3), or None when they differ in size.
        labels: The class of each, where `dataset.json` tells.
        largest_bytes: Of the largest as RGB.
        formats: Of each file, by Pillow's name.
        not_taken: Other files of the folder by their suffix.
    """

    folder: Path
    paths: tuple[Path, ...]
    shape: tuple[int, int, int] | None
    labels: Int64[np.ndarray, " count"] | None = None
    largest_bytes: int = 1
    formats: tuple[str, ...] = ()
    not_taken: Mapping[str, int] = field(default_factory=dict)
    manifest: None = field(default=None, init=False)

    @property
    def name(self) -> str:
        """The folder."""
        return str(self.folder)

    @property
    def count(self) -> int:
        """Number of images."""
        return len(self.paths)

    def batches(self, batch_size: int, start: int = 0, stop: int | None = None) -> Batches:
        """Yield images `start` to `stop` as RGB; a batch ends early where the size changes.

        Grey, palette and CMYK images become RGB and transparency is dropped. Batches of very large
        images are smaller than asked.

        Raises:
            InputError: A file is damaged.
        """
        stop = checked_range(self.count, batch_size, start, stop)
        batch_size = bounded_batch(batch_size, self.largest_bytes)
        return batches_of(self.paths[start:stop], decode, batch_size)

    def sha256(self, progress: Steps | None = None) -> str:
        """Return the hash of the relative paths and of the files; progress counts files."""
        digest = hashlib.sha256()
        for number, path in enumerate(self.paths, start=1):
            name = os.fsencode(path.relative_to(self.folder).as_posix())
            digest.update(f"{file_sha256(path)}  ".encode() + name + b"\n")
            if progress is not None:
                progress(number, self.count)
        return digest.hexdigest()


def open_folder(folder: Path) -> FolderImages:
    """Find the pictures of a folder and its subfolders, in the order of their relative paths.

    Links are followed, but to a folder that holds the link. A file counts once: by the name without
    a link, if it has one in the folder, else by the first in order of depth and name. Names that
    begin with a dot, and `__MACOSX`, are left out.

    Labels are those of a prepared data set's `dataset.json`, if there is one:
    `{"labels": [["00000/img00000000.png", 7], ...]}`, or null for none.

    Raises:
        InputError: There are none; something cannot be read or is neither a file nor a folder; a
            picture is cut short, has a damaged header, several frames or more than 8 bits a
            channel; or `dataset.json` is unreadable or leaves one out.
    """
    labels = folder / LABELS
    files = [path for path in files_below(folder) if path != labels]
    pictures = [path for path in files if path.suffix.lower() in SUFFIXES]
    others = (path.suffix.lower() for path in files if path.suffix.lower() not in SUFFIXES)
    not_taken = dict(Counter(others))
    if not pictures:
        beside = f"; {described_not_taken(not_taken)}" if not_taken else ""
        raise InputError(f"{folder} holds no images ({', '.join(SUFFIXES)}){beside}.")
    pictures.sort(key=lambda path: path.relative_to(folder).as_posix())
    with ThreadPoolExecutor() as threads:
        forms = list(threads.map(read_form, pictures))
    sizes = {form.size for form in forms}
    return FolderImages(
        folder,
        tuple(pictures),
        shape=(*next(iter(sizes)), 3) if len(sizes) == 1 else None,
        labels=_labels_beside(folder, pictures),
        largest_bytes=max(height * width * 3 for height, width in sizes),
        formats=tuple(form.format for form in forms),
        not_taken=not_taken,
    )


def batches_of(
    pictures: Sequence[T], decode: Callable[[T], np.ndarray], batch_size: int
) -> Batches:
    """Yield decoded pictures in batches, by several threads; one ends where the size changes."""
    with ThreadPoolExecutor() as threads:
        for first in range(0, len(pictures), batch_size):
            decoded = threads.map(decode, pictures[first : first + batch_size])
            for _, images in groupby(decoded, key=lambda i: i.shape):
                yield np.stack(list(images))


def described_not_taken(not_taken: Mapping[str, int]) -> str:
    """Say how many files of which kinds were not taken, the most frequent first."""
    kinds = sorted(not_taken.items(), key=lambda kind: (-kind[1], kind[0]))
    parts = [f"{count} {suffix or 'without a suffix'}" for suffix, count in kinds[:_NAMED_KINDS]]
    rest = sum(count for _, count in kinds[_NAMED_KINDS:])
    parts += [f"{rest} of other kinds"] if rest else []
    total = sum(not_taken.values())
    said = "1 file was" if total == 1 else f"{total} files were"
    return f"{said} not taken: {', '.join(parts)}"


def files_below(folder: Path) -> Iterator[Path]:
    """Yield every file of a folder and its subfolders once, as `open_folder` finds them.

    Raises:
        InputError: Something cannot be read, or is neither a file nor a folder.
    """
    return _Walk(folder).files()


class _Walk:
    """The files below a folder: those without a link in their names first, then through links."""

    def __init__(self, folder: Path) -> None:
        self._top = os.path.realpath(folder)
        self._folders = deque([(folder, self._top)])
        self._links: deque[tuple[Path, str]] = deque()
        self._seen = {self._top}  # real paths of folders, and of files that a link has led to

    def files(self) -> Iterator[Path]:
        """Yield every file once."""
        while self._folders or self._links:
            if self._folders:
                yield from self._list(*self._folders.popleft())
            else:
                yield from self._follow(*self._links.popleft())

    def _list(self, folder: Path, real: str) -> Iterator[Path]:
        for entry in _entries(folder, real):
            path, target = folder / entry.name, entry.path
            if entry.is_symlink():
                self._links.append((path, real))
            else:
                is_folder, is_file = (
                    is_kind(follow_symlinks=False) for is_kind in (entry.is_dir, entry.is_file)
                )
                yield from self._meet(path, target, is_folder=is_folder, is_file=is_file)

    def _follow(self, link: Path, holder: str) -> Iterator[Path]:
        target = os.path.realpath(link)
        try:
            mode = link.stat().st_mode
        except OSError as error:
            raise InputError(
                f"{link} is a link to {target}, which cannot be read: {error.strerror}; mend or "
                "remove it."
            ) from error
        if S_ISDIR(mode) and any(Path(r).is_relative_to(target) for r in (holder, self._top)):
            return  # it would lead here again
        parent, name = os.path.split(target)
        if parent in self._seen and not is_hidden(name):
            return  # it has been met without the link
        yield from self._meet(link, target, is_folder=S_ISDIR(mode), is_file=S_ISREG(mode))
        self._seen.add(target)

    def _meet(self, path: Path, target: str, *, is_folder: bool, is_file: bool) -> Iterator[Path]:
        if not is_folder and not is_file:
            raise InputError(f"{path} is neither a file nor a folder; take it out of the folder.")
        if target in self._seen:
            return
        if is_folder:
            self._seen.add(target)
            self._folders.append((path, target))
        else:
            yield path


def _entries(folder: Path, real: str) -> list[os.DirEntry[str]]:
    """Return what a folder, whose real path is `real`, holds by name, without what is hidden."""
    try:
        with os.scandir(real) as entries:
            shown = [entry for entry in entries if not is_hidden(entry.name)]
    except OSError as error:
        raise InputError(
            f"{folder} cannot be read: {error.strerror}; make it readable or take it out."
        ) from error
    return sorted(shown, key=lambda entry: entry.name)


def is_hidden(name: str) -> bool:
    """Whether a file or folder of this name is left out."""
    return name.startswith(".") or name == "__MACOSX"


def _labels_beside(folder: Path, paths: list[Path]) -> Int64[np.ndarray, " count"] | None:
    file = folder / LABELS
    if not file.is_file():
        return None
    names = [path.relative_to(folder).as_posix() for path in paths]
    return read_labels(file.read_bytes(), str(file), names)


def read_labels(
    content: bytes, file: str, names: Sequence[str]
) -> Int64[np.ndarray, " count"] | None:
    """Return the classes of pictures by what a `dataset.json`, called `file`, holds; None if none.

    Raises:
        InputError: It is unreadable, or leaves a picture out.
    """
    try:
        pairs = json.loads(content)["labels"] or ()
        labels = {str(name): np.int64(operator.index(label)) for name, label in pairs}
    except (ValueError, TypeError, LookupError, OverflowError, RecursionError) as error:
        raise InputError(
            f'{file} must hold {{"labels": [[file, class], ...]}}, but cannot be read: {error!r}.'
        ) from error
    absent = next((name for name in names if name not in labels), None)
    if labels and absent is not None:
        raise InputError(f"{file} names no class for {absent}; complete it or remove it.")
    return np.array([labels[name] for name in names], np.int64) if labels else None
