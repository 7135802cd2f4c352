"""The check of one batch: the shipped model passes, and each way of breaking it is told."""

from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file
from tiny_autoencoder import save_tiny_autoencoder

from repa.autoencoders.latent_space import LatentSpace
from repa.checkpoints import load_model
from repa.checkpoints.dialects.sit import in_our_convention
from repa.checkpoints.export import write_weights
from repa.checkpoints.settings import describe
from repa.inspection import check_checkpoint, verdict
from repa.inspection.checking import neighbour_correlation
from repa.models import SiT

SHARE, ALIKE = "noise in the output at t = 1", "correlation of neighbours"


@pytest.fixture(scope="module")
def digits():
    return load_model("digits")


def saved(digits, folder, change=lambda tensors: tensors, **settings):
    tensors = change(load_file(digits.path))
    path = folder / "x.safetensors"
    write_weights(path, tensors, describe(replace(digits.settings, **settings)))
    return path


def checked(path, **options):
    found = check_checkpoint(path, num_images=4, num_steps=8, **options)
    return {check.name: check for check in found}, verdict(found)


def test_shipped_model_passes_every_check(digits):
    checks, passed = checked("digits")
    assert passed is True and len(checks) == 5
    # The best velocity at t = 1 is the noise less the mean of the data.
    assert checks[SHARE].found == pytest.approx(1, abs=0.05)
    assert all(check.advice == "" for check in checks.values())


def sign(tensors):
    names = ("final_layer.linear.weight", "final_layer.linear.bias")
    return tensors | {name: -tensors[name] for name in names}


def time(tensors):
    """The dialect's turn of time and sign, and the sign back."""
    return sign(tensors | in_our_convention(tensors))


def both(tensors):
    return tensors | in_our_convention(tensors)


def doubled(tensors):
    names = ("final_layer.linear.weight", "final_layer.linear.bias")
    return tensors | {name: 2 * tensors[name] for name in names}


def halved_input(tensors):
    return tensors | {"x_embedder.proj.weight": tensors["x_embedder.proj.weight"] / 2}


def untrained(tensors):
    generator = torch.Generator().manual_seed(0)
    return {n: 0.08 * torch.randn(t.shape, generator=generator) for n, t in tensors.items()}


@pytest.mark.parametrize(
    ("change", "low", "high", "advice"),
    [
        (sign, -1.1, -0.9, "sign or its time runs the other way"),
        (both, -9, -0.25, "sign or its time runs the other way"),
        (time, 1.25, 9, "its time runs the other way"),
        (doubled, 1.9, 2.1, "another scale"),
        (halved_input, 0.3, 0.75, "another scale"),
        (untrained, -0.2, 0.2, "not trained"),
    ],
)
def test_broken_model_fails_and_is_told_why(digits, tmp_path, change, low, high, advice):
    checks, passed = checked(saved(digits, tmp_path, change))
    assert passed is False and checks[SHARE].passed is False
    assert low < checks[SHARE].found < high and advice in checks[SHARE].advice


def test_untrained_model_makes_what_is_no_more_alike_than_noise(digits, tmp_path):
    model = SiT(**digits.settings.model)  # whose velocity is 0: the noise stays
    path = tmp_path / "x.safetensors"
    write_weights(path, model.state_dict(), describe(digits.settings))
    checks, passed = checked(path)
    assert passed is False and not checks[ALIKE].passed
    assert checks["share of the images beyond 1.1"].found == pytest.approx(0.271, abs=0.02)


def test_weights_that_overflow_are_told(digits, tmp_path):
    name = "blocks.0.mlp.fc2.weight"
    path = saved(digits, tmp_path, lambda t: t | {name: 1e38 * torch.ones_like(t[name])})
    checks, passed = checked(path)
    assert passed is False and checks["finite values"].passed is False


def test_neighbours_of_noise_are_unlike_and_of_a_ramp_alike():
    noise = torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    correlation, pairs = neighbour_correlation(noise)
    assert pairs == 2 * 4 * 3 * 16 * 15 and abs(correlation) < 5 / pairs**0.5
    # A ramp from left to right: below it is the same, beside it is one more.
    ramp = torch.arange(16.0).expand(1, 1, 16, 16)
    values = ramp[0, 0, 0] - 7.5
    across, down = (values[1:] * values[:-1]).mean(), values.square().mean()
    expected = ((across + down) / 2 / values.square().mean()).item()
    assert neighbour_correlation(ramp)[0] == pytest.approx(expected)
    assert neighbour_correlation(torch.ones(1, 3, 4, 4))[0] == 0


@pytest.fixture(scope="module")
def latent_file(digits, tmp_path_factory):
    """The digits, with a fourth channel that copies the first, as if they were latents."""
    folder = tmp_path_factory.mktemp("latents")
    vae = str(save_tiny_autoencoder(folder / "vae", scaling_factor=0.5))

    def fourth(tensors):
        rows = {}
        for name in ("final_layer.linear.weight", "final_layer.linear.bias"):
            each = tensors[name].unflatten(0, (-1, 3))
            rows[name] = torch.cat([each, each[:, :1]], dim=1).flatten(0, 1)
        weight = tensors["x_embedder.proj.weight"]
        rows["x_embedder.proj.weight"] = torch.cat([weight, 0 * weight[:, :1]], dim=1)
        return tensors | rows

    def save(space):
        model = {**digits.settings.model, "in_channels": 4}
        return saved(digits, folder, fourth, model=model, latent_space=space)

    return save, vae


SCALE = "deviation of what is decoded, in the decoder's scale"


@pytest.mark.parametrize(("scale", "passed"), [(2.0, True), (2.0 / 5, False), (10.0, False)])
def test_another_scale_than_the_decoder_s_own_is_told(latent_file, scale, passed):
    save, vae = latent_file
    checks, _ = checked(save(LatentSpace(vae, scale)))
    assert checks[SCALE].passed is passed
    assert (checks[SCALE].advice == "") is passed
    # Of the latents themselves nothing is wrong.
    assert checks["deviation of the latents x"].passed


def test_decoder_that_is_not_on_this_machine_is_said_with_its_place(
    latent_file, tmp_path, monkeypatch
):
    save, vae = latent_file
    monkeypatch.setenv("REPA_CACHE", str(tmp_path))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    checks, _ = checked(save(LatentSpace("sd-vae-ft-mse", 1 / 0.18215)))
    needs = checks["decoded images"].advice
    assert str(tmp_path / "autoencoders" / "sd-vae-ft-mse") in needs
    assert "diffusion_pytorch_model.safetensors" in needs
    others = [check for check in checks.values() if check.name != SHARE]  # of three in four
    assert verdict(others) is None
    checks, _ = checked(save(LatentSpace(None, 2.0)))
    assert checks["decoded images"].passed is None
    assert "--autoencoder" in checks["decoded images"].advice
    assert SCALE in checked(save(LatentSpace(None, 2.0)), autoencoder=vae)[0]
