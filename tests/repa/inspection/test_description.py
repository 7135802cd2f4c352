"""What is told of a file is what its recording says, and every guess is called one."""

import json

import numpy as np
import pytest
import torch
from golden_files import GOLDENS_DIR

from repa.checkpoints import export_weights
from repa.errors import CheckpointMismatchError
from repa.inspection import inspect_checkpoint
from repa.inspection.description import Fact

FOLDER = GOLDENS_DIR / "dialects"
NAMES = sorted(p.stem for p in FOLDER.glob("*.npz") if p.stem != "reg_train")


def meta_of(name):
    with np.load(FOLDER / f"{name}.npz", allow_pickle=False) as file:
        return json.loads(str(file["meta_json"]))


def hints_of(name):
    said = {"num_heads": meta_of(name)["config"]["num_heads"]}
    if name in ("sit_release", "dit_release"):
        said["dialect"] = name[:3]
    if (file := FOLDER / f"{name}_latents_stats.pt").exists():
        said["latents"] = str(file)
    return said


@pytest.mark.parametrize("name", NAMES)
def test_facts_are_those_of_the_recording(name):
    config = meta_of(name)["config"]
    plain = inspect_checkpoint(FOLDER / f"{name}.pt", **hints_of(name)).to_dict()
    assert json.dumps(plain)
    channels, size = config["in_channels"], config["input_size"]
    assert plain["input"] == [channels, size, size]
    assert plain["num_heads"] == config["num_heads"]
    # Of Self-Flow, which counts the row for no label among its classes, the recording says so.
    assert plain["num_classes"] == config.get("label_rows", config["num_classes"] + 1) - 1
    assert f"width {config['hidden_size']}, {config['depth']} blocks" in plain["architecture"]
    # A count by the tensors' own shapes, as the recording lists them.
    shapes = next(f for f in meta_of(name)["files"].values() if "key_shapes" in f)["key_shapes"]
    plainly = {name.removeprefix("module."): shape for name, shape in shapes.items()}
    of_blocks = [n for n in plainly if n.startswith(("blocks.", "decoder_blocks."))]
    blocks = sum(int(np.prod(plainly[name])) for name in of_blocks)
    assert plain["parameters"]["blocks"] == blocks
    assert set(plain["sources"]) >= {"dialect", "num_heads", "path_type", "latent_space"}


@pytest.mark.parametrize("name", [n for n in NAMES if n.endswith(("_train", "_conv"))])
def test_arguments_in_the_file_are_shown(name):
    recorded = meta_of(name).get("args") or {}
    found = inspect_checkpoint(FOLDER / f"{name}.pt", **hints_of(name)).arguments
    assert found and all(str(found[k]) == str(v) for k, v in recorded.items() if k in found)


def test_every_guess_is_called_one_and_what_is_said_is_not():
    file = FOLDER / "repa_release.pt"
    found = inspect_checkpoint(file, num_heads=3)
    guessed = {fact.name for fact in found.assumed}
    assert guessed == {"dialect", "path_type", "latent_space", "alignment_after_block"}
    said = inspect_checkpoint(
        file, num_heads=3, dialect="repa", encoder_depth=2, latents="sd-vae-ft-mse"
    )
    assert {fact.name for fact in said.assumed} == {"path_type"}
    assert {f.name for f in said.facts if f.source == "as said"} >= {"dialect", "latent_space"}
    told = {f.name for f in inspect_checkpoint(FOLDER / "repa_train.pt", num_heads=3).assumed}
    assert told == {"latent_space"}
    norm = inspect_checkpoint(FOLDER / "repa_qknorm.pt")
    assert next(f for f in norm.facts if f.name == "num_heads").source == "the norm of its heads"


def test_statistics_that_a_norm_stands_in_for_and_the_middle_head_are_guesses():
    ldm = inspect_checkpoint(FOLDER / "repae_ldm.pt", num_heads=4)
    assert "latent_space" in {fact.name for fact in ldm.assumed}
    ig = inspect_checkpoint(FOLDER / "ig_train.pt", num_heads=4)
    assert "middle_head_after_block" in {fact.name for fact in ig.assumed}
    said = inspect_checkpoint(FOLDER / "ig_train.pt", num_heads=4, encoder_depth=2)
    assert "middle_head_after_block" not in {fact.name for fact in said.assumed}
    assert said.to_dict()["middle_head_after_block"] == 2


def test_sampling_is_the_authors_and_says_so(tmp_path):
    file = FOLDER / "sit_train.pt"
    found = inspect_checkpoint(file, num_heads=3)
    assert found.sampling["cfg_scale"] == 1.5 and "authors of sit" in found.sampling_source
    assert found.to_dict()["guided_channels"] == 3
    out = export_weights(file, tmp_path / "x.safetensors", num_heads=3)
    again = inspect_checkpoint(out)
    assert again.sampling == found.sampling and again.assumed == []
    assert again.sampling_source == "what the file itself says"
    other = inspect_checkpoint(FOLDER / "repa_train.pt", num_heads=3)
    assert other.sampling_source == "REPA's published protocol"


@pytest.mark.parametrize(("name", "turned"), [("sit_train", True), ("repa_train", False)])
def test_time_that_was_turned_is_said(name, turned):
    plain = inspect_checkpoint(FOLDER / f"{name}.pt", num_heads=3).to_dict()
    assert plain["prediction"] == "velocity (t = 1 is noise)"
    assert ("turned" in plain["sources"]["prediction"]) is turned


def test_autoencoder_within_a_file_is_counted_and_named():
    found = inspect_checkpoint(FOLDER / "repae_e2e.pt", num_heads=4)
    assert found.to_dict()["latent_space"]["autoencoder"] == str(FOLDER / "repae_e2e.pt")
    # Stable Diffusion's autoencoder is published with 83.7 million parameters.
    assert found.parameters["autoencoder"] == 83_653_863


def test_file_that_is_not_the_network_that_it_says_is_refused(tmp_path):
    tensors = torch.load(FOLDER / "repa_release.pt", weights_only=True)
    del tensors["blocks.1.mlp.fc1.bias"]
    torch.save(tensors, tmp_path / "x.pt")
    with pytest.raises(CheckpointMismatchError, match=r"missing blocks\.1\.mlp\.fc1\.bias"):
        inspect_checkpoint(tmp_path / "x.pt", num_heads=3)


def test_facts_from_the_tensors_are_no_guesses():
    assert not Fact("x", 1).is_assumed and not Fact("x", 1, "as said").is_assumed
    assert Fact("x", 1, "assumed: so").is_assumed
