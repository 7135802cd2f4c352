"""The headers of all pictures of a source: whether they open, their sizes, what decoding will do.

What lies between a picture's header and its end is not looked at: see `repa.data.preparation` for
who decodes them all.
"""

from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import numpy as np

from metrics.images.picture import PictureForm
from repa.data.crop import check_sides
from repa.data.image_set import ImageSet
from repa.errors import DataError
from repa_base.progress import Steps

_AT_ONCE = 1024  # pictures that threads are handed
_NAMED = 3  # that an error names


@dataclass(frozen=True)
class Headers:
    """What the headers of pictures tell.

    Attributes:
        sizes: int64 (N, 2), height and width in pixels.
        converted: How many are `transparent`, of `other_colours`, and `turned`; see
            `metrics.images.picture.PictureForm`.
    """

    sizes: np.ndarray
    converted: Mapping[str, int]

    def notes(self, image_size: int) -> list[str]:
        """Return what a person should know who has them cropped to images of a size."""
        enlarged = np.count_nonzero(self.sizes.min(1) < image_size)
        return notes_of_pictures(self.converted, int(enlarged))


def notes_of_pictures(converted: Mapping[str, int], enlarged: int) -> list[str]:
    """Say how many pictures are converted, see `Headers`, and how many enlarged, if any are."""
    told = {
        "transparent": "have transparency, which is dropped as in the reference",
        "other_colours": "are grey, of a palette or of inks, and become RGB",
        "turned": "ask by EXIF to be turned, and are taken as they are stored",
    }
    notes = [f"{n:,} pictures {told[name]}." for name, n in converted.items() if n]
    if enlarged:
        notes.append(f"{enlarged:,} pictures are smaller than the images, and are enlarged.")
    return notes


def read_headers(source: ImageSet, progress: Steps | None = None) -> Headers:
    """Read the header of every picture; `progress` counts them.

    Raises:
        DataError: Some cannot be used, as `ImageSet.form` and `center_crop` say; the message names
            the first three.
    """
    sizes = np.zeros((source.count, 2), np.int64)
    flags = np.zeros((source.count, 3), bool)
    broken: list[str] = []
    for index, found in enumerate(_forms(source)):
        if isinstance(found, PictureForm):
            sizes[index] = found.size
            flags[index] = found.was_transparent, found.was_other_colours, found.is_turned
        else:
            broken.append(found)
        if progress is not None:
            progress(index + 1, source.count)
    if broken:
        raise _broken_error(source, broken)
    names = ("transparent", "other_colours", "turned")
    return Headers(sizes, dict(zip(names, flags.sum(0).tolist(), strict=True)))


def _forms(source: ImageSet) -> Iterator[PictureForm | str]:
    """Yield what each picture is, or what is wrong with it."""
    with ThreadPoolExecutor() as threads:
        for start in range(0, source.count, _AT_ONCE):
            places = range(start, min(start + _AT_ONCE, source.count))
            yield from threads.map(partial(_form, source), places)


def _form(source: ImageSet, place: int) -> PictureForm | str:
    try:
        form = source.form(place)
    except DataError as error:
        return str(error)
    height, width = form.size
    try:
        check_sides(width, height)
    except DataError as error:
        return f"{source.title(place)} {error}"
    return form


def _broken_error(source: ImageSet, broken: list[str]) -> DataError:
    several = "1 file" if len(broken) == 1 else f"{len(broken):,} files"
    named = "; ".join(reason.rstrip(".") for reason in broken[:_NAMED])
    more = f"; and {len(broken) - _NAMED:,} more" if len(broken) > _NAMED else ""
    return DataError(f"{source.name}: {several} to mend or remove: {named}{more}.")
