import numpy as np
import pytest
from PIL import Image, ImageChops

from repa.errors import RepaError
from repa.sheets import contact_sheet, stacked_sheets
from repa.sheets.contact_sheet import MAX_PIXELS, SheetCanvas

RANDOM = np.random.default_rng(0)


def images(count, height=32, width=32):
    return RANDOM.integers(1, 255, (count, height, width, 3), dtype=np.uint8)


def ink(picture):
    """Columns and rows of what is not white: left, top, right, bottom; None if all is."""
    return ImageChops.invert(picture).getbbox()


def test_small_images_stand_enlarged_under_their_labels():
    few = images(12)
    sheet = np.asarray(contact_sheet(few, range(12)))
    assert sheet.shape == (4 + 2 * 82, 4 + 10 * 68, 3)
    for number in range(12):
        top, left = 18 + number // 10 * 82, 4 + number % 10 * 68
        assert np.array_equal(sheet[top : top + 64 : 2, left : left + 64 : 2], few[number])
    assert (sheet[4:16, 4:68] < 100).any()


def test_title_stands_above_and_moves_the_images_down():
    few = images(10)
    plain, titled = contact_sheet(few, range(10)), contact_sheet(few, range(10), title="heun")
    moved = titled.height - plain.height
    assert titled.crop((0, moved, titled.width, titled.height)).tobytes() == plain.tobytes()
    assert ink(titled.crop((0, 0, titled.width, moved))) is not None


@pytest.mark.parametrize("title", ["word " * 60, "x" * 400])
def test_long_title_is_wrapped_and_stays_on_the_sheet(title):
    few = images(1)
    sheet = contact_sheet(few, [7], title=title)
    lines = sheet.height - contact_sheet(few, [7]).height
    left, _, right, bottom = ink(sheet.crop((0, 0, sheet.width, lines)))
    assert lines > 5 * 13 and bottom > lines * 0.8
    assert left > 0 and right < sheet.width


def test_long_caption_widens_small_images_and_is_cut_before_the_next():
    wide = contact_sheet(images(2), ["golden retriever"] * 2)
    assert wide.width > 2 * 68 + 4
    few = images(2)
    sheet = contact_sheet(few, ["a word that is too long for any tile of this size " * 3, "7"])
    assert sheet.width == 2 * 132 + 4
    caption = sheet.crop((4, 0, 132, 16))
    assert ink(caption)[2] > 100 and ink(sheet.crop((132, 0, 136, 16))) is None


def test_caption_runs_over_the_empty_ones_behind_it_in_its_row_only():
    heading = "a name that is as long as three of the tiles"
    sheet = contact_sheet(images(4), [heading, "", "", ""], columns=2)
    assert sheet.width == 2 * 68 + 4
    assert ink(sheet.crop((72, 0, 136, 16))) is not None
    numbered = contact_sheet(images(4), [f"{heading}\n#0", "\n#1", "\n#2", "\n#3"], columns=4)
    assert numbered.width == 4 * 68 + 4
    assert ink(numbered.crop((72, 0, 136, 16))) is not None


def test_images_that_differ_in_size_keep_their_proportions_within_their_cells():
    sheet = SheetCanvas(["a", "b", "c"], None)
    shapes = [(32, 32), (100, 800), (700, 350)]
    for number, shape in enumerate(shapes):
        sheet.put(number, np.zeros((*shape, 3), np.uint8))
    top = sheet.picture.height - 4 - 256
    for number, (height, width) in enumerate([(256, 256), (32, 256), (256, 128)]):
        cell = sheet.picture.crop((4 + number * 260, top, 260 + number * 260, top + 256))
        left, up, right, down = ink(cell)
        assert (down - up, right - left) == (height, width)
        assert (left, up) == ((256 - width) // 2, (256 - height) // 2)


def test_large_images_are_reduced_to_512_pixels():
    sheet = contact_sheet(np.zeros((1, 600, 1024, 3), np.uint8), ["x"])
    assert sheet.width == 512 + 8
    narrow = contact_sheet(images(1, 8, 400), ["x"])
    assert narrow.width == 400 + 8


def test_sheet_that_pillow_would_take_for_an_attack_is_refused_before_it_is_made():
    with pytest.raises(RepaError, match=r"50,000 images make a sheet of .* draw fewer"):
        SheetCanvas(["0"] * 50_000, (256, 256))
    assert Image.MAX_IMAGE_PIXELS is not None and MAX_PIXELS < Image.MAX_IMAGE_PIXELS


def test_stacked_sheets_keep_every_pixel_of_each():
    parts = [contact_sheet(images(n), range(n), title=f"block {n}") for n in (10, 3)]
    whole = stacked_sheets(parts)
    assert whole.size == (parts[0].width, parts[0].height + parts[1].height)
    below = whole.crop((0, parts[0].height, parts[1].width, whole.height))
    assert below.tobytes() == parts[1].tobytes()
    assert whole.crop((0, 0, *parts[0].size)).tobytes() == parts[0].tobytes()


def test_images_and_labels_must_be_as_many():
    for few, labels in ((images(2), [1]), (images(1)[:0], [])):
        with pytest.raises(ValueError, match="make no contact sheet"):
            contact_sheet(few, labels)
