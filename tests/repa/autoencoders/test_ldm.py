"""Autoencoders in latent-diffusion's names: the same pixels as their layers give in its order."""

import pytest
import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from golden_files import GOLDENS_DIR
from ldm_autoencoder import Forward, random_state

from repa.autoencoders import PIXELS, LatentSpace, find_autoencoder, load_autoencoder
from repa.autoencoders.ldm import find_state_dict, renamed, settings_of
from repa.errors import CheckpointFormatError
from repa.tensor_file import read_contents

CLOSE = {"rtol": 1e-4, "atol": 1e-4}  # float32 through some thirty layers


@pytest.mark.parametrize("attention", [(), (2,), (0, 1)])
def test_pixels_and_moments_are_those_of_the_layers_in_the_order_of_latent_diffusion(
    tmp_path, attention
):
    state = random_state(attention=attention)
    torch.save(state, tmp_path / "vae.pt")
    autoencoder = load_autoencoder(str(tmp_path / "vae.pt"))
    assert (autoencoder.name, autoencoder.downsampling) == ("vae.pt", 4)
    assert autoencoder.latent_channels == 4
    latents = torch.randn(3, 4, 6, 6)
    expected = Forward(state).decode(latents)
    assert expected.std() > 0.1
    torch.testing.assert_close(autoencoder.decode(latents, PIXELS).double(), expected, **CLOSE)
    images = torch.randint(0, 256, (2, 24, 24, 3), dtype=torch.uint8)
    moments = autoencoder.encode(images)
    mean, log_variance = Forward(state).encode(images.permute(0, 3, 1, 2) / 127.5 - 1).chunk(2, 1)
    expected = torch.cat([mean, (log_variance / 2).exp()], dim=1)
    torch.testing.assert_close(moments.double(), expected, **CLOSE)


@pytest.mark.parametrize("key", ["vae", "state_dict"])
def test_autoencoder_is_found_within_a_checkpoint(tmp_path, key):
    state = random_state()
    torch.save({"ema": {"pos_embed": torch.ones(1)}, key: state}, tmp_path / "x.pt")
    x = torch.randn(1, 4, 2, 2)
    space = LatentSpace(scale=(1.0, 2.0, 3.0, 4.0), bias=0.5)
    found = load_autoencoder(str(tmp_path / "x.pt")).decode(x, space)
    expected = Forward(state).decode(x * torch.tensor(space.scale)[:, None, None] + 0.5)
    torch.testing.assert_close(found.double(), expected, **CLOSE)


def test_every_tensor_of_the_recorded_repa_e_file_has_its_place_and_shape():
    # Its values are zeros; names and shapes are those of the repository's own class.
    state = find_state_dict(*read_contents(GOLDENS_DIR / "dialects" / "repae_e2e.pt"))
    assert state is not None
    with torch.device("meta"):
        network = AutoencoderKL(**settings_of(state))
    places = {name: tensor.shape for name, tensor in network.state_dict().items()}
    assert {name: tensor.shape for name, tensor in renamed(state).items()} == places
    assert network.config["block_out_channels"] == [128, 256, 512, 512]


def broken(name, state):
    if name == "missing":
        del state["decoder.up.1.upsample.conv.bias"]
    elif name == "misshapen":
        state["decoder.conv_out.weight"] = torch.ones(4, 32, 3, 3)
    else:
        state["encoder.conv_out.weight"] = torch.ones(6, 64, 3, 3)
    return state


@pytest.mark.parametrize("what", ["missing", "misshapen", "moments"])
def test_file_of_another_autoencoder_is_refused_in_one_line(tmp_path, what):
    file = tmp_path / "vae.pt"
    torch.save(broken(what, random_state()), file)
    with pytest.raises(CheckpointFormatError, match=r"vae\.pt: holds no AutoencoderKL") as caught:
        load_autoencoder(str(file))
    assert "\n" not in str(caught.value)


def test_memory_that_does_not_suffice_is_no_fault_of_the_file(tmp_path, monkeypatch):
    torch.save(random_state(), tmp_path / "vae.pt")

    def full(network, *given, **options):
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(AutoencoderKL, "to", full)
    with pytest.raises(torch.OutOfMemoryError):
        _ = find_autoencoder(tmp_path / "vae.pt").network


def test_file_without_an_autoencoder_is_refused_before_anything_is_built(tmp_path):
    torch.save({"ema": {"pos_embed": torch.ones(1)}, "steps": 3}, tmp_path / "x.pt")
    with pytest.raises(CheckpointFormatError, match=r"x\.pt: holds no autoencoder in the names"):
        _ = find_autoencoder(tmp_path / "x.pt").downsampling
