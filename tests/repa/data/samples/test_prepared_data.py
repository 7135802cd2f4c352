import hashlib
import pickle
import re

import numpy as np
import pytest
import torch
from pictures import class_folders
from prepared_sets import COUNT, LATENT, SPACE, numbered_set, other

from repa.autoencoders.latent_space import SD_LATENTS, LatentSpace
from repa.data.held_out import HeldOutReference, held_out_memory
from repa.data.preparation import PrepareConfig, prepare
from repa.data.samples import open_training_data
from repa.data.samples.prepared_data import PreparedData
from repa.errors import DataError, SettingError

INDICES = np.array([39, 2, 2, 0, 17, 31, 8, 8, 1, 20])


def row(number):
    return np.random.default_rng(100 + number)


def shown(inputs):
    return inputs[:, 0, 0, 0].round().long().tolist()


def test_latents_are_drawn_from_mean_and_deviation_by_each_rows_own_draws_as_the_reference_does():
    deviation = 2.0
    batch = PreparedData(numbered_set(deviation=deviation)).batch(INDICES, row)
    noise = np.stack([row(i).standard_normal((4, LATENT, LATENT)) for i in range(len(INDICES))])
    mean = torch.from_numpy(4.0 * INDICES + 1).float()[:, None, None, None]
    expected = SPACE.from_autoencoder(mean + deviation * torch.from_numpy(noise).float())
    assert torch.equal(batch.inputs, expected) and batch.inputs.dtype == torch.float32


def test_drawn_latents_equal_the_reference(golden):
    arrays, _ = golden("preprocess_train")
    moments, noise = arrays["posterior/moments"], arrays["posterior/noise"]

    class Recorded:
        def __init__(self, number):
            self.noise = noise[number]

        def standard_normal(self, shape):
            assert tuple(shape) == self.noise.shape
            return self.noise.astype(np.float64)

    shape = moments.shape[1:]
    for space, key in ((SD_LATENTS, "z"), (None, "z2")):
        if space is None:  # recorded as z * scale + bias; ours takes x as (z - bias) / scale
            scale, bias = arrays["posterior/scale2"], arrays["posterior/bias2"]
            space = LatentSpace(
                scale=tuple((1 / scale).flatten().tolist()),
                bias=tuple((-bias / scale).flatten().tolist()),
            )
        prepared = other(
            numbered_set(),
            latent_space=space,
            moments_shape=shape,
            rows=lambda key, indices: moments[np.asarray(indices)],
        )
        inputs = PreparedData(prepared).batch(np.arange(2), Recorded).inputs
        expected = torch.from_numpy(arrays[f"posterior/{key}"])
        torch.testing.assert_close(inputs, expected, atol=1e-5, rtol=1e-5)


def pairing(prepared, flip):
    """The numbers that inputs, labels, features and images say, row by row, in whole numbers."""
    data = PreparedData(prepared)
    data = data.flipping() if flip else data
    batch = data.batch(INDICES, row)
    features = data.features("stand-in", INDICES, batch.mirrored)
    images = data.images(INDICES, batch.mirrored)
    sides = images[:, 0, [0, -1], 0].long()
    return batch, shown(batch.inputs), features[:, 0, 0].long().tolist(), sides


@pytest.mark.parametrize("flip", [False, True])
def test_everything_of_a_row_is_of_one_image_and_one_side_of_it(flip):
    batch, inputs, features, sides = pairing(numbered_set(flip=flip), flip)
    mirrored = np.zeros(len(INDICES), bool) if batch.mirrored is None else batch.mirrored
    assert flip == (0 < mirrored.sum() < len(INDICES))
    expected = np.where(mirrored, -INDICES - 1, INDICES).tolist()
    assert inputs == expected == features
    assert batch.labels.tolist() == batch.indices.tolist() == INDICES.tolist()
    assert batch.labels.dtype == torch.int64
    # The left half is bright, and of a mirrored image the right one.
    bright = sides.max(1).values.tolist()
    assert bright == INDICES.tolist()
    right = (sides[:, 1] > sides[:, 0]).numpy()
    assert np.array_equal(right[INDICES > 0], mirrored[INDICES > 0])


@pytest.mark.parametrize("part", ["labels", "moments", "features/stand-in", "images"])
def test_a_set_with_one_part_shifted_would_be_seen(part):
    with pytest.raises(AssertionError):
        batch, inputs, features, sides = pairing(numbered_set(shift=(part,)), False)
        assert inputs == features == batch.labels.tolist() == sides[:, 0].tolist() == list(INDICES)


def test_flips_are_drawn_a_row_and_before_its_noise():
    data = PreparedData(numbered_set(flip=True, deviation=1.0)).flipping()
    whole, part = data.batch(INDICES, row), data.batch(INDICES[:3], row)
    assert torch.equal(whole.inputs[:3], part.inputs)
    assert whole.mirrored[:3].tolist() == part.mirrored.tolist()
    assert whole.mirrored.tolist() == [row(i).random() < 0.5 for i in range(len(INDICES))]


def test_half_of_the_samples_are_mirrored():
    data = PreparedData(numbered_set(flip=True)).flipping()
    mirrored = data.batch(np.zeros(4000, np.int64), row).mirrored
    assert abs(mirrored.sum() - 2000) < 160  # five deviations of a binomial count


def test_what_was_not_prepared_of_mirrored_images_is_an_error_of_flip():
    with pytest.raises(SettingError, match="has no moments of mirrored images") as caught:
        PreparedData(numbered_set()).flipping()
    assert caught.value.field == "flip"
    pixels = PreparedData(numbered_set(latents=False)).flipping()
    assert pixels.batch(INDICES, row).mirrored.any()
    with pytest.raises(SettingError, match="no stand-in's features of mirrored images"):
        pixels.features("stand-in", np.arange(1))


def test_without_moments_the_inputs_are_pixels():
    batch = PreparedData(numbered_set(latents=False)).batch(INDICES, row)
    assert batch.inputs.shape == (len(INDICES), 3, 16, 16)
    assert ((batch.inputs[:, 0, 0, 0] + 1) * 127.5).round().long().tolist() == INDICES.tolist()


def test_the_data_can_be_handed_to_another_process():
    data = pickle.loads(pickle.dumps(PreparedData(numbered_set(deviation=1.0))))
    ours = PreparedData(numbered_set(deviation=1.0)).batch(INDICES, row)
    assert torch.equal(data.batch(INDICES, row).inputs, ours.inputs)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels": np.arange(COUNT - 1)}, "labels are not one of 40 classes for each of 40"),
        ({"num_classes": COUNT - 1}, "labels are not one of 39 classes"),
        ({"labels": np.arange(COUNT) - 1}, "labels are not one of 40 classes"),
        ({"moments_shape": (8, 8, 4)}, "moments of 8 x 8 x 4 are no square"),
        ({"moments_shape": (7, 8, 8)}, "moments of 7 x 8 x 8 are no square"),
        ({"latent_space": None}, "no square mean and std"),
        ({"latent_space": LatentSpace("x", scale=(1.0, 2.0))}, "have 4 channels.* is one of 2"),
    ],
)
def test_parts_that_do_not_fit_are_refused_in_one_line(changes, message):
    with pytest.raises(DataError, match=message) as caught:
        PreparedData(other(numbered_set(), **changes))
    assert "\n" not in str(caught.value)


def test_the_name_is_none_that_a_registered_data_set_has():
    assert re.fullmatch(r"numbered@[0-9a-f]{8}", PreparedData(numbered_set()).name)


def test_what_was_held_out_is_named_by_the_data_and_found_once_a_run_has_begun(
    tmp_path, monkeypatch
):
    monkeypatch.setenv("REPA_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    content = b"statistics"
    sha256 = hashlib.sha256(content).hexdigest()

    def make(folder):
        (folder / "held-out-inception.npz").write_bytes(content)
        return {"file": "held-out-inception.npz", "sha256": sha256, "network": "inception"}

    for held_out, name in ((3, "some"), (None, "none")):
        config = PrepareConfig(
            source=class_folders(tmp_path / "src"),
            out=tmp_path / name,
            image_size=16,
            held_out=held_out,
        )
        prepare(config, make_reference=make)
    data = open_training_data(str(tmp_path / "some"), 16)
    assert data.reference == HeldOutReference(data.name, sha256, "inception")
    data.record(print)
    assert held_out_memory(sha256).read_text() == str(tmp_path / "some" / "held-out-inception.npz")
    assert open_training_data(str(tmp_path / "none"), 16).reference is None
