"""Checkpoints that are read: forms, descriptions, folders of runs."""

import argparse
import hashlib

import pytest
import torch
from aligned_checkpoint import TINY, aligned_sit, save_ours
from safetensors.torch import save_file

from repa import SIT_SIZES, SiT
from repa.autoencoders.latent_space import PIXELS, SD_LATENTS, LatentSpace
from repa.checkpoints import load_model, read_checkpoint, reading
from repa.checkpoints.export import write_weights
from repa.checkpoints.settings import CheckpointSettings, describe
from repa.errors import (
    CheckpointFormatError,
    CheckpointMismatchError,
    UnknownNameError,
)
from repa.models.prediction import Prediction
from repa_base.checksums import seal_folder


def velocity(model):
    torch.manual_seed(1)
    x = torch.randn(2, model.in_channels, model.input_size, model.input_size)
    with torch.no_grad():
        return model.eval()(x, torch.tensor([0.2, 0.9]), torch.tensor([0, model.null_label]))


def test_our_checkpoint_in_half_precision_without_projectors_loads_in_float32(tmp_path):
    model = aligned_sit().half()
    tensors = {k: v for k, v in model.state_dict().items() if not k.startswith("projectors")}
    path = save_ours(
        tmp_path / "x.safetensors", tensors, dataset="digits", path_type="cosine", step=3
    )
    loaded = load_model(path)
    assert loaded.name == "x.safetensors"
    assert loaded.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert (loaded.settings.dataset, loaded.settings.path_type) == ("digits", "cosine")
    assert loaded.settings.latent_space.is_pixels and loaded.settings.num_classes == 5
    assert not loaded.model.training and not list(loaded.model.projectors)
    assert all(p.dtype == torch.float32 and not p.requires_grad for p in loaded.model.parameters())
    assert torch.equal(velocity(loaded.model), velocity(model.float()))


@pytest.mark.parametrize("form", ["safetensors", "torch", "torch without zip"])
def test_bare_state_dict_is_recognised_by_its_shapes_and_gives_the_recorded_velocity(
    form, golden, golden_sit, tmp_path
):
    arrays, meta = golden("sit_b")
    path = tmp_path / "last.pt"
    if form == "safetensors":
        save_file(golden_sit("sit_b").state_dict(), path)
    else:
        zipped = form == "torch"
        torch.save(golden_sit("sit_b").state_dict(), path, _use_new_zipfile_serialization=zipped)
    loaded = load_model(path)
    config = {**meta["config"], "target_dims": meta["config"]["z_dims"]}
    inferred = loaded.settings.model
    assert inferred == {key: config[key] for key in inferred}
    x, t, labels = (torch.from_numpy(arrays[key]) for key in "xty")
    with torch.no_grad():
        velocity, features = loaded.model(x, t, labels, return_features=True)
    torch.testing.assert_close(velocity, torch.from_numpy(arrays["v"]), atol=2e-5, rtol=0)
    for i, projected in enumerate(features):
        expected = torch.from_numpy(arrays[f"zs/{i}"])
        torch.testing.assert_close(projected, expected, atol=2e-5, rtol=0)


def test_latent_imagenet_checkpoint_gets_the_published_autoencoder_and_data_set(tmp_path):
    sizes = {**SIT_SIZES["SiT-Pico/2"], "in_channels": 4, "num_classes": 1000, "input_size": 32}
    torch.save(aligned_sit(**sizes).state_dict(), tmp_path / "last.pt")
    settings = read_checkpoint(tmp_path / "last.pt").settings
    assert (settings.dataset, settings.latent_space) == ("imagenet-256", SD_LATENTS)
    assert settings.model["num_heads"] == SIT_SIZES["SiT-Pico/2"]["num_heads"]
    assert settings.model["encoder_depth"] == settings.model["depth"] == 3


def test_number_of_heads_that_nothing_tells_is_not_guessed(tmp_path):
    torch.save(aligned_sit().state_dict(), tmp_path / "last.pt")
    with pytest.raises(CheckpointFormatError, match="width 24 and depth 2, so its number of heads"):
        read_checkpoint(tmp_path / "last.pt")


def test_reference_trainer_checkpoint_gives_its_moving_average_and_arguments(tmp_path):
    sizes = SIT_SIZES["SiT-Pico/4"]
    model, ema = aligned_sit(**sizes), aligned_sit(**sizes)
    torch.nn.init.ones_(model.x_embedder.proj.bias)
    content = {
        "model": model.state_dict(),
        "ema": ema.state_dict(),
        "opt": torch.optim.AdamW(model.parameters()).state_dict(),
        "args": argparse.Namespace(path_type="cosine", encoder_depth=1, model="SiT-Pico/4"),
        "steps": 400_000,
    }
    torch.save(content, tmp_path / "0400000.pt")
    loaded = load_model(tmp_path / "0400000.pt")
    assert torch.equal(velocity(loaded.model), velocity(ema))
    assert not torch.equal(velocity(loaded.model), velocity(model))
    assert (loaded.settings.path_type, loaded.model.encoder_depth) == ("cosine", 1)


def test_folder_of_a_run_gives_the_moving_average_of_its_highest_step(tmp_path):
    for step in (900, 9_999_999, 10_000_000):
        folder = tmp_path / "run" / "checkpoints" / f"step-{step:07d}"
        folder.mkdir(parents=True)
        model = aligned_sit()
        torch.nn.init.constant_(model.x_embedder.proj.bias, step)
        save_ours(folder / "ema.safetensors", model.state_dict())
        (folder / "model.safetensors").write_bytes(b"not this one")
    run = tmp_path / "run"
    for place in (run, run / "checkpoints", run / "checkpoints" / "step-10000000"):
        loaded = load_model(place)
        assert (loaded.model.x_embedder.proj.bias == 10_000_000).all()
    assert load_model(tmp_path / "run").name == "run/step-10000000"
    with pytest.raises(CheckpointFormatError, match="no training run"):
        load_model(tmp_path)


@pytest.mark.parametrize(
    ("autoencoder", "in_channels", "space"),
    [
        ({"autoencoder": "sd-vae-ft-ema"}, 4, SD_LATENTS),
        ({"autoencoder": "my-vae"}, 4, LatentSpace("my-vae", scale=1 / 0.18215)),
        ({"autoencoder": None}, 3, PIXELS),
        ({}, 3, PIXELS),
        ({}, 4, LatentSpace(scale=1 / 0.18215)),
    ],
)
def test_description_of_before_latent_spaces_still_means_what_it_did(
    tmp_path, autoencoder, in_channels, space
):
    model = {**TINY, "in_channels": in_channels}
    path = save_ours(
        tmp_path / "x.safetensors", aligned_sit(**model).state_dict(), model, **autoencoder
    )
    loaded = load_model(path)
    assert (loaded.settings.latent_space, loaded.settings.prediction) == (space, Prediction())
    assert loaded.velocity_model is loaded.model


def test_described_prediction_makes_the_velocity_and_leaves_the_network_as_it_is(tmp_path):
    model = aligned_sit()
    space = {"autoencoder": "my-vae", "scale": [2, 3, 4], "bias": 0.5}
    stated = {"prediction": {"reversed_time": True}, "latent_space": space, "format": 2}
    loaded = load_model(save_ours(tmp_path / "x.safetensors", model.state_dict(), **stated))
    assert loaded.settings.latent_space == LatentSpace("my-vae", scale=(2.0, 3.0, 4.0), bias=0.5)
    x, t, labels = torch.randn(2, 3, 8, 8), torch.tensor([0.25, 0.75]), torch.tensor([0, 5])
    assert torch.equal(loaded.velocity_model(x, t, labels), -model.eval()(x, 1 - t, labels))
    assert torch.equal(loaded.model(x, t, labels), model(x, t, labels))


def test_network_of_a_checkpoint_that_is_read_is_built_once_and_when_asked_for(
    tmp_path, monkeypatch
):
    path = save_ours(tmp_path / "x.safetensors", aligned_sit().state_dict())
    built = []
    monkeypatch.setattr(reading, "SiT", lambda **sizes: built.append(sizes) or SiT(**sizes))
    checkpoint = read_checkpoint(path)
    assert checkpoint.settings.num_classes == 5 and built == []
    assert checkpoint.model is checkpoint.velocity_model is checkpoint.model
    assert len(built) == 1
    load_model(path)
    assert len(built) == 2


def test_file_in_the_place_of_a_registered_checkpoint_must_hold_its_network(tmp_path, monkeypatch):
    monkeypatch.setenv("REPA_CACHE", str(tmp_path))
    (tmp_path / "checkpoints").mkdir()
    model = aligned_sit(**SIT_SIZES["SiT-Pico/2"], in_channels=4, num_classes=1000, input_size=32)
    torch.save(model.state_dict(), tmp_path / "checkpoints" / "sit-xl-2-repa-256.pt")
    checkpoint = read_checkpoint("sit-xl-2-repa-256", "meta")
    assert checkpoint.name == "sit-xl-2-repa-256"
    assert checkpoint.settings.model["hidden_size"] == 1152
    assert checkpoint.settings.latent_space == SD_LATENTS
    with pytest.raises(
        CheckpointMismatchError, match=r"\(1, 256, 48\) instead of \(1, 256, 1152\)"
    ):
        _ = checkpoint.model


def test_unknown_model_gets_the_closest_name():
    with pytest.raises(UnknownNameError, match="model, file or folder 'digit'; did you mean 'digi"):
        load_model("digit")


@pytest.fixture
def sealed_run(tmp_path):
    """A run's folder with checkpoints of steps 1 and 2, each with its checksums."""
    settings = CheckpointSettings(model=TINY)
    for step in (1, 2):
        folder = tmp_path / f"run/checkpoints/step-000000{step}"
        folder.mkdir(parents=True)
        torch.manual_seed(step)
        write_weights(folder / "ema.safetensors", SiT(**TINY).state_dict(), describe(settings))
        (folder / "state.json").write_text("{}")
        seal_folder(folder)
    return tmp_path / "run"


@pytest.mark.parametrize("damage", ["flip", "gone"])
@pytest.mark.parametrize("at", ["", "checkpoints/step-0000002"])
def test_damage_to_a_run_s_average_is_noticed_and_the_one_before_it_named(sealed_run, damage, at):
    path = sealed_run / "checkpoints/step-0000002/ema.safetensors"
    assert load_model(sealed_run / at).path == path
    content = bytearray(path.read_bytes())
    if damage == "flip":
        content[-3] ^= 1
        path.write_bytes(content)
    else:
        path.unlink()
    with pytest.raises(CheckpointFormatError, match=r"ema\.safetensors") as caught:
        load_model(sealed_run / at)
    earlier = str(caught.value).partition("; the checkpoint before it is ")[2].removesuffix(".")
    if at and damage == "gone":
        assert not earlier  # a folder without one is no checkpoint at all
    else:
        assert load_model(earlier).name == "step-0000001/step-0000001"


def test_a_file_beside_checksums_that_do_not_list_it_is_not_checked(sealed_run):
    path = sealed_run / "checkpoints/step-0000002/ema.safetensors"
    (path.parent / "SHA256SUMS").write_text("0" * 64 + "  other.bin\n")
    assert load_model(path).name == "ema.safetensors"


def test_the_first_checkpoint_has_none_before_it(sealed_run):
    folder = sealed_run / "checkpoints/step-0000001"
    with (folder / "ema.safetensors").open("ab") as file:
        file.write(b"\0")
    with pytest.raises(CheckpointFormatError) as caught:
        load_model(folder)
    assert "before it" not in str(caught.value)
