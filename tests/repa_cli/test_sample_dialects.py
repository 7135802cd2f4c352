"""`repa sample` of other people's files: their conventions arrive in the images."""

import json
from functools import partial

import numpy as np
import pytest
import torch
from golden_files import GOLDENS_DIR
from ldm_autoencoder import Forward, random_state

from repa.autoencoders.autoencoder import load_autoencoder
from repa.autoencoders.latent_space import SD_LATENTS
from repa.autoencoders.pixels import images_from_pixels
from repa.checkpoints import read_checkpoint
from repa.tensor_file import read_contents
from samplers import classifier_free_output, draw_labels, initial_noise, sample_ddpm, step_noise

FOLDER = GOLDENS_DIR / "dialects"
SHAPE = (4, 8, 8)


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A working folder with an autoencoder of four channels, random, in vae/."""
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

    torch.manual_seed(0)
    tiny = AutoencoderKL(latent_channels=4, block_out_channels=(4,), norm_num_groups=2)
    tiny.save_pretrained(tmp_path / "vae")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("REPA_CACHE", str(tmp_path / "cache"))
    return tmp_path


def sampled(repa, name, *options):
    command = ("sample", "--model", str(FOLDER / f"{name}.pt"), "--autoencoder", "vae")
    code, _, err = repa(*command, "--num", 3, "--labels", "2", "--device", "cpu", *options)
    assert code == 0, err
    with np.load("samples.npz", allow_pickle=False) as file:
        return file["arr_0"].astype(int), json.loads(str(file["manifest"])), err


def decoded(x, quantizer):
    pixels = load_autoencoder("vae").decode(x.float(), SD_LATENTS)
    return images_from_pixels(pixels, quantizer).numpy().astype(int)


def test_original_sit_is_sampled_with_its_three_guided_channels_and_rounded_pixels(repa, here):
    options = ("--num-heads", 3, "--solver", "euler", "--steps", 4, "--cfg", 8)
    found, manifest, err = sampled(repa, "sit_train", *options)
    assert "dialect sit, so the defaults of its authors" in err
    assert (manifest["dialect"], manifest["guided_channels"]) == ("sit", 3)
    assert manifest["quantizer"] == "round"
    # By hand, in SiT's own time and sign and with guidance as its forward_with_cfg has it.
    model = read_checkpoint(FOLDER / "sit_train.pt", num_heads=3).model
    x = initial_noise(0, range(3), SHAPE).double()
    for step in range(4):
        t = torch.full((3,), 1 - step / 4)
        with torch.no_grad():
            own, null = (model(x.float(), t, torch.full((3,), c)).double() for c in (2, 7))
        guided = torch.cat([(null + 8 * (own - null))[:, :3], own[:, 3:]], dim=1)
        x = x - guided / 4
    assert abs(found - decoded(x, "round")).max() <= 1 and found.std() > 10


def test_dit_is_sampled_by_ddpm_unless_another_solver_is_typed(repa, here):
    found, manifest, _ = sampled(repa, "dit_train", "--num-heads", 3, "--steps", 5)
    assert (manifest["solver"], manifest["path_type"], manifest["dialect"]) == (
        "ddpm",
        "ddpm",
        "dit",
    )
    assert manifest["guided_channels"] == 3
    network = read_checkpoint(FOLDER / "dit_train.pt", num_heads=3).model
    output = classifier_free_output(network, torch.full((3,), 2), 10, 1.5, guided_channels=3)
    noise, normal = initial_noise(0, range(3), SHAPE), partial(step_noise, 0, range(3), shape=SHAPE)
    x = sample_ddpm(output, noise, num_steps=5, normal=normal)
    assert abs(found - decoded(x, "round")).max() <= 1 and found.std() > 10
    sampled(repa, "dit_train", "--num-heads", 3, "--steps", 5, "--solver", "heun", "--overwrite")
    other, manifest, _ = sampled(
        repa, "dit_train", "--num-heads", 3, "--steps", 5, "--solver", "heun"
    )
    assert manifest["solver"] == "heun" and not np.array_equal(other, found)


@pytest.fixture
def end_to_end(here):
    """A file of REPA-E's trainer with a small autoencoder in it, and that one's state dict."""
    _, extra = read_contents(FOLDER / "repae_e2e.pt")
    state = random_state()
    keys = {key: extra[key] for key in ("model", "ema", "args", "steps")}
    torch.save({**keys, "vae": state}, here / "e2e.pt")
    return state


def made(repa, file, *options):
    command = (
        "sample",
        "--model",
        file,
        "--num",
        3,
        "--steps",
        3,
        "--device",
        "cpu",
        "--overwrite",
    )
    code, _, err = repa(*command, *options)
    assert code == 0, err
    with np.load("samples.npz", allow_pickle=False) as found:
        return found["arr_0"].astype(int), json.loads(str(found["manifest"])), err


def test_repa_e_is_decoded_by_the_autoencoder_in_its_own_file(repa, here, end_to_end):
    found, manifest, err = made(repa, "e2e.pt", "--num-heads", 4, "--solver", "euler", "--cfg", 1)
    assert (manifest["autoencoder"], manifest["image_size"]) == ("e2e.pt", 32)
    assert "guidance of REPA-E's releases differs by release" in err
    assert manifest["autoencoder_sha256"] == manifest["checkpoint_sha256"]
    model = read_checkpoint("e2e.pt", num_heads=4).model
    x, labels = initial_noise(0, range(3), SHAPE).double(), draw_labels(0, range(3), 8)
    for step in range(3):
        with torch.no_grad():
            x = x - model(x.float(), torch.full((3,), 1 - step / 3), labels).double() / 3
    norm = read_contents(here / "e2e.pt")[1]["ema"]
    latents = x / norm["bn.running_var"].rsqrt()[:, None, None]
    latents = latents + norm["bn.running_mean"][:, None, None]
    expected = images_from_pixels(Forward(end_to_end).decode(latents)).numpy().astype(int)
    assert abs(found - expected).max() <= 1 and found.std() > 10


def test_export_of_repa_e_keeps_its_autoencoder(repa, here, end_to_end):
    first, _, _ = made(repa, "e2e.pt", "--num-heads", 4)
    assert repa("export", "e2e.pt", "x.safetensors", "--num-heads", 4)[0] == 0
    (here / "e2e.pt").unlink()
    again, manifest, _ = made(repa, "x.safetensors")
    assert np.array_equal(again, first) and manifest["autoencoder"] == "x.safetensors"


def test_autoencoder_may_be_a_file_of_its_own(repa, here, end_to_end):
    torch.save(end_to_end, here / "vae.pt")
    typed = ("--num-heads", 4, "--autoencoder", "vae.pt")
    first, manifest, _ = made(repa, "e2e.pt", *typed)
    assert manifest["autoencoder"] == "vae.pt"
    assert np.array_equal(first, made(repa, "e2e.pt", "--num-heads", 4)[0])
    file = FOLDER / "repa_train.pt"
    code, _, err = repa("sample", "--model", "e2e.pt", "--num-heads", 4, "--autoencoder", file)
    assert code == 1 and "holds no autoencoder in the names of latent-diffusion" in err


def test_exported_file_is_sampled_as_its_authors_sample_the_original(repa, here):
    command = ("export", FOLDER / "sit_train.pt", "x.safetensors", "--num-heads", 3)
    assert repa(*command)[0] == 0
    found, manifest, err = made(repa, "x.safetensors", "--autoencoder", "vae")
    assert "with the defaults that its file brings" in err
    first, original, _ = made(
        repa, FOLDER / "sit_train.pt", "--autoencoder", "vae", "--num-heads", 3
    )
    assert np.array_equal(found, first)
    changed = {key for key in manifest.keys() | original if manifest.get(key) != original.get(key)}
    assert changed == {"model", "checkpoint_sha256", "dialect", "hints"}


def test_internal_guidance_is_on_as_published_and_says_where_its_head_is(repa, here):
    found, manifest, err = sampled(repa, "ig_train", "--num-heads", 4, "--steps", 3)
    assert (manifest["internal_scale"], manifest["cfg_scale"]) == (1.4, 1.35)
    assert "ig_train.pt: assumed its middle head after block 3" in err
    assert "ig_train.pt: assumed four channels are latents of sd-vae-ft-ema" in err
    off, manifest, _ = sampled(
        repa, "ig_train", "--num-heads", 4, "--steps", 3, "--ig", 1, "--overwrite"
    )
    assert "internal_scale" not in manifest and not np.array_equal(off, found)


@pytest.mark.parametrize(
    ("name", "options", "code", "message"),
    [
        ("sit_release", (), 1, "Say --dialect sit or dit"),
        ("sit_release", ("--dialect", "sid"), 2, "unknown dialect 'sid'; did you mean 'sit'"),
        ("repa_train", (), 1, "say --num-heads"),
        ("repa_train", ("--num-heads", "two"), 2, "--num-heads"),
        ("repa_train", ("--num-heads", 3, "--solver", "ddpm"), 2, "networks that predict noise"),
        ("repa_train", ("--num-heads", 3, "--ig", 1.4), 2, "no middle head"),
        ("dit_train", ("--num-heads", 3, "--steps", 1001), 2, "from 2 to 1000 for ddpm"),
        (
            "dit_train",
            ("--num-heads", 3, "--solver", "dopri5", "--autoencoder", "vae"),
            2,
            "whose velocity is infinite at t = 0, where dopri5 ends: use heun",
        ),
        ("irepa_mlp", ("--num-heads", 3), 1, "say --latents sdvae-ft-mse-f8d4"),
        ("reg_train", (), 1, "is REG's"),
        ("repae_ldm", ("--num-heads", 4), 2, "--autoencoder"),
        (
            "repae_ldm",
            ("--num-heads", 4, "--autoencoder", "vae"),
            2,
            "vae decodes 4 channels, and the model makes 32",
        ),
        (
            "repae_ldm",
            ("--num-heads", 4, "--autoencoder", "vae.pt"),
            2,
            "vae.pt decodes 4 channels",
        ),
    ],
)
def test_what_is_missing_or_does_not_suit_is_one_line(repa, here, name, options, code, message):
    torch.save(random_state(), here / "vae.pt")
    file = str(FOLDER / f"{name}.pt")
    found, out, err = repa("sample", "--model", file, "--num", 2, "--device", "cpu", *options)
    last = err.splitlines()[-1]
    assert (found, out) == (code, "") and last.startswith("repa: error: ") and message in last
    assert not (here / "samples.npz").exists()


def test_export_turns_a_file_of_another_dialect_into_ours(repa, here):
    file = str(FOLDER / "selfflow_wrapped.pt")
    code, _, err = repa("export", file, "x.safetensors", "--num-heads", 3)
    assert code == 0 and "selfflow_wrapped.pt: assumed 4 channels, which patches of 16" in err
    assert read_checkpoint("x.safetensors").dialect == "ours"
    code, _, err = repa("export", file, "y.safetensors", "--num-heads", 3, "--dialect", "sit")
    assert code == 1 and "does not speak the dialect sit" in err
