"""Images that do not fit into the memory at once."""

import numpy as np
import pytest
import torch
from stand_in import stand_in

from metrics import measure, open_images
from repa_base.errors import NoMemoryError


def test_images_that_do_not_fit_at_once_are_said_with_fewer(tmp_path):
    def full(pixels):
        raise torch.OutOfMemoryError("CUDA out of memory.")

    np.savez(tmp_path / "few.npz", np.zeros((9, 8, 8, 3), np.uint8))
    network = stand_in(outputs=full)
    said = "^out of memory for 6 images at once: try repa fid --batch-size 3\\.$"
    with pytest.raises(NoMemoryError, match=said):
        measure(open_images(tmp_path / "few.npz"), network, batch_size=6)
