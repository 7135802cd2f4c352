"""Images that do not fit into the memory at once."""

import numpy as np
import pytest
import torch
from stand_in import stand_in

from metrics import measure, open_images
from repa_base.errors import NoMemoryError


@pytest.mark.parametrize(
    ("batch_size", "said"),
    [
        (6, "for 6 images at once: try a batch size of 3"),
        (1, "for one image: compute on a device that has more"),
    ],
)
def test_images_that_do_not_fit_at_once_are_said_with_fewer(tmp_path, batch_size, said):
    def full(pixels):
        raise torch.OutOfMemoryError("CUDA out of memory.")

    np.savez(tmp_path / "few.npz", np.zeros((9, 8, 8, 3), np.uint8))
    network = stand_in(outputs=full)
    with pytest.raises(NoMemoryError, match=rf"^out of memory {said}\.$"):
        measure(open_images(tmp_path / "few.npz"), network, batch_size=batch_size)
