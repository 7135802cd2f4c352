"""Open what holds pictures: a folder or a zip, with one folder a class or without classes.

Classes are the folders at the top, by sorted name, as in the reference; `dataset.json` beside them,
of a set that StyleGAN's or EDM2's tool has prepared, tells them instead. A lone folder that holds
them all is gone into. What is a picture, its name's ending says; other files are counted.
"""

import os
import stat
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from metrics import InputError
from metrics.images.archive import (
    MAX_MEMBER_BYTES,
    Place,
    check_member_size,
    opened_member,
    place_of,
    read_member,
    shown_members,
)
from metrics.images.folder import files_below
from metrics.images.picture import SUFFIXES, PictureForm, read_form, read_open_form
from metrics.images.picture_files import LABELS, described_not_taken, is_hidden, read_labels
from repa.data.image_set import ImageSet
from repa.errors import DataError

REFERENCE_IMAGES, REFERENCE_LATENTS = "images", "vae-sd"
"""Folders of a data set that the reference has prepared."""

_MAX_LABELS_BYTES = 1 << 30
_MAX_CLASSES = 1 << 20


def open_source(path: Path) -> ImageSet:
    """Find the pictures of a source and their classes; none is read yet.

    Args:
        path: A folder with one sub-folder a class, a flat folder, a zip of either, or a folder that
            the reference has prepared, of which the images are taken.

    Raises:
        DataError: It holds no pictures, a class folder is empty, pictures lie beside class folders,
            two classes have one name, labels do not match, something cannot be read, or a zip is
            damaged, encrypted or a bomb. The message is one line that names it.
        FileNotFoundError: There is nothing.
    """
    try:
        if path.is_dir():
            images = path / REFERENCE_IMAGES
            prepared = images.is_dir() and (path / REFERENCE_LATENTS).is_dir()
            return _open_folder(images if prepared else path, path.resolve().name)
        if not stat.S_ISREG(path.stat().st_mode):
            raise DataError(f"{path} is neither a folder nor a zip of pictures.")
        return _open_zip(path)
    except InputError as error:
        raise DataError(str(error)) from error


@dataclass(frozen=True)
class FolderFiles:
    """Files below a folder."""

    folder: Path
    names: Sequence[str]

    def title(self, index: int) -> str:
        """Return the path."""
        return str(self.folder / self.names[index])

    def read(self, index: int) -> bytes:
        """Return the content of a file."""
        return (self.folder / self.names[index]).read_bytes()

    def form(self, index: int) -> PictureForm:
        """Return what a picture is by its header; raises as `read_form`."""
        return read_form(self.folder / self.names[index])

    def stamp(self, index: int) -> bytes:
        """Return size and times."""
        status = (self.folder / self.names[index]).stat()
        return f"{status.st_size} {status.st_mtime_ns} {status.st_ino}".encode()


@dataclass(frozen=True)
class ZipFiles:
    """Members of a zip, read at their places, so that any number of threads and processes may.

    `places` is int64 (N, 5): where the local header is, compressed and whole size, method, CRC-32.
    """

    path: Path
    names: Sequence[str]
    places: np.ndarray

    def title(self, index: int) -> str:
        """Return the path of the zip and the name in it."""
        return f"{self.path}: {self.names[index]}"

    def read(self, index: int) -> bytes:
        """Return the content of a member.

        Raises:
            DataError: It is damaged, or larger than its entry says.
        """
        return _member(self.path, self.title(index), tuple(self.places[index].tolist()))

    def form(self, index: int) -> PictureForm:
        """Return what a picture is by its header; raises as `read_form`."""
        title = self.title(index)
        with opened_member(self.path, title, tuple(self.places[index].tolist())) as member:
            return read_open_form(member, title)

    def stamp(self, index: int) -> bytes:
        """Return size and checksum as the zip's directory tells them."""
        return b" ".join(str(number).encode() for number in self.places[index].tolist())


def _open_folder(folder: Path, name: str) -> ImageSet:
    while (only := _only_folder(folder)) is not None:
        folder = only
    files = [path.relative_to(folder).as_posix() for path in files_below(folder)]
    labels = _read(folder / LABELS) if LABELS in files else None
    tops = [entry.name for entry in _entries(folder) if entry.is_dir()]
    found = _sorted_out(files, tops, labels, str(folder))
    return found.image_set(name, FolderFiles(folder, found.names), in_zip=False)


def _only_folder(folder: Path) -> Path | None:
    """Return the only thing in a folder, if that is a folder which holds classes or labels."""
    shown = _entries(folder)
    if len(shown) != 1 or not shown[0].is_dir():
        return None
    inner = _entries(folder / shown[0].name)
    files = [entry.name for entry in inner if not entry.is_dir()]
    return folder / shown[0].name if _is_wrapper(files, len(files) < len(inner)) else None


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return [entry for entry in entries if not is_hidden(entry.name)]
    except OSError as error:
        raise DataError(f"{folder} cannot be read: {error.strerror}.") from error


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}.") from error


def _is_wrapper(files: Sequence[str], has_folders: bool) -> bool:
    """Whether a folder, the only one at the top, is what others were packed in, not a class."""
    return LABELS in files or (has_folders and not any(map(_is_picture, files)))


def _open_zip(path: Path) -> ImageSet:
    members = shown_members(path)
    for name, info in members.items():
        if _is_picture(name):
            check_member_size(f"{path}: {name}", info.file_size)
    prefix = _wrapping([*members])
    inner = [name.removeprefix(prefix) for name in members if name != prefix]
    files = [name for name in inner if not name.endswith("/")]
    labels = None
    if LABELS in files:
        name = prefix + LABELS
        labels = _member(path, f"{path}: {name}", place_of(members[name]), _MAX_LABELS_BYTES)
    tops = sorted({name.split("/")[0] for name in inner if "/" in name})
    found = _sorted_out(files, tops, labels, str(path))
    places = np.array([place_of(members[prefix + name]) for name in found.names], np.int64)
    titles = [prefix + name for name in found.names]
    return found.image_set(path.name, ZipFiles(path, titles, places), in_zip=True)


def _wrapping(names: Sequence[str]) -> str:
    """Return the folders that everything was packed in, with a slash at the end."""
    prefix = ""
    while True:
        inner = [name.removeprefix(prefix) for name in names if name != prefix]
        tops = {name.split("/")[0] for name in inner}
        if len(tops) != 1 or not all("/" in name for name in inner):
            return prefix
        deeper = f"{prefix}{tops.pop()}/"
        below = [name.removeprefix(deeper) for name in names if name != deeper]
        files = [name for name in below if "/" not in name]
        if not _is_wrapper(files, len(files) < len(below)):
            return prefix
        prefix = deeper


def _member(path: Path, title: str, place: Place, most: int = MAX_MEMBER_BYTES) -> bytes:
    try:
        return read_member(path, title, place, most=most)
    except InputError as error:
        raise DataError(str(error)) from error


@dataclass(frozen=True)
class _Found:
    """The pictures of a source, sorted by name, and their classes."""

    names: tuple[str, ...]
    labels: np.ndarray | None
    class_names: tuple[str, ...]
    not_taken: dict[str, int]

    def image_set(self, name: str, files: FolderFiles | ZipFiles, *, in_zip: bool) -> ImageSet:
        if in_zip:
            kind = "flat zip" if self.labels is None else "class folders in a zip"
        else:
            kind = "flat folder" if self.labels is None else "class folders"
        found = self.names, self.labels, self.class_names
        return ImageSet(name, kind, *found, files, self.not_taken)


def _sorted_out(
    files: Iterable[str], tops: Sequence[str], labels: bytes | None, source: str
) -> _Found:
    """Tell pictures from other files, and find the class of each."""
    files = [name for name in files if name != LABELS]
    names = tuple(sorted(name for name in files if _is_picture(name)))
    others = dict(Counter(Path(name).suffix.lower() for name in files if not _is_picture(name)))
    if not names:
        beside = f"; {described_not_taken(others)}" if others else ""
        raise DataError(f"{source} holds no images ({', '.join(SUFFIXES)}){beside}.")
    if labels is not None:
        numbers = read_labels(labels, f"{source}/{LABELS}", names)
        return _Found(names, _checked_labels(numbers, f"{source}/{LABELS}"), (), others)
    flat = [name for name in names if "/" not in name]
    folders = sorted({name.split("/")[0] for name in names if "/" in name})
    if flat and folders:
        raise DataError(
            f"{source} holds pictures ({flat[0]}, {len(flat)} in all) beside folders of pictures "
            f"({folders[0]}): put them into the folders of their classes, or all into one."
        )
    empty = sorted(set(tops) - set(folders)) if folders else []
    if empty:
        raise DataError(f"{source}: the class folder {empty[0]} holds no images.")
    _check_class_names(folders, source)
    if len(folders) < 2:
        return _Found(names, None, (), others)
    places = {name: place for place, name in enumerate(folders)}
    numbers = np.array([places[name.split("/")[0]] for name in names], np.int64)
    return _Found(names, numbers, tuple(folders), others)


def _is_picture(name: str) -> bool:
    return Path(name).suffix.lower() in SUFFIXES


def _checked_labels(labels: np.ndarray | None, file: str) -> np.ndarray | None:
    if labels is not None and not 0 <= labels.min() <= labels.max() < _MAX_CLASSES:
        worst = labels.min() if labels.min() < 0 else labels.max()
        raise DataError(f"{file} names the class {worst}; classes count from 0.")
    return labels


def _check_class_names(names: Sequence[str], source: str) -> None:
    """Refuse folders that another system, or a person, takes for one."""
    seen: dict[str, str] = {}
    for name in names:
        other = seen.setdefault(unicodedata.normalize("NFKC", name).casefold().strip(), name)
        if other != name:
            raise DataError(f"{source}: two classes have one name, {other!r} and {name!r}.")
