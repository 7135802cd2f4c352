"""512 pixels, and other square grids, by the checkpoint's own position embedding."""

import numpy as np
import pytest
import torch
from PIL import Image

from metrics import open_images
from repa import SiT
from repa.autoencoders.autoencoder import load_autoencoder
from repa.checkpoints import load_model
from repa.errors import CheckpointFormatError, DataError
from repa.evaluation.references import plan_evaluation
from repa.generation import Protocol, SampleConfig, defaults_of, generate, images_of
from repa.sheets import save_sheet

SIZES = {"hidden_size": 24, "depth": 1, "num_heads": 3, "encoder_depth": 1, "target_dims": []}
LARGE = {**SIZES, "input_size": 64, "patch_size": 8, "in_channels": 4, "num_classes": 1000}


@pytest.fixture(scope="module")
def decoder(tmp_path_factory):
    """The folder of an autoencoder whose images are eight times as large as their latents."""
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

    torch.manual_seed(0)
    network = AutoencoderKL(
        block_out_channels=(2,) * 4,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=2,
    )
    folder = tmp_path_factory.mktemp("decoder")
    network.save_pretrained(folder)
    return folder


def saved(path, turned=False, **changes):
    """Save a bare state dict, as others publish them, perhaps with its positions turned round."""
    torch.manual_seed(0)
    model = SiT(**{**LARGE, **changes})
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    if turned:
        model.pos_embed.copy_(model.pos_embed.flip(1).clone())
    torch.save(model.state_dict(), path)
    return path


BOTH_HALVES = {"out_channels": 8}


@pytest.mark.parametrize(
    ("dialect", "changes", "defaults", "known"),
    [
        ("repa", {}, {}, False),
        ("sit", BOTH_HALVES, {"cfg_scale": 1.5, "quantizer": "round"}, False),
        ("dit", BOTH_HALVES, {"cfg_scale": 1.5, "quantizer": "round", "solver": "ddpm"}, True),
    ],
)
def test_a_file_with_a_grid_of_64_makes_images_of_512_pixels(
    tmp_path, decoder, dialect, changes, defaults, known
):
    path, hints = saved(tmp_path / "a.pt", **changes), {"num_heads": 3, "dialect": dialect}
    checkpoint = load_model(path, **hints)
    settings = checkpoint.settings
    assert (settings.model["input_size"], settings.dataset) == (64, "imagenet-512")
    own = defaults_of(path, **hints)
    assert defaults.items() <= own.values.items()
    assert ("none published for 512 are known" in own.remark) == (not known)
    given = {"num_images": 2, "num_steps": 2, "labels": (207,), "device": "cpu", **hints}
    out = tmp_path / "a.npz"
    config = SampleConfig.for_model(str(path), autoencoder=str(decoder), out=out, **given)
    generate(config)
    images = open_images(out)
    assert images.shape == (512, 512, 3) and images.manifest["image_size"] == 512
    (batch,) = images_of(checkpoint, range(2), config, autoencoder=load_autoencoder(str(decoder)))
    assert np.array_equal(next(images.batches(2)), batch.images)
    plan = plan_evaluation(images)
    assert (plan.reference, plan.network) == ("adm-imagenet-512", "inception")
    save_sheet(out, tmp_path / "sheet.png")
    with Image.open(tmp_path / "sheet.png") as sheet:
        pixels = np.asarray(sheet)
    assert np.array_equal(pixels[-516:-4, 4:516], batch.images[0])


def test_the_position_embedding_is_that_of_the_file(tmp_path):
    protocol = Protocol(solver="euler", num_steps=1, cfg_scale=1.0)

    class Itself:
        latent_channels = 4

        def decode(self, x, space):
            return x[:, :3]

    first, second = (
        next(
            images_of(
                load_model(saved(tmp_path / f"{turned}.pt", turned), num_heads=3),
                range(1),
                protocol,
                autoencoder=Itself(),
            )
        ).images
        for turned in (False, True)
    )
    assert first.shape == (1, 64, 64, 3) and not np.array_equal(first, second)


def test_images_of_another_size_ask_what_to_compare_them_with(tmp_path, decoder):
    path = saved(tmp_path / "a.pt", input_size=40)
    given = {"num_images": 2, "num_steps": 1, "device": "cpu", "num_heads": 3}
    out = tmp_path / "a.npz"
    generate(SampleConfig(model=str(path), autoencoder=str(decoder), out=out, **given))
    images = open_images(out)
    assert images.shape == (320, 320, 3) and images.manifest["dataset"] is None
    with pytest.raises(DataError, match=r"does not say which data .* by --ref"):
        plan_evaluation(images)


def test_patches_that_make_no_square_are_refused(tmp_path):
    state = torch.load(saved(tmp_path / "a.pt"), weights_only=True)
    state["pos_embed"] = state["pos_embed"][:, :60]
    torch.save(state, tmp_path / "b.pt")
    with pytest.raises(CheckpointFormatError, match=r"b\.pt: .* 60 patches, which make no square"):
        load_model(tmp_path / "b.pt", num_heads=3)


def test_guidance_of_sra_at_512_pixels_is_what_its_authors_state(tmp_path):
    state = torch.load(saved(tmp_path / "a.pt"), weights_only=True)
    state |= {f"ap_head.linear{n}.{kind}": torch.zeros(24) for n in (1, 2) for kind in ("weight",)}
    torch.save(state, tmp_path / "b.pt")
    own = defaults_of(tmp_path / "b.pt", num_heads=3)
    assert (own.values, own.dialect, own.remark) == ({"cfg_scale": 2.5}, "sra", "")
    assert defaults_of("sra-xl-2-512").values == {"cfg_scale": 2.5}


@pytest.mark.parametrize("head", [(), ("ap_head.linear1.weight",)])
def test_defaults_of_256_pixels_are_what_is_published_without_a_remark(tmp_path, head):
    state = torch.load(saved(tmp_path / "a.pt", input_size=32), weights_only=True)
    torch.save(state | {name: torch.zeros(24) for name in head}, tmp_path / "b.pt")
    own = defaults_of(tmp_path / "b.pt", num_heads=3)
    assert (own.values, own.remark) == ({}, "")
