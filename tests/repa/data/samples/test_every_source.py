"""The same pictures give the same samples, whatever form they are trained on in."""

import json
import shutil

import numpy as np
import pytest
import torch
from pictures import class_folders

from repa.data.preparation import PrepareConfig, prepare
from repa.data.samples.opening import open_training_data
from repa.errors import DataError

SIDE, COUNT = 16, 15


def rows(row):
    return np.random.default_rng([12, row])


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return class_folders(tmp_path_factory.mktemp("pictures") / "source")


@pytest.fixture(scope="module")
def sources(source, tmp_path_factory):
    """The pictures as a folder, as a zip, prepared, and as the reference's tools prepare them."""
    folder = tmp_path_factory.mktemp("sources")
    archive = shutil.make_archive(str(folder / "zip"), "zip", source)
    prepared = prepare(
        PrepareConfig(source=source, out=folder / "prepared", image_size=SIDE)
    ).folder
    reference = folder / "reference"
    shutil.unpack_archive(prepared / "images.zip", reference / "images")
    names = json.loads((reference / "images/dataset.json").read_text())["labels"]
    moments = []
    for number, (name, label) in enumerate(names):
        path = reference / "vae-sd" / f"{name[:5]}/img-mean-std-{number:08d}.npy"
        path.parent.mkdir(parents=True, exist_ok=True)
        value = open_training_data(str(source), SIDE).images(np.array([number])).float().mean()
        np.save(path, np.full((8, 2, 2), value, np.float32) * ([[[1]]] * 4 + [[[0]]] * 4))
        moments.append([path.relative_to(reference / "vae-sd").as_posix(), label])
    (reference / "vae-sd/dataset.json").write_text(json.dumps({"labels": moments}))
    return {"folder": source, "zip": archive, "prepared": prepared, "reference": reference}


@pytest.mark.parametrize("kind", ["zip", "prepared"])
@pytest.mark.parametrize("flip", [False, True])
def test_pixels_are_the_same_from_a_folder_a_zip_and_a_prepared_set(sources, kind, flip):
    expected, found = (open_training_data(str(sources[name]), SIDE) for name in ("folder", kind))
    assert (found.count, found.num_classes, found.input_size) == (COUNT, 3, SIDE)
    if flip:
        expected, found = expected.flipping(), found.flipping()
    indices = np.array([14, 0, 7, 7])
    one, other = (data.batch(indices, rows) for data in (expected, found))
    assert torch.equal(one.inputs, other.inputs) and torch.equal(one.labels, other.labels)
    assert torch.equal(one.images, other.images) and other.labels.tolist() == [2, 0, 1, 1]
    assert flip is (one.mirrored is not None and one.mirrored.any() and not one.mirrored.all())


def test_the_references_own_folder_gives_its_latents_with_the_images_and_labels_they_are_of(
    sources,
):
    data = open_training_data(str(sources["reference"]), SIDE)
    assert (data.count, data.num_classes, data.in_channels, data.input_size) == (COUNT, 3, 4, 2)
    indices = np.array([14, 0, 7])
    batch, images = data.batch(indices, rows), data.images(indices)
    assert batch.labels.tolist() == [2, 0, 1]
    pixels = open_training_data(str(sources["folder"]), SIDE)
    assert torch.equal(images, pixels.images(indices))
    means = images.float().mean(dim=(1, 2, 3)) * 0.18215  # deviations are 0
    torch.testing.assert_close(batch.inputs, means.view(3, 1, 1, 1).expand(3, 4, 2, 2))


def test_a_picture_that_is_gone_from_a_folder_is_one_line(source, tmp_path):
    folder = shutil.copytree(source, tmp_path / "source")
    data = open_training_data(str(folder), SIDE)
    (folder / "dog/1.png").unlink()
    with pytest.raises(DataError, match=r"dog/1\.png") as caught:
        data.batch(np.arange(COUNT), rows)
    assert "\n" not in str(caught.value)
