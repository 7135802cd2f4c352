import json
from dataclasses import replace

import pytest
import torch
from tiny_run import QUIET, TINY

from repa import SiT
from repa.autoencoders.latent_space import PIXELS, SD_LATENTS, LatentSpace
from repa.checkpoints import load_model
from repa.checkpoints.export import export_weights, write_weights
from repa.checkpoints.settings import CheckpointSettings, describe, settings_from_description
from repa.errors import OutputExistsError
from repa.models.prediction import Prediction
from repa.training.loop import train


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    out = tmp_path_factory.mktemp("export") / "run"
    train(TINY, out, reporting=QUIET)
    return out


def velocities(source):
    model = load_model(source).model
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(4, 3, 16, 16, generator=generator)
    return model(x, torch.linspace(0, 1, 4), torch.tensor([0, 3, 9, 10]))


def test_an_exported_run_gives_the_same_velocities(run, tmp_path):
    out = export_weights(run, tmp_path / "tiny.safetensors")
    assert torch.equal(velocities(out), velocities(run))
    assert load_model(out).settings.dataset == "digits"


def test_half_precision_halves_the_file_and_rounds_the_weights(run, tmp_path):
    full = export_weights(run, tmp_path / "full.safetensors")
    half = export_weights(run, tmp_path / "half.safetensors", half=True)
    assert half.stat().st_size < 0.6 * full.stat().st_size
    # float16 keeps 11 significant bits.
    for a, b in zip(*(load_model(x).model.parameters() for x in (full, half)), strict=True):
        torch.testing.assert_close(a, b, rtol=2**-11, atol=2**-24)


def test_an_existing_file_is_kept_unless_overwritten(run, tmp_path):
    out = tmp_path / "precious.safetensors"
    out.write_text("precious")
    with pytest.raises(OutputExistsError, match="--overwrite"):
        export_weights(run, out)
    assert out.read_text() == "precious"
    export_weights(run, out, overwrite=True)
    assert load_model(out).name == "precious.safetensors"
    assert [path.name for path in tmp_path.iterdir()] == [out.name]


MODEL = {
    "input_size": 16,
    "patch_size": 4,
    "in_channels": 4,
    "hidden_size": 24,
    "depth": 1,
    "num_heads": 3,
    "num_classes": 5,
    "encoder_depth": 1,
    "target_dims": [],
}


@pytest.mark.parametrize("autoencoder", [None, "sd-vae-ft-ema", "my-vae"])
def test_what_earlier_versions_can_say_is_described_in_their_words(autoencoder):
    model = {**MODEL, "in_channels": 4 if autoencoder else 3}
    space = replace(SD_LATENTS, autoencoder=autoencoder) if autoencoder else PIXELS
    settings = CheckpointSettings(model=model, dataset="digits", latent_space=space)
    assert list(describe(settings).items()) == [
        ("format", 1),
        ("model", model),
        ("path_type", "linear"),
        ("dataset", "digits"),
        ("autoencoder", autoencoder),
    ]


@pytest.mark.parametrize(
    "changes",
    [
        {"latent_space": PIXELS},  # of four channels
        {"latent_space": LatentSpace("my-vae", scale=(1.0, 2.0, 3.0, 4.0), bias=0.25)},
        {"latent_space": SD_LATENTS, "prediction": Prediction("noise", reversed_time=True)},
    ],
)
def test_what_earlier_versions_would_overlook_has_a_format_that_they_refuse(changes):
    settings = CheckpointSettings(model=MODEL, path_type="cosine", **changes)
    description = json.loads(json.dumps(describe(settings)))
    assert description["format"] == 2
    assert settings_from_description(description, {}) == settings


def test_an_export_keeps_prediction_and_latent_space(tmp_path):
    settings = CheckpointSettings(
        model=MODEL,
        prediction=Prediction(reversed_time=True, channels=4),
        latent_space=LatentSpace("my-vae", scale=0.5, bias=(1.0, 2.0, 3.0, 4.0)),
    )
    source = tmp_path / "source.safetensors"
    write_weights(source, SiT(**MODEL).state_dict(), describe(settings))
    out = export_weights(source, tmp_path / "out.safetensors")
    assert load_model(out).settings == settings
