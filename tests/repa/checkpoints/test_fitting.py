import json

import numpy as np
import pytest
import torch
from golden_files import GOLDENS_DIR

from repa import SIT_SIZES, SiT
from repa.autoencoders.latent_space import SD_LATENTS, LatentSpace
from repa.checkpoints import read_checkpoint
from repa.checkpoints.export import write_weights
from repa.checkpoints.fitting import fit_weights
from repa.checkpoints.settings import CheckpointSettings, describe
from repa.errors import CheckpointMismatchError
from repa.models.prediction import Prediction

BASE = {
    **SIT_SIZES["SiT-Pico/8"],
    "input_size": 16,
    "in_channels": 4,
    "num_classes": 5,
    "encoder_depth": 1,
    "target_dims": [3, 7],
    "projector_dim": 6,
}
LABELS, POSITIONS = "y_embedder.embedding_table.weight", "pos_embed"


def settings_of(network, **other):
    return CheckpointSettings(model={**BASE, **network}, **{"latent_space": SD_LATENTS, **other})


def written(path, dtype=torch.float32, other=None, **network):
    """Write a checkpoint of random weights; return it as read."""
    torch.manual_seed(1)
    settings = settings_of(network, **(other or {}))
    tensors = SiT(**settings.model).state_dict()
    write_weights(
        path, {n: torch.randn(t.shape).to(dtype) for n, t in tensors.items()}, describe(settings)
    )
    return read_checkpoint(path)


def fitted(checkpoint, other=None, **network):
    """Fit it to a network; return the network's tensors too."""
    settings = settings_of(network, **(other or {}))
    tensors = SiT(**settings.model).state_dict()
    return *fit_weights(checkpoint, tensors, settings), tensors


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_a_network_of_the_same_settings_takes_every_tensor(tmp_path, dtype):
    checkpoint = written(tmp_path / "x.safetensors", dtype)
    taken, notes, network = fitted(checkpoint)
    assert taken.keys() == network.keys() and notes == ["projectors kept"]
    assert all(torch.equal(taken[name], checkpoint.tensors[name]) for name in taken)


@pytest.mark.parametrize(
    ("network", "left", "note"),
    [
        ({"num_classes": 9}, {LABELS}, "label table made anew (9 classes, not 5)"),
        (
            {"input_size": 32},
            {POSITIONS},
            "position embedding made anew (4 x 4 tokens, not 2 x 2)",
        ),
        ({"target_dims": [3]}, "projectors.", "projectors made anew"),
        ({"projector_dim": 8}, "projectors.", "projectors made anew"),
        ({"projector": "conv"}, "projectors.", "projectors made anew"),
        ({"encoder_depth": 2}, "projectors.", "projectors made anew"),
        ({"target_dims": []}, "projectors.", "without its projectors"),
    ],
)
def test_three_parts_that_do_not_fit_are_left_to_be_made_anew_and_said(
    tmp_path, network, left, note
):
    checkpoint = written(tmp_path / "x.safetensors")
    taken, notes, wanted = fitted(checkpoint, **network)
    assert note in notes and len(notes) == 1 + ("projectors" not in note)
    missing = {n for n in wanted if n not in taken}
    if isinstance(left, str):
        assert all(name.startswith(left) for name in missing)
        assert bool(missing) == bool(network.get("target_dims", True))
    else:
        assert missing == left
    assert taken.keys() <= wanted.keys()
    assert all(taken[name].shape == wanted[name].shape for name in taken)
    assert all(torch.equal(tensor, checkpoint.tensors[name]) for name, tensor in taken.items())


def test_a_checkpoint_without_projectors_leaves_them_to_be_made_anew(tmp_path):
    checkpoint = written(tmp_path / "x.safetensors", target_dims=[])
    taken, notes, network = fitted(checkpoint)
    assert notes == ["projectors made anew"]
    assert {n.split(".")[0] for n in network.keys() - taken.keys()} == {"projectors"}
    assert fitted(checkpoint, target_dims=[])[1] == []


@pytest.mark.parametrize(
    ("network", "named"),
    [
        ({"patch_size": 4}, r"x_embedder.proj.weight is \(\d+, 4, 8, 8\) in it and \(\d+, 4, 4, 4"),
        (
            {"in_channels": 3},
            r"x_embedder.proj.weight is \(\d+, 4, 8, 8\) in it and \(\d+, 3, 8, 8",
        ),
        ({"hidden_size": 96}, r"x_embedder.proj.weight"),
        ({"depth": 5}, r"blocks.\d.attn.qkv.weight is missing in it and"),
        (
            {"depth": 2},
            r"blocks.2.adaLN_modulation.1.bias is \(.*\) in it and missing in this run's",
        ),
        ({"mlp_ratio": 2.0}, r"blocks.0.mlp.fc1.weight"),
        ({"num_heads": 4}, r"blocks.0.attn.qkv.weight has 3 heads and this run's network 4"),
        ({"qk_norm": True}, r"blocks.0.attn.q_norm.weight is missing in it"),
    ],
)
def test_whatever_else_does_not_fit_is_refused_by_its_first_tensor(tmp_path, network, named):
    checkpoint = written(tmp_path / "x.safetensors")
    changes = {**network, "num_classes": 9, "input_size": 32, "target_dims": []}
    with pytest.raises(CheckpointMismatchError, match=f"x.safetensors: tensor {named}") as refusal:
        fitted(checkpoint, **changes)
    assert "\n" not in str(refusal.value)
    assert str(refusal.value).endswith("; it holds a SiT-Pico/8.")


@pytest.mark.parametrize(
    ("prediction", "said"),
    [
        (Prediction("noise"), "predicts the noise"),
        (Prediction(reversed_time=True), "predicts the velocity in reversed time"),
    ],
)
def test_another_prediction_is_refused(tmp_path, prediction, said):
    checkpoint = written(tmp_path / "x.safetensors", other={"prediction": prediction})
    with pytest.raises(CheckpointMismatchError, match=f"final_layer.linear.weight {said}"):
        fitted(checkpoint)


FOLDER = GOLDENS_DIR / "dialects"


def from_golden(name, **said):
    """A recorded file of another repository, and the recording."""
    with np.load(FOLDER / f"{name}.npz", allow_pickle=False) as file:
        arrays = dict(file)
    heads = json.loads(str(arrays.pop("meta_json")))["config"]["num_heads"]
    return read_checkpoint(FOLDER / f"{name}.pt", num_heads=heads, **said), arrays


def network_of(checkpoint):
    """The network of a run that would suit a checkpoint, with a projector."""
    names = [*SIT_SIZES["SiT-Pico/8"], "input_size", "in_channels", "num_classes", "qk_norm"]
    settings = {name: checkpoint.settings.model[name] for name in names}
    return {**settings, "encoder_depth": 1, "target_dims": [5], "projector_dim": 6}


@pytest.mark.parametrize(
    ("name", "said", "notes"),
    [
        ("sit_train", {}, ["projectors made anew"]),
        ("sit_release", {"dialect": "sit"}, ["projectors made anew"]),
        ("selfflow_release", {}, ["projectors made anew"]),
        ("ig_train", {"encoder_depth": 2}, ["projectors made anew", "without its middle head"]),
    ],
)
def test_a_run_starts_with_the_recorded_velocity_of_other_repositories(name, said, notes):
    """Those of SiT and Self-Flow run the other way in time, and are turned as they are read."""
    checkpoint, arrays = from_golden(name, **said)
    settings = CheckpointSettings(
        model=network_of(checkpoint), latent_space=checkpoint.settings.latent_space
    )
    network = SiT(**settings.model).eval()
    taken, found = fit_weights(checkpoint, network.state_dict(), settings)
    assert found == notes
    network.load_state_dict(taken, strict=False)
    x, labels = torch.from_numpy(arrays["x"]), torch.from_numpy(arrays["y"])
    for t, velocity in zip(arrays["t_common"], arrays["v_common"], strict=True):
        with torch.no_grad():
            here = network(x, torch.full((len(x),), float(t)), labels)
        torch.testing.assert_close(here, torch.from_numpy(velocity), atol=2e-5, rtol=0)


@pytest.mark.parametrize(("name", "said"), [("dit_train", {}), ("dit_release", {"dialect": "dit"})])
def test_dit_is_refused_for_what_it_predicts_and_not_for_a_shape(name, said):
    checkpoint, _ = from_golden(name, **said)
    settings = CheckpointSettings(
        model=network_of(checkpoint), latent_space=checkpoint.settings.latent_space
    )
    with pytest.raises(CheckpointMismatchError, match="predicts the noise, and a run trains") as e:
        fit_weights(checkpoint, SiT(**settings.model).state_dict(), settings)
    assert "\n" not in str(e.value)


def test_what_is_another_although_every_tensor_fits_is_said(tmp_path):
    other = {"path_type": "cosine", "dataset": "imagenet-256"}
    checkpoint = written(tmp_path / "x.safetensors", other=other, target_dims=[])
    there = {"dataset": "mine", "latent_space": LatentSpace("sd-vae-ft-mse", 2.0)}
    assert fitted(checkpoint, there, target_dims=[])[1] == [
        "trained on the cosine path, not linear",
        "trained in another latent space",
        "label table of imagenet-256 kept",
    ]
    assert (
        fitted(checkpoint, {"path_type": "cosine", "dataset": "imagenet-256"}, target_dims=[])[1]
        == []
    )
    notes = fitted(
        checkpoint, {**there, **other, "dataset": "mine"}, target_dims=[], num_classes=9
    )[1]
    assert notes == ["label table made anew (9 classes, not 5)", "trained in another latent space"]


def test_a_checkpoint_whose_tensors_are_not_its_own_networks_is_refused(tmp_path):
    path = tmp_path / "x.safetensors"
    checkpoint = written(path)
    tensors = {n: t for n, t in checkpoint.tensors.items() if n != "final_layer.linear.bias"}
    write_weights(path, tensors, describe(checkpoint.settings))
    with pytest.raises(CheckpointMismatchError, match=r"missing final_layer\.linear\.bias"):
        fitted(read_checkpoint(path))
