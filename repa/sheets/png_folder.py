"""The images of an NPZ as a flat folder of PNG files, for other programs to read.

The files are called 000000.png, 000001.png, ... in the order of the NPZ, without loss; the classes
stand in `dataset.json`, as in a prepared data set. A killed run is continued by repeating it.
"""

import io
import json
import os
import re
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path

import numpy as np
from PIL import Image

from metrics import ImageSource, open_images
from repa.errors import OutputExistsError
from repa.sheets.reading import UNREADABLE, images_at
from repa_base.files import check_output, to_disk, write_text
from repa_base.progress import Steps
from repa_base.workplace import remove_leftovers, workplace

_NUMBERED = re.compile(r"\d{6,}\.png")
_END = b"\0\0\0\0IEND\xaeB`\x82"
"""The last chunk of every PNG: no bytes, its name, the checksum of the name."""
_LABELS = "dataset.json"
_WORKPLACE = "images"
_AT_ONCE = 256
_REMEDY = "use --overwrite, or another --png"


def check_png_folder(
    folder: Path, *, begun: bool = True, overwrite: bool = False, writing: bool = True
) -> None:
    """Find out before a run whether its images can be written to a folder; make the folder.

    Args:
        folder: Where 000000.png and so on shall stand.
        begun: Whether images that are there may be this run's.
        overwrite: Whether they may be replaced if they are not. Files of other names may not.
        writing: Whether to make the folder; see `repa_base.files.check_output`.

    Raises:
        OutputExistsError: It is a file, or holds what this run may not replace.
        OSError: No file can be made in it.
    """
    if folder.exists() and not folder.is_dir():
        raise OutputExistsError(f"{folder} is a file; use another --png.")
    check_output(folder / _LABELS, overwrite=True, writing=writing)
    names = _names_in(folder)
    strange = min((n for n in names if n != _LABELS and not _NUMBERED.fullmatch(n)), default=None)
    if strange is not None:
        raise OutputExistsError(f"{folder} holds {strange}; use an empty folder, another --png.")
    if names and not begun and not overwrite:
        raise OutputExistsError(f"{folder} holds other images; {_REMEDY}.")


def save_png_folder(
    source: Path, folder: Path, *, overwrite: bool = False, progress: Steps | None = None
) -> int:
    """Write every image of a source as a PNG file of a folder, and return how many there are.

    Files that hold their image already stay as they are. Each of the others is there whole or not
    at all; `dataset.json`, with the classes if they are known, comes last.

    Args:
        source: The NPZ, or what else `metrics.open_images` reads.
        folder: Made if need be; it may hold images of this source, and no files of other names.
        overwrite: Whether other images, by number, may be replaced, and removed if they are more.
        progress: Called with how many are done.

    Raises:
        OutputExistsError: The folder holds something else.
        metrics.InputError: The source is damaged.
        OSError: A file cannot be written; the error names it.
    """
    images = open_images(source)
    tell = progress or (lambda done, total: None)
    check_png_folder(folder, overwrite=overwrite)
    width = max(6, len(str(images.count - 1)))
    names = [f"{index:0{width}}.png" for index in range(images.count)]
    there = _names_in(folder)
    _clear(folder, there - {*names}, images, names, overwrite=overwrite)
    present = [index for index, name in enumerate(names) if name in there]
    right = set()
    with ThreadPoolExecutor() as threads:
        for chosen, pictures in _pieces(images, present):
            held = threads.map(_holds, (folder / names[index] for index in chosen), pictures)
            for index, same in zip(chosen, held, strict=True):
                if not same and not overwrite:
                    raise OutputExistsError(f"{folder / names[index]} is another image; {_REMEDY}.")
                right |= {index} if same else set()
            tell(len(right), images.count)
    _write(images, folder, names, sorted({*range(images.count)} - right), tell)
    if images.labels is not None:
        write_text(folder / _LABELS, json.dumps({"labels": _pairs(images, names)}))
    return images.count


def _names_in(folder: Path) -> set[str]:
    """Return the names that are not hidden, which readers of folders of images leave out."""
    if not folder.exists():
        return set()
    return {name for name in os.listdir(folder) if not name.startswith(".")}  # noqa: PTH208


def _clear(
    folder: Path, others: set[str], images: ImageSource, names: Sequence[str], *, overwrite: bool
) -> None:
    """Remove what is no image of this source, if that is allowed; labels of fewer are none."""
    numbered = others - {_LABELS}
    if numbered and not overwrite:
        count = f"{len(numbered)} images beside the {images.count} of this run"
        raise OutputExistsError(f"{folder} holds {count}; {_REMEDY}.")
    if _LABELS in others and not overwrite:
        pairs = [] if images.labels is None else _pairs(images, names)
        found = _labels_in(folder / _LABELS)
        if found is None or found != pairs[: len(found)]:
            raise OutputExistsError(f"{folder / _LABELS} is not of this run; {_REMEDY}.")
    for name in others if overwrite else ():
        (folder / name).unlink()


def _pairs(images: ImageSource, names: Sequence[str]) -> list[list[str | int]]:
    labels = [] if images.labels is None else images.labels.tolist()
    return [[name, label] for name, label in zip(names, labels, strict=True)]


def _labels_in(path: Path) -> list[object] | None:
    try:
        labels = json.loads(path.read_bytes())["labels"]
    except (ValueError, LookupError, TypeError, RecursionError):
        return None
    return labels if isinstance(labels, list) else None


def _pieces(
    images: ImageSource, indices: Sequence[int]
) -> Iterator[tuple[tuple[int, ...], tuple[np.ndarray, ...]]]:
    """Yield numbers and images, as many as are held at once."""
    passing = images_at(images, indices)
    while piece := list(islice(passing, _AT_ONCE)):
        yield tuple(index for index, _ in piece), tuple(image for _, image in piece)


def _holds(path: Path, image: np.ndarray) -> bool:
    """Whether a file is a whole PNG of exactly this image."""
    try:
        content = path.read_bytes()
        with Image.open(io.BytesIO(content), formats=["PNG"]) as found:
            same = found.mode == "RGB" and (found.height, found.width) == image.shape[:2]
            # Pillow does without the end of a file that is cut short.
            same = same and content.endswith(_END)
            return same and np.array_equal(np.asarray(found), image)
    except UNREADABLE:
        return False


def _write(
    images: ImageSource,
    folder: Path,
    names: Sequence[str],
    indices: Sequence[int],
    tell: Steps,
) -> None:
    remove_leftovers(folder, _WORKPLACE)
    done = images.count - len(indices)
    tell(done, images.count)
    # The threads end before the folder that they write into is removed.
    with workplace(folder / _WORKPLACE) as place, ThreadPoolExecutor() as threads:

        def write(index: int, image: np.ndarray) -> None:
            encoded = io.BytesIO()
            Image.fromarray(image).save(encoded, format="PNG")
            partial, path = place / names[index], folder / names[index]
            try:
                partial.write_bytes(encoded.getbuffer())
                to_disk(partial)
                partial.replace(path)
            except OSError as error:
                raise OSError(error.errno, error.strerror, str(path)) from error

        for chosen, pictures in _pieces(images, indices):
            for _ in threads.map(write, chosen, pictures):
                done += 1
                tell(done, images.count)
    to_disk(folder)
