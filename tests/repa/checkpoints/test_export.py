import json
import os
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file
from tiny_run import QUIET, TINY, stand_in_encoder

import repa.training.targets as targets
from repa import SiT
from repa.autoencoders.latent_space import PIXELS, SD_LATENTS, LatentSpace
from repa.checkpoints import load_model
from repa.checkpoints.export import export_weights, write_weights
from repa.checkpoints.settings import CheckpointSettings, describe, settings_from_description
from repa.data.held_out import HeldOutReference
from repa.errors import CheckpointFormatError, NonFiniteError, OutputExistsError, SettingError
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


def source_with(tmp_path, value, dtype=torch.float32):
    """A checkpoint one of whose weights has this value; its file and the tensor's name."""
    settings = CheckpointSettings(model=MODEL, latent_space=SD_LATENTS)
    tensors = {name: t.to(dtype) for name, t in SiT(**MODEL).state_dict().items()}
    name = "blocks.0.mlp.fc1.weight"
    tensors[name][3, 5] = value
    path = tmp_path / "source.safetensors"
    write_weights(path, tensors, describe(settings))
    return path, name


def exported(tmp_path, source, **options):
    return load_file(export_weights(source, tmp_path / "out.safetensors", **options))


@pytest.mark.parametrize("value", [65520.0, -65520.0, 1e30])
def test_weights_beyond_half_precision_are_refused_and_the_way_that_is_named_works(tmp_path, value):
    source, name = source_with(tmp_path, value)
    with pytest.raises(NonFiniteError, match=rf"{name} holds .*65504.*use --bf16") as caught:
        exported(tmp_path, source, half=True)
    assert "\n" not in str(caught.value) and not (tmp_path / "out.safetensors").exists()
    kept = exported(tmp_path, source, bf16=True)[name]
    assert kept.dtype == torch.bfloat16
    assert kept[3, 5].item() == pytest.approx(value, rel=2**-8)


@pytest.mark.parametrize("value", [65504.0, -65504.0, 65519.0])
def test_the_largest_weights_of_half_precision_are_kept(tmp_path, value):
    source, name = source_with(tmp_path, value)
    assert abs(exported(tmp_path, source, half=True)[name][3, 5].item()) == 65504


def test_a_weight_beyond_bfloat16_is_refused(tmp_path):
    source, name = source_with(tmp_path, torch.finfo(torch.float32).max)
    with pytest.raises(NonFiniteError, match=f"{name} holds .*bfloat16"):
        exported(tmp_path, source, bf16=True)
    assert exported(tmp_path, source)[name].isfinite().all()


def test_a_weight_beyond_float32_is_refused(tmp_path):
    source, name = source_with(tmp_path, 1e300, torch.float64)
    with pytest.raises(NonFiniteError, match=f"{name} holds 1e.300.*float32"):
        exported(tmp_path, source)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("options", [{}, {"half": True}, {"bf16": True}])
def test_weights_that_are_no_numbers_are_said_to_be(tmp_path, value, options):
    source, name = source_with(tmp_path, value)
    with pytest.raises(NonFiniteError, match=rf"source\.safetensors: tensor {name} holds NaN or"):
        exported(tmp_path, source, **options)


def test_what_is_not_exported_need_not_fit(tmp_path):
    source, name = source_with(tmp_path, 1.0)
    model = {**MODEL, "target_dims": [4], "projector_dim": 8}
    tensors = SiT(**model).state_dict()
    tensors["projectors.0.0.weight"][:] = float("nan")
    settings = CheckpointSettings(model=model, latent_space=SD_LATENTS)
    write_weights(source, tensors, describe(settings))
    assert name in exported(tmp_path, source)
    with pytest.raises(NonFiniteError, match=r"projectors\.0\.0\.weight"):
        exported(tmp_path, source, projectors=True, overwrite=True)


def test_bfloat16_halves_the_file_and_is_read_again(run, tmp_path):
    full = export_weights(run, tmp_path / "full.safetensors")
    half = export_weights(run, tmp_path / "half.safetensors", bf16=True)
    assert half.stat().st_size < 0.6 * full.stat().st_size
    # bfloat16 keeps 8 significant bits.
    for a, b in zip(*(load_model(x).model.parameters() for x in (full, half)), strict=True):
        torch.testing.assert_close(a, b, rtol=2**-8, atol=0)


def test_one_file_has_one_precision(run, tmp_path):
    with pytest.raises(SettingError, match="exclude each other"):
        export_weights(run, tmp_path / "out.safetensors", half=True, bf16=True)


@pytest.mark.parametrize("umask", [0o022, 0o027, 0o077])
def test_what_a_run_and_an_export_write_has_the_permissions_that_the_user_set(
    tmp_path, monkeypatch, umask
):
    monkeypatch.setattr(targets, "load_encoder", stand_in_encoder)
    before = os.umask(umask)
    try:
        out = tmp_path / "run"
        config = replace(TINY, num_steps=1, encoder="efficientnet-lite1", projector_dim=8)
        train(config, out, reporting=replace(QUIET, preview_every=1))
        export_weights(out, tmp_path / "out.safetensors", half=True)
    finally:
        os.umask(before)
    written = list(tmp_path.rglob("*"))
    kinds = {path.suffix for path in written}
    assert {".safetensors", ".json", ".jsonl", ".png", ""} <= kinds
    for path in written:
        allowed = 0o777 if path.is_dir() else 0o666
        assert path.stat().st_mode & 0o777 == allowed & ~umask, path


def test_an_export_keeps_what_was_held_out_and_other_files_are_as_ever(tmp_path):
    reference = HeldOutReference("emoji@12345678", "0f" * 32, "inception")
    plain = CheckpointSettings(model=MODEL, dataset=reference.name, latent_space=SD_LATENTS)
    settings = replace(plain, reference=reference)
    stated = describe(settings)
    assert stated.pop("reference") == reference.to_dict()
    assert stated == describe(plain) and stated["format"] == 1
    source = tmp_path / "source.safetensors"
    write_weights(source, SiT(**MODEL).state_dict(), describe(settings))
    out = export_weights(source, tmp_path / "out.safetensors")
    assert load_model(out).settings == settings
    write_weights(source, SiT(**MODEL).state_dict(), {**stated, "reference": {"name": "emoji"}})
    with pytest.raises(CheckpointFormatError, match="the sha256 of its reference"):
        load_model(source)
