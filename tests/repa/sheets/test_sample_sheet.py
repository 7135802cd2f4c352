import json

import numpy as np
import pytest
from PIL import Image

from metrics import open_images
from metrics.images.arrays import ArrayImages, FileImages
from repa.errors import OutputExistsError, RepaError
from repa.sheets import save_sheet, source_sheet
from repa.sheets.contact_sheet import SheetCanvas

MANIFEST = {"model": "tiny", "dataset": "digits", "solver": "heun", "num_steps": 3, "seed": 4}


def numbered(count):
    """Images of 8 by 8 pixels that are all of their own number."""
    return np.broadcast_to(np.arange(count, dtype=np.uint8)[:, None, None, None], (count, 8, 8, 3))


def write(path, count=30, labels=None, save=np.savez, **changes):
    made = json.dumps({**MANIFEST, "num_images": count, **changes})
    labels = np.arange(count) % 5 if labels is None else np.asarray(labels)
    save(path, arr_0=numbered(count), arr_1=labels, manifest=made)
    return path


@pytest.fixture
def drawn(monkeypatch):
    """What sheets are made of: their captions, titles and columns, and the images' numbers."""
    sheets = []

    class Recorded(SheetCanvas):
        def __init__(self, captions, shape, **options):
            super().__init__(captions, shape, **options)
            self.captions, self.title, self.columns = captions, options["title"], options["columns"]
            self.cells = [None] * len(captions)
            sheets.append(self)

        def put(self, number, image):
            super().put(number, image)
            self.cells[number] = int(image[0, 0, 0])

    monkeypatch.setattr("repa.sheets.sample_sheet.SheetCanvas", Recorded)
    return sheets


def test_first_images_stand_sorted_by_class_under_title_and_classes(tmp_path, drawn):
    _, count = source_sheet(open_images(write(tmp_path / "a.npz", 150)))
    (sheet,) = drawn
    assert count == 100
    assert sheet.cells == sorted(range(100), key=lambda index: (index % 5, index))
    assert sheet.captions == [str(index % 5) for index in sheet.cells]
    assert sheet.title == "tiny · heun in 3 steps · seed 4 · 100 of 150 images"


def test_numbers_are_those_of_the_source(tmp_path, drawn):
    source_sheet(open_images(write(tmp_path / "a.npz")), first=20, count=6, numbers=True)
    (sheet,) = drawn
    assert sheet.cells == [20, 25, 21, 22, 23, 24]
    assert sheet.captions == [f"{index % 5}\n#{index}" for index in sheet.cells]
    assert sheet.title.endswith("images 20 to 25 of 30")


def test_rows_of_classes_hold_the_first_images_of_each(tmp_path, drawn):
    labels = [2, 0, 1, 0, 0, 2, 1, 0]
    path = write(tmp_path / "a.npz", 8, labels)
    source_sheet(open_images(path), by_class=True, numbers=True)
    source_sheet(open_images(path), by_class=True, columns=2, count=4, first=1)
    whole, two = drawn
    assert whole.columns == 4
    assert whole.cells == [1, 3, 4, 7, 2, 6, None, None, 0, 5, None, None]
    assert whole.captions[:5] == ["0\n#1", "\n#3", "\n#4", "\n#7", "1\n#2"]
    assert whole.captions[6] == "\n"
    assert (two.cells, two.captions) == ([1, 3, 2, 6], ["0", "", "1", ""])


def test_rows_are_ten_unless_a_count_is_given_and_spread_over_many_classes(tmp_path, drawn):
    path = write(tmp_path / "a.npz", 200, np.arange(200) % 100)
    source_sheet(open_images(path), by_class=True, columns=3)
    source_sheet(open_images(path), by_class=True, columns=2, count=9)
    ten, four = drawn
    assert [caption for caption in ten.captions if caption] == [str(10 * row) for row in range(10)]
    assert [caption for caption in four.captions if caption] == ["0", "25", "50", "75"]


def test_a_row_of_a_class_is_no_longer_than_the_count(tmp_path, drawn):
    _, count = source_sheet(open_images(write(tmp_path / "a.npz")), by_class=True, count=4)
    assert (count, drawn[0].cells) == (4, [0, 5, 10, 15])


def test_classes_of_imagenet_are_named(tmp_path, drawn):
    path = write(tmp_path / "a.npz", 2, [207, 0], dataset="imagenet-256")
    source_sheet(open_images(path))
    assert drawn[0].captions == ["0 tench", "207 golden retriever"]


def test_a_label_below_0_is_written_as_it_is_and_is_not_the_last_class(tmp_path, drawn):
    images = open_images(write(tmp_path / "a.npz", 2, [-1, 1]))
    source_sheet(images)
    source_sheet(images, class_names=("cat", "dog"))
    assert [sheet.captions for sheet in drawn] == [["-1", "1"], ["-1", "dog"]]


def test_source_without_manifest_and_labels_is_titled_by_its_name(tmp_path, drawn):
    np.savez(tmp_path / "reference.npz", arr_0=numbered(3))
    (tmp_path / "photos").mkdir()
    for number, size in enumerate([(8, 8), (300, 20)]):
        Image.new("RGB", size).save(tmp_path / f"photos/{number}.png")
    for name in ("reference.npz", "photos"):
        source_sheet(open_images(tmp_path / name))
    reference, photos = drawn
    assert (reference.title, reference.captions) == ("reference.npz · 3 images", [""] * 3)
    assert photos.title == "photos · 2 images · of several sizes, fitted"
    source_sheet(ArrayImages(np.zeros((1, 600, 700, 3), np.uint8)))
    assert drawn[2].title == "array · 1 images · reduced from 700 x 600 pixels"


@pytest.mark.parametrize(("save", "most"), [(np.savez, 6), (np.savez_compressed, 27)])
def test_only_the_images_that_are_drawn_are_read(tmp_path, drawn, monkeypatch, save, most):
    passed = []
    batches = FileImages.batches

    def watched(self, *arguments):
        for batch in batches(self, *arguments):
            passed.extend(batch[:, 0, 0, 0].tolist())
            yield batch

    labels = np.full(200, 7)
    labels[[3, 4, 29]], labels[[10, 11, 20]] = 0, 1
    path = write(tmp_path / "a.npz", 200, labels, save)
    monkeypatch.setattr(FileImages, "batches", watched)
    source_sheet(open_images(path), by_class=True, columns=3, count=6)
    assert drawn[0].cells == [3, 4, 29, 10, 11, 20]
    assert len(passed) <= most


def test_sheet_of_the_same_run_is_drawn_anew_and_another_picture_stays(tmp_path):
    sheet = tmp_path / "sheet.png"
    save_sheet(write(tmp_path / "a.npz", 8), sheet)
    before = sheet.read_bytes()
    save_sheet(write(tmp_path / "a.npz", 16), sheet)
    assert sheet.read_bytes() != before
    other = write(tmp_path / "b.npz", 16, seed=5)
    for source in (other, write(tmp_path / "a.npz", 16)):
        Image.new("RGB", (9, 9)).save(tmp_path / "photo.png")
        with pytest.raises(OutputExistsError, match="is another picture"):
            save_sheet(source, tmp_path / "photo.png")
    with pytest.raises(OutputExistsError, match=r"sheet\.png is another picture"):
        save_sheet(other, sheet)
    assert save_sheet(other, sheet, overwrite=True) == 16


def test_what_cannot_be_drawn_is_said(tmp_path):
    np.savez(tmp_path / "plain.npz", arr_0=numbered(3))
    plain = open_images(tmp_path / "plain.npz")
    with pytest.raises(RepaError, match="has images 0 to 2, and none 3"):
        source_sheet(plain, first=3)
    with pytest.raises(RepaError, match="does not tell the classes"):
        source_sheet(plain, by_class=True)
