"""The reference's own prepared folder, read in place: PNG files and, beside them, moments.

`images/00000/img00000000.png` and so on, `vae-sd/00000/img-mean-std-00000000.npy` (mean, then
standard deviation), each with a `dataset.json`. Files belong together by their sorted names; where
the names hold numbers, or both lists tell the classes, these have to be the same. There are no
checksums, so that damage is found only where it breaks a file.

Source:
    REPA dataset.py and preprocessing/, at 67f7145.
"""

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from metrics import InputError
from metrics.images.folder import files_below
from metrics.images.picture import read_form
from metrics.images.picture_files import LABELS, read_labels
from repa.autoencoders.hub import REFERENCE_AUTOENCODER
from repa.autoencoders.latent_space import SD_LATENTS, LatentSpace
from repa.data.image_set import ImageSet
from repa.data.prepared_set import Indices, PreparedSet
from repa.data.row_files import IMAGES, MOMENTS
from repa.data.sources import REFERENCE_IMAGES, REFERENCE_LATENTS, open_source
from repa.errors import DataError, first_line

_IMAGE, _MOMENTS = re.compile(r"img(\d{8,})\.png"), re.compile(r"img-mean-std-(\d{8,})\.npy")
"""Names that the reference's tools give an image and its moments, the same number in both."""


def is_reference_folder(folder: Path) -> bool:
    """Whether a folder has the two that the reference's tools make."""
    return all((folder / name).is_dir() for name in (REFERENCE_IMAGES, REFERENCE_LATENTS))


def open_reference_folder(folder: Path) -> PreparedSet:
    """Open what the reference's tools have prepared.

    Raises:
        DataError: Images and moments are not as many or have other numbers, labels do not match,
            the first of each is unreadable, or the images are not square.
    """
    source = open_source(folder)
    try:
        below = folder / REFERENCE_LATENTS
        files = [path for path in files_below(below) if path.suffix.lower() == ".npy"]
        latents = sorted(files, key=lambda path: path.relative_to(below).as_posix())
        if len(latents) != source.count:
            raise DataError(
                f"{folder} holds {source.count} images and {len(latents)} moments: they belong "
                "together by their order, so one of each is needed."
            )
        _check_numbers(source, latents)
        labels = _labels(below, latents)
        size = read_form(Path(source.title(0))).size
    except InputError as error:
        raise DataError(str(error)) from error
    if size[0] != size[1]:
        raise DataError(f"{source.title(0)} is {size[1]} x {size[0]}, not square.")
    if labels is None:
        labels = source.labels
    elif source.labels is not None and not source.class_names:  # which folders would give
        _check_labels(source, labels, latents)
    shape = _read_moments(latents[0], None).shape
    content = json.dumps(
        [folder.resolve().name, source.names, [path.name for path in latents], shape]
    )
    digest = hashlib.sha256(content.encode() + (b"" if labels is None else labels.tobytes()))
    name = folder.resolve().name
    numbers = np.zeros(source.count, np.int64) if labels is None else labels
    return PreparedSet(
        folder=folder,
        manifest={"source": {"name": name, "kind": "the reference's"}, "count": source.count},
        count=source.count,
        num_classes=int(numbers.max()) + 1,
        image_size=size[0],
        class_names=(),
        labels=numbers,
        latent_space=LatentSpace(REFERENCE_AUTOENCODER, scale=SD_LATENTS.scale),
        moments_shape=(shape[0], shape[1], shape[2]),
        feature_shapes={},
        flip=False,
        identity=digest.hexdigest(),
        rows=_Rows(source, latents, size[0], shape),
    )


@dataclass(frozen=True)
class _Rows:
    source: ImageSet
    latents: Sequence[Path]
    image_size: int
    shape: tuple[int, ...]

    def __call__(self, key: str, indices: Indices) -> np.ndarray:
        places = [int(index) for index in indices]
        if key == MOMENTS:
            rows = [_read_moments(self.latents[place], self.shape) for place in places]
            return np.stack(rows) if rows else np.empty((0, *self.shape), np.float32)
        if key != IMAGES:
            raise DataError(f"the reference's folder holds no {key}.")
        images = [self._image(place) for place in places]
        side = self.image_size
        return np.stack(images) if images else np.empty((0, side, side, 3), np.uint8)

    def _image(self, place: int) -> np.ndarray:
        pixels = self.source.picture(place).pixels
        if pixels.shape[:2] != (self.image_size, self.image_size):
            height, width = pixels.shape[:2]
            side = self.image_size
            title = self.source.title(place)
            raise DataError(f"{title} is {width} x {height}, not {side} x {side}.")
        return pixels


def _labels(below: Path, latents: Sequence[Path]) -> np.ndarray | None:
    file = below / LABELS
    if not file.is_file():
        return None
    names = [path.relative_to(below).as_posix() for path in latents]
    return read_labels(file.read_bytes(), str(file), names)


def _check_numbers(source: ImageSet, latents: Sequence[Path]) -> None:
    """Refuse an image and moments that are together by their order and not by their numbers."""
    for place, path in enumerate(latents):
        names = _IMAGE.fullmatch(Path(source.names[place]).name), _MOMENTS.fullmatch(path.name)
        if names[0] and names[1] and int(names[0][1]) != int(names[1][1]):
            raise DataError(
                f"{source.title(place)} and {path} have other numbers, but belong together by "
                "their order: an image or moments are missing, or were renamed."
            )


def _check_labels(source: ImageSet, labels: np.ndarray, latents: Sequence[Path]) -> None:
    """Refuse classes of the moments that are not those of the images."""
    known = source.labels
    if known is None or np.array_equal(known, labels):
        return
    place = int(np.argmax(known != labels))
    raise DataError(
        f"{source.title(place)} is of class {known[place]} and its moments, {latents[place]}, of "
        f"class {labels[place]}, by the {LABELS} beside each: correct one of the two, or remove "
        "that of the images."
    )


def _read_moments(path: Path, shape: tuple[int, ...] | None) -> np.ndarray:
    try:
        moments = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"{path} cannot be read: {first_line(error)}.") from error
    if moments.ndim == 4 and len(moments) == 1:
        moments = moments[0]
    fits = moments.ndim == 3 and moments.shape[0] % 2 == 0 and moments.dtype.kind == "f"
    if not fits or (shape is not None and moments.shape != shape):
        wanted = "mean and deviation (2 C, h, w)" if shape is None else str(shape)
        raise DataError(f"{path} is {moments.dtype} of shape {moments.shape}, not {wanted}.")
    return moments.astype(np.float32)
