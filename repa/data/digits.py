"""The digits: scikit-learn's copy of the UCI handwritten digits, enlarged to square RGB images.

1,797 grey images of 8 by 8 pixels in 10 classes.
"""

from typing import Literal

import numpy as np
from PIL import Image

from repa.errors import MissingPackageError

Split = Literal["train", "heldout"]


def load_digits(split: Split, image_size: int) -> tuple[np.ndarray, np.ndarray]:
    """Return one half of scikit-learn's digits: uint8 (N, H, W, 3) and labels int64 (N,).

    Within each class, images go to the halves by turns (training first), so the split is fixed and
    stratified: 901 to train on, 896 held out, in the order of the file. White on black, enlarged by
    bicubic interpolation.

    Raises:
        MissingPackageError: scikit-learn is not installed.
    """
    try:
        from sklearn.datasets import load_digits as load
    except ImportError as error:
        message = "the digits come with scikit-learn: pip install 'repa-toolkit[demo]'"
        raise MissingPackageError(message) from error
    pixels, target = load(return_X_y=True)
    labels = target.astype(np.int64)
    turn = np.zeros(len(labels), dtype=np.int64)
    for label in range(10):
        members = np.flatnonzero(labels == label)
        turn[members] = np.arange(len(members)) % 2
    chosen = np.flatnonzero(turn == ("train", "heldout").index(split))
    grey = np.rint(pixels[chosen].reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8)
    size = (image_size, image_size)
    images = [np.asarray(Image.fromarray(g).resize(size, Image.Resampling.BICUBIC)) for g in grey]
    return np.repeat(np.stack(images)[..., None], 3, axis=3), labels[chosen]
