import argparse
import json

import pytest
import torch
from safetensors.torch import save_file

from repa import SIT_SIZES, SiT
from repa.autoencoders.latent_space import PIXELS, SD_LATENTS, LatentSpace
from repa.checkpoints import read_checkpoint
from repa.checkpoints.architecture import Converted
from repa.checkpoints.dialects import DIALECTS
from repa.checkpoints.settings import CheckpointSettings
from repa.errors import CheckpointFormatError
from repa.models.prediction import Prediction

MODEL = {
    **SIT_SIZES["SiT-Pico/2"],
    "input_size": 8,
    "in_channels": 4,
    "num_classes": 5,
    "encoder_depth": 1,
    "target_dims": [],
}


def tensors(**changes):
    return SiT(**{**MODEL, **changes}).state_dict()


def described(path):
    description = {
        "format": 1,
        "model": MODEL,
        "path_type": "linear",
        "autoencoder": "sd-vae-ft-ema",
    }
    save_file(tensors(), path, metadata={"repa": json.dumps(description)})


def bare(path):
    torch.save(tensors(), path)


def bare_safetensors(path):
    save_file(tensors(), path, metadata={"format": "pt"})


def trained(path):
    args = argparse.Namespace(path_type="linear", encoder_depth=1)
    torch.save({"ema": tensors(), "model": tensors(), "args": args, "steps": 3}, path)


@pytest.mark.parametrize(
    ("save", "dialect"),
    [
        (described, "ours"),
        (bare, "repa"),
        (bare_safetensors, "repa"),
        (trained, "repa"),
    ],
)
def test_every_form_is_recognised_as_its_dialect_and_holds_the_same_network(
    tmp_path, save, dialect
):
    save(tmp_path / "x")
    checkpoint = read_checkpoint(tmp_path / "x")
    assert checkpoint.dialect == dialect
    assert checkpoint.tensors.keys() == tensors().keys()
    settings = checkpoint.settings
    assert {k: v for k, v in settings.model.items() if k in MODEL and k != "encoder_depth"} == {
        k: v for k, v in MODEL.items() if k != "encoder_depth"
    }
    assert (settings.prediction, settings.latent_space) == (Prediction(), SD_LATENTS)
    assert (settings.path_type, settings.num_classes) == ("linear", 5)


@pytest.mark.parametrize(
    ("in_channels", "space"),
    [(3, PIXELS), (4, SD_LATENTS)],
)
def test_channels_of_a_bare_state_dict_tell_its_latent_space(tmp_path, in_channels, space):
    torch.save(tensors(in_channels=in_channels), tmp_path / "x.pt")
    checkpoint = read_checkpoint(tmp_path / "x.pt")
    assert checkpoint.settings.latent_space == space
    assert checkpoint.settings.latent_space.is_pixels == (in_channels == 3)
    assert checkpoint.told["latent_space"].startswith("assumed: ")


def test_latent_space_that_nothing_tells_is_asked_for(tmp_path):
    torch.save(tensors(in_channels=16), tmp_path / "x.pt")
    with pytest.raises(CheckpointFormatError, match=r"x\.pt: has 16 channels.*say --latents FILE"):
        read_checkpoint(tmp_path / "x.pt")
    statistics = {"latents_scale": torch.full((16,), 0.5), "latents_bias": torch.ones(16)}
    torch.save(statistics, tmp_path / "stats.pt")
    space = read_checkpoint(tmp_path / "x.pt", latents=tmp_path / "stats.pt").latent_space
    assert space == LatentSpace(None, scale=(2.0,) * 16, bias=(1.0,) * 16)


@pytest.mark.parametrize("save", [described, bare, trained])
def test_registered_description_comes_before_what_the_file_says(tmp_path, monkeypatch, save):
    entry = {"model": {**MODEL, "depth": 9}, "path_type": "cosine", "autoencoder": "my-vae"}
    monkeypatch.setattr("repa.checkpoints.reading.is_registered", lambda section, name: True)
    monkeypatch.setattr("repa.checkpoints.reading.find_entry", lambda section, name: entry)
    monkeypatch.setattr("repa.checkpoints.reading.fetch", lambda section, name: tmp_path / "x")
    save(tmp_path / "x")
    checkpoint = read_checkpoint("registered")
    assert checkpoint.tensors.keys() == tensors().keys()
    assert checkpoint.settings.model["depth"] == 9
    assert checkpoint.settings.path_type == "cosine"
    assert checkpoint.settings.latent_space == LatentSpace("my-vae", scale=1 / 0.18215)


class Newcomer:
    """A dialect of another project: its own key, noise prediction, reversed time."""

    TOLD_BY = "its own key"

    @staticmethod
    def recognise(contents):
        return "newcomer" in contents.extra

    @staticmethod
    def convert(contents, hints):
        prediction = Prediction("noise", reversed_time=True)
        settings = CheckpointSettings(model=MODEL, prediction=prediction)
        told = {"path_type": "assumed: the path of its paper", "dataset": "assumed: none"}
        return Converted(settings, contents.tensors, told=told)


def test_another_dialect_is_another_entry_of_the_list(tmp_path, monkeypatch):
    monkeypatch.setattr("repa.checkpoints.dialects.DIALECTS", {"newcomer": Newcomer, **DIALECTS})
    torch.save({"newcomer": True, "ema": tensors()}, tmp_path / "x.pt")
    checkpoint = read_checkpoint(tmp_path / "x.pt")
    assert checkpoint.dialect == "newcomer"
    assert checkpoint.settings.prediction == Prediction("noise", reversed_time=True)
    assert checkpoint.assumed == ("the path of its paper",)  # images do not depend on the other
    assert checkpoint.told["dialect"] == "its own key"
    assert checkpoint.model.num_classes == 5
