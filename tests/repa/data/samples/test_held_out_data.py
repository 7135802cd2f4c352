"""Images held out of a prepared set, with their labels, as the run sees them."""

import numpy as np
import pytest
from pictures import class_folders

from repa.data import held_out_images, open_prepared
from repa.data.preparation import PrepareConfig, prepare
from repa.data.prepared_set import held_out_labels
from repa.data.samples.prepared_data import PreparedData
from repa.data.sources import open_source
from repa.errors import DataError


@pytest.fixture
def folder(tmp_path):
    source, out = class_folders(tmp_path / "src"), tmp_path / "set"
    prepare(PrepareConfig(source=source, out=out, image_size=16, held_out=6))
    return out


def test_images_held_out_are_the_pictures_that_were_not_kept_with_their_classes(folder):
    prepared, source = open_prepared(folder), open_source(folder.parent / "src")
    pictures = {source.image(row, 16).tobytes(): source.labels[row] for row in range(source.count)}
    held = held_out_images(PreparedData(prepared), 100)
    assert held.images.shape == (6, 16, 16, 3) and held.labels.dtype.is_signed
    for image, label in zip(held.images.numpy(), held.labels.tolist(), strict=True):
        assert pictures[image.tobytes()] == label
    kept = {image.tobytes() for image in prepared.images(range(prepared.count))}
    assert not kept & {image.tobytes() for image in held.images.numpy()}
    few = held_out_images(PreparedData(prepared), 3)
    assert np.array_equal(few.images, held.images[::2])
    assert few.labels.tolist() == held.labels[::2].tolist() == [0, 1, 2]


def test_damaged_labels_of_held_out_images_are_named(folder):
    prepared, path = open_prepared(folder), folder / "held-out.zip"
    content = path.read_bytes()
    place = content.index(b'{"labels"')
    for damage in (b"[", b"9"):
        end = content.index(b"]]", place)
        path.write_bytes(content[: end - 1] + damage + content[end:])
        with pytest.raises(DataError, match=r"held-out\.zip: its labels|none of its classes"):
            held_out_labels(prepared)
