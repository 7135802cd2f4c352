import io

import numpy as np
import pytest
from PIL import Image

from repa.data import center_crop
from repa.errors import DataError

CASES = ["img0_500x375", "img1_333x611", "img2_1200x800", "img3_61x47"]


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("size", [256, 64])
def test_crop_is_the_recorded_one_bit_for_bit(golden, case, size):
    arrays, _ = golden("preprocess_crop")
    picture = Image.open(io.BytesIO(arrays[f"{case}/png"].tobytes())).convert("RGB")
    assert np.array_equal(center_crop(picture, size), arrays[f"{case}/out{size}"])
    assert np.array_equal(center_crop(np.array(picture), size), arrays[f"{case}/out{size}"])


def test_picture_of_the_size_asked_for_is_left_as_it_is():
    picture = np.random.default_rng(0).integers(0, 256, (24, 24, 3), dtype=np.uint8)
    assert np.array_equal(center_crop(picture, 24), picture)


def test_middle_of_the_longer_side_is_kept_and_an_odd_pixel_is_left_at_the_end():
    picture = np.zeros((4, 9, 3), np.uint8)
    picture[:, np.arange(9)] = np.arange(9)[:, None]
    assert center_crop(picture, 4)[0, :, 0].tolist() == [2, 3, 4, 5]
    assert center_crop(picture.transpose(1, 0, 2), 4)[:, 0, 0].tolist() == [2, 3, 4, 5]


@pytest.mark.parametrize("size", [1, 7, 100])
def test_any_square_comes_of_any_picture(size):
    assert center_crop(np.zeros((37, 51, 3), np.uint8), size).shape == (size, size, 3)


def test_what_makes_no_square_is_refused():
    with pytest.raises(DataError, match="1 x 65"):
        center_crop(np.zeros((65, 1, 3), np.uint8), 8)
    assert center_crop(np.zeros((64, 1, 3), np.uint8), 8).shape == (8, 8, 3)
    with pytest.raises(ValueError, match="image_size"):
        center_crop(np.zeros((8, 8, 3), np.uint8), 0)
    with pytest.raises(ValueError, match="RGB"):
        center_crop(Image.new("L", (8, 8)), 8)


def test_longer_side_is_rounded_to_the_nearest_pixel():
    picture = np.random.default_rng(1).integers(0, 256, (3, 5, 3), dtype=np.uint8)
    wide = Image.fromarray(picture).resize((7, 4), Image.Resampling.BICUBIC)  # 5 * 4 / 3 = 6.67
    assert np.array_equal(center_crop(picture, 4), np.asarray(wide)[:, 1:5])
