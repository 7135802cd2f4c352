"""A folder of pictures as a source of images.

Links are followed, and every file counts once, by the name that has no link in it or else by the
first. What is hidden is left out, what cannot be read is an error, and other files are counted.
"""

import hashlib
import os
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from stat import S_ISDIR, S_ISREG

import numpy as np
from jaxtyping import Int64

from metrics.errors import InputError
from metrics.images.picture import decode, read_form
from metrics.images.picture_files import (
    LABELS,
    PictureFiles,
    described_forms,
    is_hidden,
    read_labels,
    split_pictures,
)
from repa_base.checksums import file_sha256
from repa_base.progress import Steps


@dataclass(frozen=True, kw_only=True)
class FolderImages(PictureFiles):
    """The picture files of a folder, in the order of their relative paths."""

    folder: Path
    paths: tuple[Path, ...]

    @property
    def name(self) -> str:
        """The folder."""
        return str(self.folder)

    @property
    def count(self) -> int:
        """Number of images."""
        return len(self.paths)

    def decoded(self, index: int) -> np.ndarray:
        """Return one image, uint8 (height, width, 3).

        Raises:
            InputError: Its file is damaged.
        """
        return decode(self.paths[index])

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
    files = (path for path in files_below(folder) if path != labels)
    pictures, not_taken = split_pictures(files, folder)
    pictures.sort(key=lambda path: path.relative_to(folder).as_posix())
    with ThreadPoolExecutor() as threads:
        forms = list(threads.map(read_form, pictures))
    return FolderImages(
        folder=folder,
        paths=tuple(pictures),
        labels=_labels_beside(folder, pictures),
        not_taken=not_taken,
        **described_forms(forms),
    )


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


def _labels_beside(folder: Path, paths: list[Path]) -> Int64[np.ndarray, " count"] | None:
    file = folder / LABELS
    if not file.is_file():
        return None
    names = [path.relative_to(folder).as_posix() for path in paths]
    return read_labels(file.read_bytes(), str(file), names)
