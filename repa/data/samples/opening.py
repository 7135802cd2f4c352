"""Which data a name or a path stands for."""

from pathlib import Path

import torch

from repa.data.digits import load_digits
from repa.data.prepared_set import is_prepared, is_unfinished, open_prepared
from repa.data.reference_folder import is_reference_folder
from repa.data.samples.picture_data import PictureData
from repa.data.samples.prepared_data import PreparedData
from repa.data.samples.training_data import PixelData, TrainingData
from repa.data.sources import open_source
from repa.errors import DataError, SettingError

BUILT_IN = ("digits",)


def open_training_data(name: str, image_size: int) -> TrainingData:
    """Open a data set for training by its name, or by the path of a folder or zip of images.

    Args:
        name: A built-in set, a prepared set's folder (also one that the reference has prepared), or
            pictures in class folders, in one folder or in a zip, which are cropped on the way.
        image_size: Side of the images in pixels.

    Raises:
        DataError: No such data set, or what is there cannot be read.
        SettingError: It was prepared for another size of images.
        MissingPackageError: The package that holds it is not installed.
    """
    if name not in BUILT_IN:
        return _open_own(Path(name), image_size)
    images, labels = load_digits("train", image_size)
    return PixelData(name, torch.from_numpy(images), torch.from_numpy(labels), num_classes=10)


def open_if_prepared(path: Path) -> PreparedData | None:
    """Open a prepared set, with the size that it has; None for pictures as they lie.

    Raises:
        DataError: The set is damaged, or not finished.
    """
    found = is_prepared(path) or is_reference_folder(path) or is_unfinished(path)
    return PreparedData(open_prepared(path)) if found else None


def _open_own(path: Path, image_size: int) -> TrainingData:
    if not path.exists():
        known = ", ".join(BUILT_IN)
        raise DataError(
            f"no training data is called {path} (known: {known}), and there is no such folder or "
            "zip."
        )
    prepared = open_if_prepared(path)
    if prepared is None:
        return PictureData(open_source(path), image_size)
    if prepared.image_size != image_size:
        raise SettingError(
            "image_size",
            f"image_size is {image_size}, and {path} was prepared with {prepared.image_size}: "
            "leave it out, or prepare the set anew with --image-size and --overwrite.",
        )
    return prepared
