"""The contact sheet of images in a file or folder, titled by how they were made."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from metrics import ImageSource, open_images
from repa.errors import OutputExistsError, RepaError, SettingError
from repa.sheets.contact_sheet import LARGEST_TILE, SheetCanvas, save_png
from repa.sheets.reading import UNREADABLE, images_at
from repa.sheets.titles import class_namer, sampling_title
from repa_base.files import check_output

_SOURCE = "repa-source"
"""Keyword of the PNG's text that says of what images it is."""


def check_sheet(
    path: Path, *, taken: bool = False, option: str = "--grid", writing: bool = True
) -> None:
    """Find out before a run whether its contact sheet can be written.

    That the name is `taken` is no fault where this run may have made the file. If not `writing`,
    nothing is made; see `repa_base.files.check_output`.

    Raises:
        SettingError: The name does not end in .png; its field is the `option`'s.
        OutputExistsError: The name is taken.
        OSError: No file can be made in the folder.
    """
    if path.suffix.lower() != ".png":
        reason = f"the contact sheet is a PNG: its name must end in .png, got {path}."
        raise SettingError(option.removeprefix("--"), reason)
    check_output(path, overwrite=taken, option=option, writing=writing)


def is_sheet(path: Path) -> bool:
    """Whether a file is a contact sheet that `save_sheet` has drawn."""
    return _mark_in(path) is not None


def save_sheet(source: Path, path: Path, *, overwrite: bool = False, **drawing: Any) -> int:  # noqa: ANN401
    """Draw images of a file or folder on a PNG, as `source_sheet` does with `drawing`.

    A sheet of the same images, or of fewer of the same run, is drawn anew. Returns how many images
    are on it.

    Raises:
        OutputExistsError: Another picture has the name, and `overwrite` does not allow it.
        RepaError: See `source_sheet`.
        metrics.InputError: The source is damaged, or is no source of images.
    """
    images = open_images(source)
    sheet, count = source_sheet(images, **drawing)
    mark = _mark(images)
    if path.exists() and not overwrite and _mark_in(path) != mark:
        raise OutputExistsError(f"{path} is another picture; use --overwrite, or another --grid.")
    text = PngInfo()
    text.add_text("Software", "repa-toolkit")
    text.add_text(_SOURCE, mark)
    save_png(sheet, path, pnginfo=text)
    return count


def source_sheet(
    images: ImageSource,
    *,
    count: int | None = None,
    columns: int = 10,
    first: int = 0,
    by_class: bool = False,
    numbers: bool = False,
    class_names: Sequence[str] = (),
) -> tuple[Image.Image, int]:
    """Draw images of a source, reading no others; return the sheet and how many are on it.

    Images of one size are shown whole, small ones enlarged, those of more than 512 pixels reduced.
    If they differ in size each is fitted into 256 pixels.

    Args:
        images: From `metrics.open_images`; labels give captions, a manifest the title.
        count: How many at most, at least 1, sorted by class where that is known; None is 100, or
            ten rows `by_class`.
        columns: Images in a row, at least 1.
        first: Number of the image to begin with, from 0.
        by_class: Whether each row is a class, and holds its first images from `first` on. Of more
            classes than rows, some are taken at even distances.
        numbers: Whether each image is captioned with its number in the source, from 0.
        class_names: By label, where the manifest does not tell of which data set they are.

    Raises:
        RepaError: There is no image `first`, no class is known where it must be, or the sheet would
            be too large to be opened.
        metrics.InputError: The source is damaged.
    """
    if not 0 <= first < images.count:
        raise RepaError(f"{images.name} has images 0 to {images.count - 1}, and none {first}.")
    labels = None if images.labels is None else images.labels[first:]
    if by_class and labels is None:
        raise RepaError(f"{images.name} does not tell the classes of its images.")
    count = count or (10 * columns if by_class else 100)
    if by_class and labels is not None:
        columns = min(columns, count)
        cells, columns = _rows_of_classes(labels, count // columns, columns)
    elif labels is not None:
        cells = np.argsort(labels[:count], kind="stable").tolist()
    else:
        cells = list(range(min(count, images.count - first)))
    cells = [None if cell is None else first + cell for cell in cells]
    place_of = {index: place for place, index in enumerate(cells) if index is not None}
    indices = sorted(place_of)
    heading = columns if by_class else None
    captions = _captions(images, cells, class_names, numbers=numbers, heading=heading)
    shape = None if images.shape is None else (images.shape[0], images.shape[1])
    title = _title(images, indices)
    sheet = SheetCanvas(captions, shape, columns=columns, title=title)
    for index, image in images_at(images, indices):
        sheet.put(place_of[index], image)
    return sheet.picture, len(indices)


def _rows_of_classes(
    labels: np.ndarray, num_rows: int, columns: int
) -> tuple[list[int | None], int]:
    """Return which image stands in each cell, and the columns, of which some classes fill few."""
    classes = np.unique(labels)
    num_rows = min(num_rows, len(classes))
    shown = [classes[row * len(classes) // num_rows] for row in range(num_rows)]
    rows = [np.flatnonzero(labels == label)[:columns].tolist() for label in shown]
    columns = max(map(len, rows))
    return [cell for row in rows for cell in (row + [None] * columns)[:columns]], columns


def _captions(
    images: ImageSource,
    cells: Sequence[int | None],
    class_names: Sequence[str],
    *,
    numbers: bool,
    heading: int | None,
) -> list[str]:
    """Write the class, and the number below it; a `heading` names the class once in so many."""
    manifest = images.manifest or {}
    name = class_namer(manifest.get("dataset"), manifest.get("class_names"))
    captions = []
    for place, index in enumerate(cells):
        lines = []
        if images.labels is not None:
            named = index is not None and not (heading and place % heading)
            label = int(images.labels[index]) if named else 0
            known = class_names[label] if 0 <= label < len(class_names) else name(label)
            lines.append(known if named else "")
        if numbers:
            lines.append("" if index is None else f"#{index}")
        captions.append("\n".join(lines))
    return captions


def _title(images: ImageSource, indices: Sequence[int]) -> str:
    parts = [sampling_title(images.manifest or {}) or Path(images.name).name]
    low, high, count = indices[0], indices[-1], len(indices)
    if count == images.count:
        parts.append(f"{count:,} images")
    elif low and high - low == count - 1:
        parts.append(f"images {low:,} to {high:,} of {images.count:,}")
    else:
        parts.append(f"{count:,} of {images.count:,} images")
    if images.shape is None:
        parts.append("of several sizes, fitted")
    elif max(images.shape) > LARGEST_TILE:
        parts.append(f"reduced from {images.shape[1]} x {images.shape[0]} pixels")
    return " · ".join(parts)


def _mark(images: ImageSource) -> str:
    """Return a text that tells the images of one run from others, however many there are."""
    if images.manifest is None:
        return Path(images.name).name
    decisive = {key: value for key, value in images.manifest.items() if key != "num_images"}
    return json.dumps(decisive, sort_keys=True)


def _mark_in(path: Path) -> str | None:
    try:
        with Image.open(path, formats=["PNG"]) as found:
            return getattr(found, "text", {}).get(_SOURCE)
    except UNREADABLE:
        return None
