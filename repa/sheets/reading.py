"""Some images of a source, without reading the others where that can be; and what Pillow raises."""

from collections.abc import Iterator, Sequence

import numpy as np
from PIL import Image

from metrics import ImageSource
from metrics.images.arrays import FileImages

_BATCH = 64
UNREADABLE = (
    OSError,
    SyntaxError,
    ValueError,
    Image.DecompressionBombError,
    Image.DecompressionBombWarning,
)
"""What reading a PNG raises of one that is damaged, or none."""


def images_at(images: ImageSource, indices: Sequence[int]) -> Iterator[tuple[int, np.ndarray]]:
    """Yield images, uint8 (H, W, 3), by their numbers, which ascend.

    Raises:
        metrics.InputError: The source is damaged.
    """
    # Each look into deflated data begins at its beginning, so that there one pass must do.
    one_pass = isinstance(images, FileImages) and images.entry.deflated
    start = 0
    for end in range(1, len(indices) + 1):
        if end < len(indices) and (one_pass or indices[end] == indices[end - 1] + 1):
            continue
        wanted, index = set(indices[start:end]), indices[start]
        for batch in images.batches(_BATCH, index, indices[end - 1] + 1):
            for image in batch:
                if index in wanted:
                    yield index, image
                index += 1
        start = end
