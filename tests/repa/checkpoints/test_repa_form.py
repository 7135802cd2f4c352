"""REPA's form, read by a reader after the rules of its generate.py and models/sit.py at 67f7145.

The reader builds the network that the script's options describe, and loads the key "ema" strictly.
"""

from dataclasses import replace

import pytest
import torch
from golden_files import GOLDENS_DIR

from repa.autoencoders.latent_space import SD_LATENTS
from repa.checkpoints import load_model, read_checkpoint, repa_form
from repa.checkpoints.export import write_weights
from repa.checkpoints.repa_form import export_to_repa
from repa.checkpoints.settings import CheckpointSettings, describe
from repa.errors import CheckpointFormatError, NonFiniteError, OutputExistsError, SettingError
from repa.models import SiT

FOLDER = GOLDENS_DIR / "dialects"
TINY = {"hidden_size": 24, "depth": 3, "num_heads": 3, "patch_size": 2}
SHAPE = {"input_size": 8, "in_channels": 4, "num_classes": 7, "encoder_depth": 2}


@pytest.fixture
def tiny(monkeypatch):
    """Let the script build a small network, and sample small latents, by name."""
    monkeypatch.setitem(repa_form.MODELS, "SiT-T/2", TINY)
    monkeypatch.setitem(repa_form.RESOLUTIONS, 8, 64)


def build_as_the_script_does(options):
    """What its SiT_models[args.model](...) has: names and shapes, by its own code's rules."""
    width, depth = TINY["hidden_size"], TINY["depth"]
    latent_size = int(options["--resolution"]) // 8
    patch, channels, classes = TINY["patch_size"], 4, int(options["--num-classes"])
    shapes = {
        "pos_embed": (1, (latent_size // patch) ** 2, width),
        "x_embedder.proj.weight": (width, channels, patch, patch),
        "x_embedder.proj.bias": (width,),
        "t_embedder.mlp.0.weight": (width, 256),
        "t_embedder.mlp.0.bias": (width,),
        "t_embedder.mlp.2.weight": (width, width),
        "t_embedder.mlp.2.bias": (width,),
        "y_embedder.embedding_table.weight": (classes + 1, width),
        "final_layer.linear.weight": (patch**2 * channels, width),
        "final_layer.linear.bias": (patch**2 * channels,),
        "final_layer.adaLN_modulation.1.weight": (2 * width, width),
        "final_layer.adaLN_modulation.1.bias": (2 * width,),
    }
    for block in range(depth):
        layers = {"attn.qkv": 3, "attn.proj": 1, "mlp.fc1": 4, "adaLN_modulation.1": 6}
        for layer, times in layers.items():
            shapes[f"blocks.{block}.{layer}.weight"] = (times * width, width)
            shapes[f"blocks.{block}.{layer}.bias"] = (times * width,)
        shapes[f"blocks.{block}.mlp.fc2.weight"] = (width, 4 * width)
        shapes[f"blocks.{block}.mlp.fc2.bias"] = (width,)
        if "--qk-norm" in options:
            for norm in ("q_norm", "k_norm"):
                for kind in ("weight", "bias"):
                    shapes[f"blocks.{block}.attn.{norm}.{kind}"] = (width // TINY["num_heads"],)
    dims = [int(dim) for dim in options["--projector-embed-dims"].split(",")]
    for number, dim in enumerate(dims):
        sizes = ((2048, width), (2048, 2048), (dim, 2048))
        for layer, size in zip((0, 2, 4), sizes, strict=True):
            shapes[f"projectors.{number}.{layer}.weight"] = size
            shapes[f"projectors.{number}.{layer}.bias"] = size[:1]
    return shapes


def loaded_as_the_script_does(written):
    """torch.load(ckpt)['ema'], which load_state_dict then compares strictly."""
    for safe in (True, False):  # the default of torch has changed
        tensors = torch.load(written.path, weights_only=safe, map_location="cpu")["ema"]
    found = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    assert found == build_as_the_script_does(written.options)
    assert {tensor.dtype for tensor in tensors.values()} == {torch.float32}
    return tensors


def saved(path, changes=(), **settings):
    model = SHAPE | TINY | {"target_dims": []} | dict(changes)
    torch.manual_seed(0)
    network = SiT(**model)
    for parameter in network.parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=0.1)
    said = CheckpointSettings(model=model, **({"latent_space": SD_LATENTS} | settings))
    write_weights(path, network.state_dict(), describe(said))
    return path


def test_recorded_file_of_repa_s_own_trainer_keeps_every_name_shape_and_value(tiny, tmp_path):
    source = FOLDER / "repa_train.pt"
    written = export_to_repa(source, tmp_path / "x.pt", num_heads=3)
    tensors = loaded_as_the_script_does(written)
    with torch.serialization.safe_globals([__import__("argparse").Namespace]):
        own = torch.load(source, weights_only=True)["ema"]
    # Its projectors are narrower than the script's, so that zeros stand in for them.
    for name, tensor in own.items():
        assert name.startswith("projectors.") or torch.equal(tensors[name], tensor)
    assert {n for n in own if n[:4] != "proj"} == {n for n in tensors if n[:4] != "proj"}
    assert "assumed four channels are latents" in written.notes[0]
    assert "zeros" in written.notes[1]


def test_own_model_with_projectors_of_the_script_s_width_keeps_them(tiny, tmp_path):
    source = saved(tmp_path / "x.safetensors", {"target_dims": [5, 6], "projector_dim": 2048})
    written = export_to_repa(source, tmp_path / "x.pt")
    tensors = loaded_as_the_script_does(written)
    assert written.options["--projector-embed-dims"] == "5,6"
    for name, tensor in read_checkpoint(source).tensors.items():
        assert torch.equal(tensors[name], tensor)
    assert not any("zeros" in note for note in written.notes)


@pytest.mark.parametrize("name", ["sit_train", "selfflow_wrapped", "haste_train"])
def test_other_dialects_mean_the_same_velocity_in_repa_s_form(tiny, tmp_path, name):
    first = load_model(FOLDER / f"{name}.pt", num_heads=3)
    written = export_to_repa(FOLDER / f"{name}.pt", tmp_path / "x.pt", num_heads=3)
    loaded_as_the_script_does(written)
    again = load_model(written.path, num_heads=3)
    assert again.dialect == "repa"
    x, t = torch.randn(2, 4, 8, 8), torch.tensor([0.2, 0.9])
    with torch.no_grad():
        velocities = [model.model(x, t, torch.tensor([1, 2])) for model in (first, again)]
    assert torch.equal(*velocities)
    guided = [note for note in written.notes if "guides all channels" in note]
    assert bool(guided) == (name == "sit_train")


def test_command_has_every_option_that_is_not_the_script_s_default(tiny, tmp_path):
    changes = {"qk_norm": True, "encoder_depth": 1}
    space = replace(SD_LATENTS, autoencoder="sd-vae-ft-mse")
    source = saved(tmp_path / "x.safetensors", changes, path_type="cosine", latent_space=space)
    written = export_to_repa(source, tmp_path / "out.pt")
    loaded_as_the_script_does(written)
    for part in (
        f"generate.py --ckpt {tmp_path / 'out.pt'} --model SiT-T/2 --resolution 64",
        "--num-classes 7 --encoder-depth 1 --projector-embed-dims 1",
        "--path-type cosine --vae mse --qk-norm",
    ):
        assert part in written.command
    assert any("takes 1000 for no label, not 7" in note for note in written.notes)


@pytest.mark.parametrize(
    ("changes", "settings", "reason"),
    [
        ({"depth": 2}, {}, "its scripts build SiT-XL, SiT-L and SiT-B"),
        ({"num_heads": 4}, {}, "its scripts build"),
        ({"input_size": 16}, {}, "these are 4 x 16 x 16"),
        ({"in_channels": 8}, {}, "these are 8 x 8 x 8"),
        ({"internal_head": True}, {}, "its middle head has no place there"),
        ({}, {"latent_space": replace(SD_LATENTS, scale=2.0)}, "another scale than Stable"),
        ({}, {"latent_space": replace(SD_LATENTS, bias=1.0)}, "another scale"),
        ({}, {"latent_space": replace(SD_LATENTS, autoencoder="mine")}, "not by mine"),
    ],
)
def test_what_the_script_cannot_be_told_is_refused(tiny, tmp_path, changes, settings, reason):
    source = saved(tmp_path / "x.safetensors", changes, **settings)
    with pytest.raises(CheckpointFormatError) as caught:
        export_to_repa(source, tmp_path / "x.pt")
    text = str(caught.value)
    assert reason in text and text.startswith(str(source)) and "\n" not in text
    assert not (tmp_path / "x.pt").exists()


def test_noise_prediction_and_pixels_are_refused(tiny, tmp_path):
    with pytest.raises(CheckpointFormatError, match="predicts the noise on the path ddpm"):
        export_to_repa(FOLDER / "dit_train.pt", tmp_path / "x.pt", num_heads=3)
    with pytest.raises(CheckpointFormatError, match="its scripts build"):
        export_to_repa("digits", tmp_path / "x.pt")


def test_published_sizes_are_those_that_the_script_can_build():
    sizes = {f"SiT-{width}/{patch}" for width in ("XL", "L", "B") for patch in (2, 4, 8)}
    assert set(repa_form.MODELS) == sizes  # of S its class has a last layer of another width


def test_output_is_checked_like_any_other(tiny, tmp_path):
    source = saved(tmp_path / "x.safetensors")
    with pytest.raises(SettingError, match=r"must end in \.pt"):
        export_to_repa(source, tmp_path / "y.safetensors")
    (tmp_path / "x.pt").write_text("mine")
    with pytest.raises(OutputExistsError, match="--overwrite"):
        export_to_repa(source, tmp_path / "x.pt")
    assert (tmp_path / "x.pt").read_text() == "mine"
    export_to_repa(source, tmp_path / "x.pt", overwrite=True)
    checkpoint = read_checkpoint(source)
    tensors = dict(checkpoint.tensors) | {"blocks.0.mlp.fc1.bias": torch.full((96,), torch.nan)}
    write_weights(source, tensors, describe(checkpoint.settings))
    with pytest.raises(NonFiniteError, match=r"blocks\.0\.mlp\.fc1\.bias holds NaN"):
        export_to_repa(source, tmp_path / "x.pt", overwrite=True)
