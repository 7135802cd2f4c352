"""A zip of pictures as a source of images, read as a folder of them is, and in place."""

import io
import zipfile
import zlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import numpy as np

from metrics.errors import InputError
from metrics.images.archive import Place, check_member_size, place_of, read_member, shown_members
from metrics.images.picture import PictureForm, decode_content, read_content_form
from metrics.images.picture_files import (
    LABELS,
    PictureFiles,
    described_forms,
    read_labels,
    split_pictures,
)
from metrics.images.source import check_file
from repa_base.checksums import file_sha256
from repa_base.errors import first_line
from repa_base.progress import Steps

_MAX_LABELS_BYTES = 1 << 30


@dataclass(frozen=True, kw_only=True)
class ZipImages(PictureFiles):
    """The picture files of a zip by the order of their names, and where in it each is."""

    path: Path
    names: tuple[str, ...]
    places: tuple[Place, ...] = field(repr=False)

    @property
    def name(self) -> str:
        """The zip."""
        return str(self.path)

    @property
    def count(self) -> int:
        """Number of images."""
        return len(self.names)

    def decoded(self, index: int) -> np.ndarray:
        """Return one image, uint8 (height, width, 3).

        Raises:
            InputError: Its file is damaged.
        """
        title = f"{self.path}: {self.names[index]}"
        return decode_content(read_member(self.path, title, self.places[index]), title).pixels

    def sha256(self, progress: Steps | None = None) -> str:
        """Return the hash of the zip; progress counts bytes."""
        return file_sha256(self.path, progress)


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
    files = (name for name in members if not name.endswith("/") and name != LABELS)
    names, not_taken = split_pictures(sorted(files), path)
    labels = None
    if LABELS in members:
        title, place = f"{path}: {LABELS}", place_of(members[LABELS])
        labels = read_labels(read_member(path, title, place, most=_MAX_LABELS_BYTES), title, names)
    forms = _forms(path, [members[name] for name in names])
    return ZipImages(
        path=path,
        names=tuple(names),
        places=tuple(place_of(members[name]) for name in names),
        labels=labels,
        not_taken=not_taken,
        **described_forms(forms),
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
