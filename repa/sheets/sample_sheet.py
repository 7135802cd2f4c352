"""The contact sheet of a sampling run: its first images, ordered by class, each under its label."""

from pathlib import Path

import numpy as np
from PIL import Image

from metrics import open_images
from repa.errors import OutputExistsError, RepaError
from repa.sheets.contact_sheet import contact_sheet, save_png
from repa_base.files import check_output

_MAX_IMAGES = 100


def check_sheet(path: Path, *, taken: bool = False) -> None:
    """Find out before a run whether its contact sheet can be written.

    That the name is `taken` is no fault where this run may have made the file.

    Raises:
        RepaError: The name does not end in .png.
        OutputExistsError: The name is taken.
        OSError: No file can be made in the folder.
    """
    if path.suffix.lower() != ".png":
        raise RepaError(f"the contact sheet is a PNG: its name must end in .png, got {path}.")
    check_output(path, overwrite=taken, option="--grid")


def save_sheet(samples: Path, path: Path, *, overwrite: bool = False) -> None:
    """Draw the first images of an NPZ, up to 100, sorted by label.

    If the same sheet is there already it stays.

    Raises:
        OutputExistsError: Another picture has the name, and `overwrite` does not allow it.
        metrics.InputError: The NPZ is damaged.
    """
    source = open_images(samples)
    count = min(_MAX_IMAGES, source.count)
    images = np.concatenate(list(source.batches(count, 0, count)))
    labels = np.zeros(count, int) if source.labels is None else source.labels[:count]
    order = np.argsort(labels, kind="stable")
    sheet = contact_sheet(images[order], labels[order].tolist())
    if path.exists() and not overwrite:
        if _is_picture(path, sheet):
            return
        raise OutputExistsError(f"{path} is another picture; use --overwrite, or another --grid.")
    save_png(sheet, path)


def _is_picture(path: Path, picture: Image.Image) -> bool:
    try:
        with Image.open(path) as found:
            return found.size == picture.size and found.tobytes() == picture.tobytes()
    except (OSError, SyntaxError):
        return False
