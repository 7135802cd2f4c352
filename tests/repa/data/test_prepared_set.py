"""Damage of a prepared set is one line that names the file; the reference's own set is read."""

import json
import pickle

import numpy as np
import pytest
from pictures import class_folders, draw, noise
from PIL import Image

from repa.data import center_crop, is_prepared, open_prepared
from repa.data.preparation import PrepareConfig, prepare
from repa.errors import DataError
from repa_base.checksums import sealed


@pytest.fixture
def folder(tmp_path):
    source, out = class_folders(tmp_path / "src"), tmp_path / "out"
    prepare(PrepareConfig(source=source, out=out, image_size=16, batch_size=4, num_threads=2))
    return out


def flip(path, at):
    content = bytearray(path.read_bytes())
    content[at] ^= 16
    path.write_bytes(content)


def change_manifest(folder, **changes):
    path = folder / "prepared.json"
    manifest = json.loads(path.read_text())
    del manifest["crc32"]
    path.write_text(json.dumps(sealed({**manifest, **changes})))


def longer(path):
    path.write_bytes(path.read_bytes() + b"x")


def cut(path):
    path.write_bytes(path.read_bytes()[:-9])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: (f / "prepared.json").unlink(), r"is no prepared set \(no prepared.json"),
        (lambda f: flip(f / "prepared.json", 40), r"prepared\.json is damaged"),
        (lambda f: (f / "prepared.json").write_text("[" * 9999), r"prepared\.json is damaged"),
        (lambda f: (f / "prepared.json").write_bytes(b"\xff\xfe"), r"prepared\.json is damaged"),
        (lambda f: change_manifest(f, format=9), "is of format 9"),
        (lambda f: change_manifest(f, image_size=None), "lacks something"),
        (lambda f: change_manifest(f, encoders=[{}]), "lacks something"),
        (lambda f: change_manifest(f, labels="0" * 64), "labels are not those"),
        (lambda f: cut(f / "images.zip"), r"images\.zip is cut short"),
        (lambda f: (f / "images.zip").unlink(), r"images\.zip is missing"),
        (lambda f: longer(f / "images.zip"), r"images\.zip is too long"),
        (lambda f: flip(f / "checksums.npz", 250), r"checksums\.npz is damaged"),
    ],
)
def test_damaged_set_is_named_in_one_line(folder, damage, message):
    damage(folder)
    with pytest.raises(DataError, match=message) as caught:
        open_prepared(folder)
    assert "\n" not in str(caught.value) and str(folder) in str(caught.value)


def test_every_row_is_checked_when_it_is_read(folder):
    flip(folder / "images.zip", 1000)
    prepared = open_prepared(folder)
    assert prepared.images([0, 2]).shape == (2, 16, 16, 3)
    with pytest.raises(DataError, match=r"images\.zip: row 1 is not as it was written"):
        prepared.images([0, 1])


def test_rows_that_are_not_there_are_an_error_of_the_caller(folder):
    prepared = open_prepared(folder)
    for wrong in ([15], [-1]):
        with pytest.raises(IndexError):
            prepared.images(wrong)


def test_what_was_not_prepared_is_said(folder):
    prepared = open_prepared(folder)
    with pytest.raises(DataError, match="holds no latents: prepare it with --autoencoder"):
        prepared.moments([0])
    with pytest.raises(DataError, match="holds no features of 'dino'"):
        prepared.features("dino", [0])


def test_set_travels_to_other_processes(folder):
    prepared = open_prepared(folder)
    assert np.array_equal(pickle.loads(pickle.dumps(prepared)).images([3]), prepared.images([3]))


def test_what_is_no_set_is_refused(tmp_path):
    with pytest.raises(DataError, match="no such folder"):
        open_prepared(tmp_path / "absent")
    assert not is_prepared(tmp_path)


@pytest.fixture
def reference(tmp_path):
    """What the reference's tools leave: images, moments of one each, and labels beside both."""
    folder = tmp_path / "reference"
    labels = []
    for number in range(3):
        draw(folder / f"images/00000/img{number:08d}.png", center_crop(noise(number), 16))
        moments = np.full((8, 2, 2), number, np.float32)
        path = folder / f"vae-sd/00000/img-mean-std-{number:08d}.npy"
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, moments)
        labels.append([path.relative_to(folder / "vae-sd").as_posix(), 2 - number])
    (folder / "vae-sd" / "dataset.json").write_text(json.dumps({"labels": labels}))
    return folder


def test_the_references_own_folder_is_read_in_place(reference):
    prepared = open_prepared(reference)
    assert (prepared.count, prepared.num_classes, prepared.image_size) == (3, 3, 16)
    assert prepared.labels.tolist() == [2, 1, 0]
    assert prepared.moments([2, 0])[:, 0, 0, 0].tolist() == [2, 0]
    assert prepared.latent_space.autoencoder == "sd-vae-ft-mse"
    assert 1 / prepared.latent_space.scale == 0.18215
    assert np.array_equal(prepared.images([1])[0], center_crop(noise(1), 16))
    assert prepared.encoders == () and prepared.moments_shape == (8, 2, 2)
    assert open_prepared(reference).identity == prepared.identity


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            lambda f: (f / "vae-sd/00000/img-mean-std-00000002.npy").unlink(),
            "3 images and 2 moments",
        ),
        (lambda f: (f / "vae-sd/dataset.json").write_text("{}"), r"dataset\.json must hold"),
        (
            lambda f: (f / "vae-sd/dataset.json").write_text('{"labels": [["a", 1]]}'),
            "names no class",
        ),
        (
            lambda f: np.save(f / "vae-sd/00000/img-mean-std-00000000.npy", np.zeros((7, 2, 2))),
            "not mean and deviation",
        ),
        (lambda f: cut(f / "vae-sd/00000/img-mean-std-00000000.npy"), "cannot be read"),
    ],
)
def test_poor_folder_of_the_reference_is_refused(reference, damage, message):
    damage(reference)
    with pytest.raises(DataError, match=message) as caught:
        open_prepared(reference)
    assert "\n" not in str(caught.value)


def image_labels(folder, labels):
    """Write the list of classes that lies beside the images."""
    pairs = [[f"00000/img{i:08d}.png", label] for i, label in enumerate(labels)]
    text = json.dumps({"labels": pairs if len(labels) else None})
    (folder / "images/dataset.json").write_text(text)


@pytest.mark.parametrize("labels", [[2, 1, 0], []])
def test_equal_labels_of_images_and_moments_are_read_as_one(reference, labels):
    expected = open_prepared(reference).labels.tolist()
    image_labels(reference, labels)
    assert open_prepared(reference).labels.tolist() == expected == [2, 1, 0]


def test_folders_by_number_are_no_classes_that_moments_could_disagree_with(reference):
    """As in the reference: 1,000 images a folder, and their classes with the moments alone."""
    for ending in ("images/{}/img{}.png", "vae-sd/{}/img-mean-std-{}.npy"):
        last = reference / ending.format("00001", "00001000")
        last.parent.mkdir()
        (reference / ending.format("00000", "00000002")).rename(last)
    path = reference / "vae-sd/dataset.json"
    path.write_text(
        path.read_text().replace("00000/img-mean-std-00000002", "00001/img-mean-std-00001000")
    )
    assert open_prepared(reference).labels.tolist() == [2, 1, 0]


@pytest.mark.parametrize("labels", [[1, 1, 0], [2, 1, 5]])
def test_labels_of_images_that_are_not_those_of_their_moments_are_refused(reference, labels):
    image_labels(reference, labels)
    place = 0 if labels[0] == 1 else 2
    told = rf"img0000000{place}\.png is of class {labels[place]} and its moments, .*"
    told += rf"img-mean-std-0000000{place}\.npy, of class {2 - place}, "
    with pytest.raises(DataError, match=told) as caught:
        open_prepared(reference)
    assert "\n" not in str(caught.value)


def test_moments_of_another_number_than_their_image_are_refused(reference):
    """One is missing on each side, so that as many are left and all behind belong to another."""
    (reference / "images/00000/img00000000.png").unlink()
    (reference / "vae-sd/00000/img-mean-std-00000001.npy").unlink()
    told = r"img00000001\.png and .*img-mean-std-00000000\.npy have other numbers"
    with pytest.raises(DataError, match=told) as caught:
        open_prepared(reference)
    assert "\n" not in str(caught.value)


def test_files_named_otherwise_belong_together_by_their_order_alone(reference):
    for number in range(3):
        image = reference / f"images/00000/img{number:08d}.png"
        image.rename(image.with_name(f"{'abc'[number]}.png"))
    assert open_prepared(reference).labels.tolist() == [2, 1, 0]


def test_rows_of_the_reference_that_do_not_fit_are_named(reference):
    np.save(reference / "vae-sd/00000/img-mean-std-00000001.npy", np.zeros((8, 4, 4), np.float32))
    Image.new("RGB", (8, 16)).save(reference / "images/00000/img00000002.png")
    prepared = open_prepared(reference)
    with pytest.raises(DataError, match=r"00000001\.npy is float32 of shape \(8, 4, 4\)"):
        prepared.moments([1])
    with pytest.raises(DataError, match=r"img00000002\.png is 8 x 16, not 16 x 16"):
        prepared.images([2])
