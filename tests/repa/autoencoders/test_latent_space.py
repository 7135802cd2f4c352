import json
from dataclasses import asdict

import pytest
import torch

from repa.autoencoders.latent_space import PIXELS, SD_LATENTS, LatentSpace

X = torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(0))


def test_latents_of_stable_diffusion_are_scaled_as_the_reference_does_to_the_bit():
    # REPA generate.py divides samples by 0.18215, train.py multiplies latents by it.
    x = torch.randn(100_000, 4, 1, 1, generator=torch.Generator().manual_seed(0))
    assert torch.equal(SD_LATENTS.to_autoencoder(x), x / 0.18215)
    assert torch.equal(SD_LATENTS.from_autoencoder(x), x * 0.18215)
    assert SD_LATENTS.autoencoder == "sd-vae-ft-ema" and not SD_LATENTS.is_pixels


def test_pixels_are_the_identity():
    assert PIXELS.is_pixels and PIXELS.autoencoder is None
    assert torch.equal(PIXELS.to_autoencoder(X), X)
    assert torch.equal(PIXELS.from_autoencoder(X), X)


def test_each_channel_has_its_own_scale_and_bias():
    space = LatentSpace("vae", scale=(2.0, 0.5, -4.0), bias=(0.0, 1.0, 8.0))
    latents = space.to_autoencoder(X)
    # Powers of two, so that every step is exact.
    for channel, (scale, bias) in enumerate([(2, 0), (0.5, 1), (-4, 8)]):
        assert torch.equal(latents[:, channel], scale * X[:, channel] + bias)
    torch.testing.assert_close(space.from_autoencoder(latents), X, atol=1e-6, rtol=0)
    assert space.num_channels == 3


def test_one_scale_goes_with_a_bias_for_each_channel_and_the_other_way_round():
    x = X.double()
    for space in (
        LatentSpace(scale=3.0, bias=(1.0, 2.0, 3.0)),
        LatentSpace(scale=(1.0, 2.0, 3.0), bias=3.0),
    ):
        latents = space.to_autoencoder(x)
        scale, bias = (
            torch.tensor(n).expand(3).reshape(3, 1, 1) for n in (space.scale, space.bias)
        )
        torch.testing.assert_close(latents, scale * x + bias, atol=1e-14, rtol=0)
        torch.testing.assert_close(space.from_autoencoder(latents), x, atol=1e-14, rtol=0)
        assert latents.dtype == torch.float64 and not space.is_pixels


@pytest.mark.parametrize(
    "space", [PIXELS, SD_LATENTS, LatentSpace("vae", scale=(0.1, 3.0), bias=(-1.0, 1 / 3))]
)
def test_a_space_survives_json_exactly(space):
    assert LatentSpace(**json.loads(json.dumps(asdict(space)))) == space


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"autoencoder": 3}, "autoencoder is 3, not a name"),
        ({"scale": 0}, "scale is 0, not a finite number other than 0"),
        ({"scale": [1.0, 0.0]}, r"scale is \[1\.0, 0\.0\], not a finite number other than 0"),
        ({"scale": float("inf")}, "scale is inf, not a finite"),
        ({"bias": [0.0, float("nan")]}, r"bias is \[0\.0, nan\], not a finite number or a list"),
        ({"bias": "0"}, "bias is '0', not a finite number"),
        ({"bias": True}, "bias is True, not a finite number"),
        ({"scale": None}, "scale is None, not a finite number"),
        ({"scale": []}, "scale is an empty list"),
        ({"scale": [1.0, 2.0], "bias": [1.0, 2.0, 3.0]}, "different numbers of channels, {2, 3}"),
    ],
)
def test_what_is_unclear_is_refused_with_its_value(values, message):
    with pytest.raises(ValueError, match=message):
        LatentSpace(**values)
