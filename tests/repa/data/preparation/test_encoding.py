"""Moments and features of prepared sets, and which networks suit which images."""

import shutil

import numpy as np
import pytest
import torch
from pictures import class_folders, content
from safetensors.torch import load_file, save_file
from tiny_autoencoder import save_tiny_autoencoder

from repa.autoencoders import load_autoencoder
from repa.autoencoders.hub import WEIGHTS
from repa.data import open_prepared
from repa.data.preparation import PrepareConfig, encoding, making, plan, prepare, set_folder
from repa.encoders import Encoder
from repa.errors import (
    CheckpointFormatError,
    DataError,
    NonFiniteError,
    OutputExistsError,
    SettingError,
    UnknownNameError,
)


@pytest.fixture
def options(tmp_path):
    class_folders(tmp_path / "src")
    vae = str(save_tiny_autoencoder(tmp_path / "vae"))
    return {
        "source": tmp_path / "src",
        "out": tmp_path / "out",
        "image_size": 16,
        "autoencoder": vae,
        "batch_size": 4,
        "num_threads": 2,
    }


def stand_in(name, dim=3, scale=1.0):
    """An encoder whose features are means over the pixels of a token."""

    class Means(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = torch.nn.Parameter(torch.tensor(scale))

        def forward(self, pixels):
            return torch.nn.functional.avg_pool2d(pixels, 16 // self.grid) * self.scale

    network = Means()

    def preprocess(images, grid_size):
        network.grid = grid_size
        return images.permute(0, 3, 1, 2).float()

    return Encoder(name, network, dim, range(1, 9), preprocess)


def test_moments_are_the_autoencoders_in_blocks_of_the_run(options, tmp_path):
    prepare(PrepareConfig(**options, flip=True))
    prepared, autoencoder = (
        open_prepared(tmp_path / "out"),
        load_autoencoder(options["autoencoder"]),
    )
    images = torch.from_numpy(prepared.images(range(15)))
    for flipped, seen in ((False, images), (True, images.flip(2))):
        expected = torch.cat([autoencoder.encode(block) for block in seen.split(4)]).numpy()
        assert np.array_equal(prepared.moments(range(15), flipped=flipped), expected)
    assert prepared.moments_shape == (8, 4, 4) and prepared.latent_space == autoencoder.latent_space
    array = np.load(tmp_path / "out" / "moments.npy", mmap_mode="r")
    assert array.dtype == np.float32 and np.array_equal(array[3], prepared.moments([3])[0])
    assert prepared.manifest["autoencoder"]["sha256"] == autoencoder.sha256


def test_features_of_several_encoders_have_a_file_each(options, tmp_path, monkeypatch):
    monkeypatch.setattr(encoding, "load_encoder", lambda name, device: stand_in(name))
    prepare(PrepareConfig(**options, encoders=("timm:a/b", "c"), grid_size=4))
    prepared = open_prepared(tmp_path / "out")
    assert prepared.encoders == ("timm:a/b", "c")
    assert prepared.feature_shapes == {"timm:a/b": (16, 3), "c": (16, 3)}
    assert {"features/timm-a-b.npy", "features/c.npy"} <= set(content(tmp_path / "out"))
    images = prepared.images([2]).astype(np.float32)[0]
    means = images.reshape(4, 4, 4, 4, 3).mean((1, 3)).reshape(16, 3)
    assert np.allclose(prepared.features("timm:a/b", [2])[0], means, atol=0.1)
    with pytest.raises(DataError, match=r"holds no features of 'd'.*known: c, timm:a/b"):
        prepared.features("d", [0])
    with pytest.raises(DataError, match="prepare with --flip"):
        prepared.moments([0], flipped=True)


def test_features_too_large_for_half_precision_are_named(options, monkeypatch):
    monkeypatch.setattr(encoding, "load_encoder", lambda name, device: stand_in(name, scale=1e4))
    with pytest.raises(NonFiniteError, match=r"cat/0\.png: its features/c are not finite"):
        prepare(PrepareConfig(**options, encoders=("c",), grid_size=4))


def test_networks_that_do_not_suit_are_refused_before_anything_is_made(options, tmp_path):
    for changes, error, words in (
        ({"image_size": 18}, SettingError, "multiple of 4"),
        ({"autoencoder": "sd-vae-ft"}, UnknownNameError, "sd-vae-ft-mse"),
        ({"encoders": ("no",)}, UnknownNameError, "unknown encoder 'no'"),
        (
            {"encoders": ("efficientnet-lite1",)},
            SettingError,
            "not 1 x 1: choose another --grid-size, or with a token for every 16 pixels, images of "
            "64 to 512 pixels would do",
        ),
    ):
        with pytest.raises(error, match=words):
            prepare(PrepareConfig(**{**options, **changes}))
        assert not (tmp_path / "out").exists()


def test_other_networks_are_another_set(options, tmp_path):
    prepare(PrepareConfig(**options))
    with pytest.raises(OutputExistsError, match="has flip false, not true"):
        prepare(PrepareConfig(**options, flip=True))
    with pytest.raises(OutputExistsError, match="has autoencoder vae, not none; use --overwrite"):
        prepare(PrepareConfig(**{**options, "autoencoder": None}))


def test_set_of_other_encoders_is_refused_by_what_differs(options, monkeypatch):
    monkeypatch.setattr(encoding, "load_encoder", lambda name, device: stand_in(name))
    options = {**options, "autoencoder": None, "encoders": ("a", "b")}
    prepare(PrepareConfig(**options, grid_size=4))
    for changes, words in (
        ({"encoders": ("a",), "grid_size": 4}, "has encoders a, b, not a;"),
        ({"encoders": ("b", "a"), "grid_size": 4}, "has encoders a, b, not b, a;"),
        ({"grid_size": 2}, "has encoders a grid size 4, not 2;"),
    ):
        with pytest.raises(OutputExistsError, match=words):
            prepare(PrepareConfig(**{**options, **changes}))


def test_autoencoder_is_known_by_its_weights_and_scale_wherever_it_lies(
    options, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    prepare(PrepareConfig(**{**options, "autoencoder": "vae"}))
    prepared = open_prepared(tmp_path / "out")
    told = prepared.manifest["autoencoder"]["latent_space"]["autoencoder"]
    assert told == prepared.latent_space.autoencoder == str(tmp_path / "vae")
    shutil.copytree(tmp_path / "vae", tmp_path / "copy")
    for name in (str(tmp_path / "vae"), "copy"):
        assert prepare(PrepareConfig(**{**options, "autoencoder": name})).was_finished
    save_tiny_autoencoder(tmp_path / "scaled", scaling_factor=0.5)
    with pytest.raises(OutputExistsError, match=r"latent space scale 5\.4\d+, not 2\.0; use"):
        prepare(PrepareConfig(**{**options, "autoencoder": "scaled"}))
    weights = load_file(tmp_path / "copy" / WEIGHTS)
    weights["encoder.conv_in.bias"] += 1
    save_file(weights, tmp_path / "copy" / WEIGHTS)
    sha256s = [load_autoencoder(name).sha256 for name in ("vae", "copy")]
    with pytest.raises(OutputExistsError, match=f"sha256 .*{sha256s[0]}, not .*{sha256s[1]}"):
        prepare(PrepareConfig(**{**options, "autoencoder": "copy"}))


def test_unfinished_set_goes_on_with_the_autoencoder_elsewhere_by_now(
    options, tmp_path, monkeypatch
):
    expected = prepare(PrepareConfig(**options)).manifest
    whole = content(tmp_path / "out")
    shutil.rmtree(tmp_path / "out")
    interrupt(monkeypatch, options)
    (tmp_path / "vae").rename(tmp_path / "moved")
    options["autoencoder"] = str(tmp_path / "moved")
    again = prepare(PrepareConfig(**{**options, "batch_size": 3}))
    assert not again.was_finished and again.manifest["identity"] == expected["identity"]
    assert again.manifest["autoencoder"]["latent_space"]["autoencoder"] == str(tmp_path / "moved")
    found = content(tmp_path / "out")
    assert [name for name in whole if found[name] != whole[name]] == ["prepared.json"]


def interrupt(monkeypatch, options):
    """Leave a set unfinished."""
    with monkeypatch.context() as patch:
        patch.setattr(making, "fill", lambda *arguments, **options: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            prepare(PrepareConfig(**options))


def test_unfinished_set_of_another_arithmetic_is_refused(options, monkeypatch):
    interrupt(monkeypatch, options)
    monkeypatch.setattr(plan, "kernels_of", lambda device: "another GPU")
    with pytest.raises(OutputExistsError, match=r"has versions kernels cpu .*, not another GPU;"):
        prepare(PrepareConfig(**options))


@pytest.mark.parametrize("length", [60, 61, 400])
def test_long_values_are_told_from_where_they_differ(length):
    one, other = ("x" * (length - 5) + end for end in ("aaaaa", "bbbbb"))
    told = set_folder.difference({"crop": one}, {"crop": other}, finished=True)
    assert told.startswith("has crop ") and "aaaaa, not" in told and told.endswith("bbbbb")
    assert len(told) < 160


def test_file_that_does_not_tell_its_scale_is_refused_before_anything_is_made(options, tmp_path):
    torch.save({"decoder.conv_in.weight": torch.zeros(1)}, tmp_path / "ldm.pt")
    with pytest.raises(CheckpointFormatError, match=r"ldm\.pt: does not tell the scale"):
        prepare(PrepareConfig(**{**options, "autoencoder": str(tmp_path / "ldm.pt")}))
    assert not (tmp_path / "out").exists()


def test_default_is_the_references_autoencoder(options, monkeypatch):
    asked = []

    def find(name, device):
        asked.append(name)
        raise UnknownNameError("autoencoder", name, [])

    monkeypatch.setattr(encoding, "find_autoencoder", find)
    with pytest.raises(UnknownNameError):
        prepare(PrepareConfig(**{**options, "autoencoder": "default"}))
    assert asked == ["sd-vae-ft-mse"]
