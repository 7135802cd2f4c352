import io

import numpy as np
import pytest
from PIL import Image

from repa.data.png_record import PngForm


@pytest.mark.parametrize("size", [1, 8, 147, 148, 256])  # blocks of 65535 bytes: one, one, two ...
def test_any_decoder_reads_the_file_and_its_size_is_known(size):
    image = np.random.default_rng(size).integers(0, 256, (size, size, 3), dtype=np.uint8)
    form = PngForm(size)
    content = form.encode(image)
    assert len(content) == form.size
    with Image.open(io.BytesIO(content)) as picture:
        assert (picture.format, picture.mode) == ("PNG", "RGB")
        assert np.array_equal(np.asarray(picture), image)
    assert np.array_equal(form.decode(content), image)


def test_a_flipped_byte_of_the_pixels_does_not_pass_a_decoder():
    content = bytearray(PngForm(8).encode(np.zeros((8, 8, 3), np.uint8)))
    content[60] ^= 4
    with pytest.raises((OSError, SyntaxError)), Image.open(io.BytesIO(content)) as picture:
        picture.load()
