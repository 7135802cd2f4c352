"""`repa sample --guide`: files that tell less than they should, and guides that do not fit."""

import json

import numpy as np
import pytest
import torch
from golden_files import GOLDENS_DIR
from tiny_autoencoder import save_tiny_autoencoder
from tiny_checkpoint import save_tiny, tiny_sit

DIALECTS = GOLDENS_DIR / "dialects"
SAMPLE = ("sample", "--num", 2, "--steps", 2, "--cfg", 2, "--device", "cpu")
BARE = ("--dialect", "repa", "--num-heads", 3)


def save_bare(path, seed, **changes):
    """Write a network in REPA's form, which tells no heads."""
    model = tiny_sit(**changes)
    torch.manual_seed(seed)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    torch.save({"ema": model.state_dict()}, path)


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A working folder of models that tell their heads or do not, and of guides for them."""
    monkeypatch.chdir(tmp_path)
    save_bare("bare.pt", 0)
    save_bare("earlier.pt", 1)
    save_tiny(tmp_path / "told.safetensors", hidden_size=32, num_heads=4)
    save_tiny(tmp_path / "six.safetensors", num_classes=6)
    save_bare("latent.pt", 0, in_channels=4)
    save_bare("latent-earlier.pt", 1, in_channels=4)
    save_tiny(tmp_path / "latent.safetensors", in_channels=4)
    numbers = {"latents_scale": torch.full((4,), 0.5), "latents_bias": torch.ones(4)}
    torch.save(numbers, "statistics.pt")
    save_tiny_autoencoder(tmp_path / "vae")
    return tmp_path


def sampled(repa, out, *options):
    code, _, error = repa(*SAMPLE, "--out", out, *options)
    assert code == 0, error
    with np.load(out) as file:
        return file["arr_0"], json.loads(str(file["manifest"]))


def test_what_is_said_of_the_model_is_said_of_a_guide_that_does_not_tell_it(repa, here):
    _, manifest = sampled(repa, "a.npz", "--model", "bare.pt", *BARE, "--guide", "earlier.pt")
    assert manifest["guide_hints"] == ["dialect", "num_heads"]
    code, out, error = repa("sample", "--from-manifest", "a.npz", "--out", "b.npz", "--json")
    assert (code, json.loads(out)["bytes"]) == (0, "those of a.npz"), error
    assert (here / "a.npz").read_bytes() == (here / "b.npz").read_bytes()


def test_what_is_said_gives_way_to_what_the_file_of_a_guide_tells(repa, here):
    guided, manifest = sampled(
        repa, "a.npz", "--model", "bare.pt", *BARE, "--guide", "told.safetensors"
    )
    assert "guide_hints" not in manifest  # it has four heads, and says so
    plain, _ = sampled(repa, "b.npz", "--model", "bare.pt", *BARE)
    assert not np.array_equal(guided, plain)
    assert repa("sample", "--from-manifest", "a.npz", "--out", "c.npz")[0] == 0
    assert (here / "a.npz").read_bytes() == (here / "c.npz").read_bytes()


def test_a_run_is_repeated_although_its_model_tells_a_dialect_and_its_guide_does_not(repa, here):
    """The model's dialect stands in the manifest, and might be mistaken for one that was said."""
    # As SiT the guide's tensors make sense too: a network whose time runs the other way.
    save_bare("plain.pt", 1, in_channels=4, patch_size=2, depth=3, num_classes=7)
    model = ("--model", DIALECTS / "sit_train.pt")
    options = ("--num-heads", 3, "--autoencoder", "vae", "--solver", "euler")
    _, manifest = sampled(repa, "a.npz", *model, "--guide", "plain.pt", *options)
    assert manifest["dialect"] == "sit" and manifest["guide_hints"] == ["num_heads"]
    code, _, error = repa("sample", "--from-manifest", "a.npz", "--out", "b.npz", *model)
    assert code == 0, error
    assert (here / "a.npz").read_bytes() == (here / "b.npz").read_bytes()


def test_said_latents_are_those_of_a_guide_whose_are_only_assumed(repa, here):
    said = ("--autoencoder", "vae", *BARE, "--latents", "statistics.pt")
    _, manifest = sampled(
        repa, "a.npz", "--model", "latent.pt", *said, "--guide", "latent-earlier.pt"
    )
    assert manifest["guide_hints"] == ["dialect", "num_heads", "latents"]
    code, out, error = repa(
        *SAMPLE, "--out", "b.npz", "--model", "latent.pt", *said, "--guide", "latent.safetensors"
    )
    assert (code, out) == (2, "") and error.count("\n") == 1
    assert "--guide: the guide's latent space: scale 5.48" in error


@pytest.mark.parametrize(
    ("guide", "code", "part"),
    [
        ("six.safetensors", 2, "--guide: the guide's classes: 6, the model's: 5; take a"),
        ("latent.safetensors", 2, "--guide: the guide's channels: 4, the model's: 3; take a"),
        ("statistics.pt", 1, "statistics.pt: "),
        ("none.pt", 2, "none.pt"),
    ],
)
def test_a_guide_that_does_not_fit_is_one_line(repa, here, guide, code, part):
    found, out, error = repa(
        *SAMPLE, "--out", "a.npz", "--model", "bare.pt", *BARE, "--guide", guide
    )
    assert (found, out) == (code, "") and part in error and error.count("\n") == 1, error
    assert not (here / "a.npz").exists()


def test_another_guide_than_the_recorded_one_is_one_line_with_both_hashes(repa, here):
    from repa.checkpoints import read_checkpoint

    _, manifest = sampled(repa, "a.npz", "--model", "bare.pt", *BARE, "--guide", "earlier.pt")
    save_bare("earlier.pt", 2)
    code, out, error = repa("sample", "--from-manifest", "a.npz", "--out", "b.npz")
    assert (code, out) == (1, "") and error.count("\n") == 1, error
    now = read_checkpoint("earlier.pt", num_heads=3).sha256
    assert f"{manifest['guide_sha256']}; here it is {now}: name the same file by --guide" in error
    assert not (here / "b.npz").exists()
