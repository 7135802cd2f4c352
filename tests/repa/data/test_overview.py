"""What is said of a data set, against hand counts and plain arithmetic."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from pictures import class_folders
from PIL import Image
from tiny_autoencoder import save_tiny_autoencoder

from repa.autoencoders.autoencoder import find_autoencoder
from repa.autoencoders.latent_space import SD_LATENTS
from repa.data.overview import images_to_show, open_set, overview
from repa.data.preparation import PrepareConfig, prepare
from repa.errors import DataError


@pytest.fixture
def source(tmp_path):
    return class_folders(tmp_path / "src")


def prepared_set(source, out):
    prepare(PrepareConfig(source=source, out=out, image_size=16, held_out=3))
    return open_set(out)


def with_moments(data, mean, deviation):
    """A prepared set whose moments are these, (N, 4, 2, 2)."""
    moments = np.concatenate([mean, deviation], axis=1).astype(np.float32)

    def rows(key, indices):
        return moments[list(indices)]

    changes = {"latent_space": SD_LATENTS, "moments_shape": (8, 2, 2), "rows": rows}
    return replace(data, **changes)


def test_a_plain_folder_is_counted(source):
    found = overview(open_set(source))
    assert (found["images"], found["classes"]) == (15, 3)
    assert found["images_by_class"] == {"cat": 5, "dog": 5, "emu": 5}
    assert found["sizes"] == {"width": [30, 30], "height": [20, 20], "cut": 15}
    assert found["converted"] == {"transparent": 0, "other_colours": 0, "turned": 0}


def test_pictures_that_are_converted_are_told_of_and_one_that_is_broken_is_refused(source):
    Image.new("RGBA", (9, 7)).save(source / "cat/new.png")
    Image.new("L", (7, 9)).save(source / "dog/new.png")
    found = overview(open_set(source))
    assert found["converted"] == {"transparent": 1, "other_colours": 1, "turned": 0}
    assert found["sizes"] == {"width": [7, 30], "height": [7, 20], "cut": 17}
    (source / "emu/1.png").write_bytes((source / "emu/1.png").read_bytes()[:99])
    with pytest.raises(DataError, match=r"emu/1\.png is not a readable image"):
        overview(open_set(source))


def test_a_prepared_set_tells_of_what_it_was_made(source, tmp_path):
    found = overview(prepared_set(source, tmp_path / "out"))
    assert (found["images"], found["image_size"]) == (12, 16)
    assert found["images_by_class"] == {"cat": 4, "dog": 4, "emu": 4}
    assert found["sizes"]["cut"] == 15 and found["held_out"]["count"] == 3
    assert found["latents"] is None and not found["warnings"]


def test_the_digits_are_counted():
    found = overview(open_set("digits"))
    assert found["images"] == 901 and found["held_out"]["count"] == 896


def test_latents_have_the_mean_and_deviation_of_what_a_model_sees(source, tmp_path):
    random = np.random.default_rng(0)
    mean, deviation = random.normal(size=(12, 4, 2, 2)) * 4 + 1, random.uniform(3, 4, (12, 4, 2, 2))
    data = with_moments(prepared_set(source, tmp_path / "out"), mean, deviation)
    found = overview(data)
    draws = (mean + deviation * random.normal(size=(20_000, 12, 4, 2, 2))) * 0.18215
    latents = found["latents"]
    # 960,000 values a channel: errors of a mean and a deviation near 1 are about 0.001.
    np.testing.assert_allclose(latents["mean"], draws.mean((0, 1, 3, 4)), atol=0.005)
    np.testing.assert_allclose(latents["std"], draws.std((0, 1, 3, 4)), atol=0.005)
    assert latents["measured"] == 12 and not found["warnings"]


@pytest.mark.parametrize("factor", [0.18215, 1 / 0.18215])
def test_a_scale_that_is_left_out_or_applied_twice_is_said(source, tmp_path, factor):
    mean = np.random.default_rng(0).normal(size=(12, 4, 2, 2)) * 4
    data = prepared_set(source, tmp_path / "out")
    assert not overview(with_moments(data, mean, np.full_like(mean, 0.1)))["warnings"]
    (warning,) = overview(with_moments(data, mean * factor, np.full_like(mean, 0.01)))["warnings"]
    assert "far from mean 0 and standard deviation 1" in warning


def test_pixels_have_no_moments_to_decode(source, tmp_path):
    data = prepared_set(source, tmp_path / "out")
    for each in (data, open_set(source)):
        with pytest.raises(DataError, match=r"moments|latents"):
            images_to_show(each, object()).read(0)
    assert np.array_equal(images_to_show(data).read(5), data.images([5])[0])


def test_latents_are_shown_as_the_autoencoder_decodes_their_means(source, tmp_path):
    vae = save_tiny_autoencoder(tmp_path / "vae", scaling_factor=0.3)
    made = {"source": source, "out": tmp_path / "out", "image_size": 16}
    data = open_set(prepare(PrepareConfig(**made, autoencoder=str(vae))).folder)
    shown = images_to_show(data, find_autoencoder(vae))
    network, moments = find_autoencoder(vae).network, torch.from_numpy(data.moments([4, 11]))
    decoded = [
        ((part + 1) * 127.5).clamp(0, 255).permute(0, 2, 3, 1).numpy()
        for latents in (moments[:, :4], moments[:, 4:], moments[:, :4] * 0.3)
        for part in [network.decode(latents).sample]
    ]
    found = np.stack([shown.read(4), shown.read(11)])
    assert found.dtype == np.uint8
    np.testing.assert_allclose(found, decoded[0], atol=0.51)  # rounded
    for other in decoded[1:]:  # the deviations, and means that were scaled
        assert np.abs(other - decoded[0]).max() > 2
