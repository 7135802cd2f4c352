import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_autoencoder import save_tiny_autoencoder

from repa.autoencoders.autoencoder import (
    find_autoencoder,
    latents_from_moments,
    load_autoencoder,
)
from repa.autoencoders.latent_space import SD_LATENTS, LatentSpace
from repa.autoencoders.pixels import images_from_pixels
from repa.errors import (
    CheckpointFormatError,
    CheckpointMismatchError,
    DownloadError,
    UnknownNameError,
)

SHIFTS = torch.tensor([0.0, 1.0, 2.0, -1.0]).reshape(1, 4, 1, 1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_tiny_autoencoder(tmp_path_factory.mktemp("autoencoder") / "tiny-vae")


def test_moments_are_mean_and_standard_deviation_of_pixels_from_minus_one_to_one(folder):
    autoencoder = load_autoencoder(str(folder))
    images = torch.randint(0, 256, (5, 16, 16, 3), dtype=torch.uint8)
    moments = autoencoder.encode(images, chunk_images=2)
    assert moments.shape == (5, 8, 4, 4) and moments.dtype == torch.float32
    assert not moments.requires_grad
    pixels = (images.double() / 255 * 2 - 1).permute(0, 3, 1, 2).float()
    mean, log_variance = autoencoder.network.quant_conv(autoencoder.network.encoder(pixels)).chunk(
        2, dim=1
    )
    expected = torch.cat([mean, (log_variance / 2).exp()], dim=1)
    torch.testing.assert_close(moments, expected, rtol=1e-4, atol=1e-5)


def test_latent_space_has_the_scale_of_the_files(tmp_path):
    scaled = load_autoencoder(str(save_tiny_autoencoder(tmp_path / "a", scaling_factor=0.5)))
    assert scaled.latent_space == LatentSpace(str(tmp_path / "a"), scale=2.0)
    shifted = save_tiny_autoencoder(tmp_path / "b", scaling_factor=0.25, shift_factor=0.125)
    space = load_autoencoder(str(shifted)).latent_space
    assert (space.scale, space.bias) == (4.0, 0.125)
    x = torch.randn(1, 4, 2, 2)
    torch.testing.assert_close(space.from_autoencoder(x), (x - 0.125) * 0.25)
    usual = load_autoencoder(str(save_tiny_autoencoder(tmp_path / "c")))
    assert usual.latent_space.scale == SD_LATENTS.scale


@pytest.mark.parametrize(
    ("space", "of_autoencoder"),
    [
        (SD_LATENTS, lambda x: x / 0.18215),
        (LatentSpace(scale=2.0, bias=(0.0, 1.0, 2.0, -1.0)), lambda x: 2 * x + SHIFTS),
    ],
)
def test_decoder_sees_the_autoencoders_latents(folder, space, of_autoencoder):
    autoencoder = load_autoencoder(str(folder))
    x = torch.randn(3, 4, 2, 2)
    pixels = autoencoder.decode(x, space)
    assert pixels.shape == (3, 3, 8, 8) and pixels.dtype == torch.float32
    assert torch.equal(pixels, autoencoder.network.decode(of_autoencoder(x)).sample)
    assert not pixels.requires_grad and not autoencoder.network.training


def test_decoding_in_chunks_gives_the_same_pixels_and_bounds_the_batch(folder):
    autoencoder = load_autoencoder(str(folder))
    sizes = []
    autoencoder.network.decoder.register_forward_pre_hook(
        lambda _, inputs: sizes.append(len(inputs[0]))
    )
    latents = torch.randn(5, 4, 2, 2, dtype=torch.float64)
    chunked = autoencoder.decode(latents, SD_LATENTS, chunk_images=2)
    assert sizes == [2, 2, 1]
    torch.testing.assert_close(chunked, autoencoder.decode(latents, SD_LATENTS), atol=1e-6, rtol=0)


def test_factor_name_and_hash_are_known_without_the_network(folder):
    files = find_autoencoder(str(folder))
    assert (files.downsampling, files.latent_channels, files.name) == (4, 4, "tiny-vae")
    assert len(files.sha256) == 64


def test_truncation_is_the_reference_formula_on_every_level_and_between():
    # REPA generate.py: (x + 1) / 2 * 255, clamped, cut off; here for every quarter of a level.
    levels = np.arange(-4, 1030) / 4
    pixels = torch.from_numpy(levels / 127.5 - 1)[None, None, None].expand(1, 3, 1, -1)
    images = images_from_pixels(pixels + 1e-9, "truncate")
    assert images.shape == (1, 1, len(levels), 3) and images.dtype == torch.uint8
    assert images[0, 0, :, 0].tolist() == np.clip(np.floor(levels), 0, 255).tolist()


def test_rounding_is_the_nearest_level():
    # DiT sample_ddp.py: 127.5 x + 128, clamped, cut off: half a level above truncation.
    levels = np.arange(-4, 1030) / 4 + 0.1
    pixels = torch.from_numpy(levels / 127.5 - 1)[None, None, None].expand(1, 3, 1, -1)
    images = images_from_pixels(pixels, "round")
    assert images[0, 0, :, 0].tolist() == np.clip(np.rint(levels), 0, 255).tolist()


def test_images_are_channels_last():
    pixels = torch.linspace(-1, 1, 2 * 3 * 4 * 5).reshape(2, 3, 4, 5)
    images = images_from_pixels(pixels)
    assert images.is_contiguous()
    assert images[1, 2, 3, 1] == int((pixels[1, 1, 2, 3] + 1) / 2 * 255)


def test_latents_of_moments_equal_the_reference(golden):
    arrays, _ = golden("preprocess_train")
    moments, noise, expected = (
        torch.from_numpy(arrays[f"posterior/{key}"]) for key in ("moments", "noise", "z")
    )
    latents = latents_from_moments(moments, noise, SD_LATENTS)
    torch.testing.assert_close(latents, expected, atol=1e-6, rtol=0)


def test_registered_name_is_found_where_it_was_put_by_hand(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("REPA_CACHE", str(tmp_path))
    shutil.copytree(folder, tmp_path / "autoencoders" / "sd-vae-ft-ema")
    files = find_autoencoder("sd-vae-ft-ema")
    assert (files.name, files.sha256) == ("sd-vae-ft-ema", find_autoencoder(str(folder)).sha256)
    assert (
        load_autoencoder("sd-vae-ft-ema").decode(torch.zeros(1, 4, 2, 2), SD_LATENTS).shape[-1] == 8
    )


def test_without_network_the_error_names_files_address_and_place(tmp_path, monkeypatch):
    import huggingface_hub

    def fail(*arguments, **options):
        raise OSError("no connection.\nand a long explanation")

    monkeypatch.setenv("REPA_CACHE", str(tmp_path))
    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    with pytest.raises(DownloadError) as caught:
        find_autoencoder("sd-vae-ft-mse")
    assert str(caught.value) == (
        "cannot download the autoencoder sd-vae-ft-mse (no connection); download config.json and "
        "diffusion_pytorch_model.safetensors from "
        "https://huggingface.co/stabilityai/sd-vae-ft-mse/tree/main and put them into "
        f"{tmp_path / 'autoencoders' / 'sd-vae-ft-mse'}"
    )


@pytest.mark.parametrize("revision", [None, "0123abc"])
def test_registered_revision_is_the_one_that_is_downloaded(folder, tmp_path, monkeypatch, revision):
    import huggingface_hub

    asked = []

    def answer(identifier, **options):
        asked.append((identifier, options["revision"]))
        return str(folder)

    entry = {"hugging_face": "somebody/vae", "revision": revision}
    monkeypatch.setenv("REPA_CACHE", str(tmp_path))
    monkeypatch.setattr(huggingface_hub, "snapshot_download", answer)
    monkeypatch.setattr("repa.autoencoders.hub.find_entry", lambda section, name: entry)
    assert find_autoencoder("sd-vae-ft-ema").folder == folder
    assert asked == [("somebody/vae", revision)]


def test_unknown_name_gets_the_closest_one():
    with pytest.raises(UnknownNameError, match="did you mean 'sd-vae-ft-ema'"):
        find_autoencoder("sd-vae-ft-emu")


def test_attention_under_its_names_of_2022_is_loaded(folder, tmp_path):
    # The published files are older than diffusers' present names.
    old = shutil.copytree(folder, tmp_path / "old")
    tensors = load_file(folder / "diffusion_pytorch_model.safetensors")
    names = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    renamed = {}
    for name, tensor in tensors.items():
        for new, earlier in names.items():
            name = name.replace(f".{new}.", f".{earlier}.")
        renamed[name] = tensor
    assert renamed.keys() != tensors.keys()
    save_file(renamed, old / "diffusion_pytorch_model.safetensors", metadata={"format": "pt"})
    latents = torch.randn(1, 4, 2, 2)
    first, second = (load_autoencoder(str(f)).decode(latents, SD_LATENTS) for f in (old, folder))
    assert torch.equal(first, second)


def test_missing_tensors_are_an_error_and_not_random(folder, tmp_path, capfd):
    partial = shutil.copytree(folder, tmp_path / "partial")
    tensors = load_file(folder / "diffusion_pytorch_model.safetensors")
    del tensors["decoder.conv_in.weight"]
    save_file(tensors, partial / "diffusion_pytorch_model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointMismatchError, match=r"lacks 1 tensors .* decoder\.conv_in"):
        load_autoencoder(str(partial))
    assert capfd.readouterr().err == ""


def test_folder_that_holds_no_autoencoder_is_an_error(folder, tmp_path):
    with pytest.raises(CheckpointFormatError, match=r"model\.safetensors is missing"):
        find_autoencoder(str(tmp_path))
    broken = shutil.copytree(folder, tmp_path / "broken")
    save_file({"x": torch.zeros(1)}, broken / "diffusion_pytorch_model.safetensors")
    (broken / "config.json").write_text("{}")
    with pytest.raises(CheckpointFormatError, match="describes no AutoencoderKL"):
        _ = find_autoencoder(str(broken)).downsampling
    (broken / "diffusion_pytorch_model.safetensors").write_bytes(b"garbage")
    with pytest.raises(CheckpointFormatError, match="holds no AutoencoderKL"):
        load_autoencoder(str(broken))
