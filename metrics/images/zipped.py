"""A zip of pictures as a source of images, read as a folder of them is, and in place."""

import io
import zipfile
import zlib
from collections import Counter
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import numpy as np
from jaxtyping import Int64

from metrics.errors import InputError
from metrics.images.archive import Place, check_member_size, place_of, read_member, shown_members
from metrics.images.folder import LABELS, batches_of, described_not_taken, read_labels
from metrics.images.picture import SUFFIXES, PictureForm, decode_content, read_content_form
from metrics.images.source import Batches, bounded_batch, check_file, checked_range
from repa_base.checksums import file_sha256
from repa_base.errors import first_line
from repa_base.progress import Steps

_MAX_LABELS_BYTES = 1 << 30


@dataclass(frozen=True)
class ZipImages:
    """Picture files in a zip, decoded as they are needed, by several threads.

    Attributes:
        path: The zip.
        names: Of the pictures in it, in their order.
        places: Where each is.
        shape: (height, width, 3), or None when they differ in size.
        labels: The class of each, where `dataset.json` tells.
        largest_bytes: Of the largest as RGB.
        formats: Of each file, by Pillow's name.
        not_taken: Other files of the zip by their suffix.
    """

    path: Path
    names: tuple[str, ...]
    places: tuple[Place, ...] = field(repr=False)
    shape: tuple[int, int, int] | None
    labels: Int64[np.ndarray, " count"] | None = None
    largest_bytes: int = 1
    formats: tuple[str, ...] = ()
    not_taken: Mapping[str, int] = field(default_factory=dict)
    manifest: None = field(default=None, init=False)

    @property
    def name(self) -> str:
        """The zip."""
        return str(self.path)

    @property
    def count(self) -> int:
        """Number of images."""
        return len(self.names)

    def batches(self, batch_size: int, start: int = 0, stop: int | None = None) -> Batches:
        """Yield images `start` to `stop` as RGB, as `FolderImages` does.

        Raises:
            InputError: A file is damaged.
        """
        stop = checked_range(self.count, batch_size, start, stop)
        batch_size = bounded_batch(batch_size, self.largest_bytes)
        return batches_of(range(start, stop), self._decode, batch_size)

    def sha256(self, progress: Steps | None = None) -> str:
        """Return the hash of the zip; progress counts bytes."""
        return file_sha256(self.path, progress)

    def _decode(self, index: int) -> np.ndarray:
        title = f"{self.path}: {self.names[index]}"
        return decode_content(read_member(self.path, title, self.places[index]), title).pixels


def open_zip(path: Path) -> ZipImages:
    """Find the pictures of a zip, in the order of their names, without decoding them.

    Hidden names, and `__MACOSX`, are left out. Labels are those of a `dataset.json` at the top, if
    there is one, as for `open_folder`.

    Raises:
        InputError: There are none; the file is no zip, cut short, encrypted or made to fill memory;
            a picture has a damaged header, several frames or more than 8 bits a channel; or
            `dataset.json` is unreadable or leaves one out.
        FileNotFoundError: There is no such file.
    """
    check_file(path)
    members = shown_members(path)
    files = [name for name in members if not name.endswith("/") and name != LABELS]
    names = tuple(sorted(name for name in files if _is_picture(name)))
    not_taken = dict(Counter(Path(name).suffix.lower() for name in files if not _is_picture(name)))
    if not names:
        beside = f"; {described_not_taken(not_taken)}" if not_taken else ""
        raise InputError(f"{path} holds no images ({', '.join(SUFFIXES)}){beside}.")
    labels = None
    if LABELS in members:
        title, place = f"{path}: {LABELS}", place_of(members[LABELS])
        labels = read_labels(read_member(path, title, place, most=_MAX_LABELS_BYTES), title, names)
    forms = _forms(path, [members[name] for name in names])
    sizes = {form.size for form in forms}
    return ZipImages(
        path,
        names,
        tuple(place_of(members[name]) for name in names),
        shape=(*next(iter(sizes)), 3) if len(sizes) == 1 else None,
        labels=labels,
        largest_bytes=max(height * width * 3 for height, width in sizes),
        formats=tuple(form.format for form in forms),
        not_taken=not_taken,
    )


def _forms(path: Path, infos: list[zipfile.ZipInfo]) -> list[PictureForm]:
    def read(info: zipfile.ZipInfo) -> PictureForm:
        title = f"{path}: {info.filename}"
        check_member_size(title, info.file_size)
        try:
            with archive.open(info) as content:
                return read_content_form(cast(io.BufferedIOBase, content), title)
        except (zipfile.BadZipFile, zlib.error, EOFError) as error:
            raise InputError(f"{title} is damaged: {first_line(error)}.") from error

    with zipfile.ZipFile(path) as archive, ThreadPoolExecutor() as threads:
        return list(threads.map(read, infos))


def _is_picture(name: str) -> bool:
    return Path(name).suffix.lower() in SUFFIXES
