import argparse
import collections
import functools
import hashlib
import json
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from repa import SIT_SIZES, SiT
from repa.autoencoders.latent_space import PIXELS, SD_LATENTS, LatentSpace
from repa.checkpoints import load_model, read_checkpoint, reading
from repa.checkpoints.export import write_weights
from repa.checkpoints.settings import CheckpointSettings, describe
from repa.errors import (
    CheckpointFormatError,
    CheckpointMismatchError,
    UnknownNameError,
)
from repa.models.prediction import Prediction
from repa_base.checksums import seal_folder

TINY = {
    "input_size": 8,
    "patch_size": 4,
    "in_channels": 3,
    "hidden_size": 24,
    "depth": 2,
    "num_heads": 3,
    "num_classes": 5,
    "encoder_depth": 2,
    "target_dims": [7],
    "projector_dim": 9,
}


def tiny_sit(**changes):
    torch.manual_seed(0)
    model = SiT(**{**TINY, **changes})
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return model


def save_ours(path, tensors, model=TINY, **changes):
    description = {"format": 1, "model": model, "path_type": "linear", **changes}
    save_file(dict(tensors), path, metadata={"repa": json.dumps(description)})
    return path


def velocity(model):
    torch.manual_seed(1)
    x = torch.randn(2, model.in_channels, model.input_size, model.input_size)
    with torch.no_grad():
        return model.eval()(x, torch.tensor([0.2, 0.9]), torch.tensor([0, model.null_label]))


def test_our_checkpoint_in_half_precision_without_projectors_loads_in_float32(tmp_path):
    model = tiny_sit().half()
    tensors = {k: v for k, v in model.state_dict().items() if not k.startswith("projectors")}
    path = save_ours(
        tmp_path / "x.safetensors", tensors, dataset="digits", path_type="cosine", step=3
    )
    loaded = load_model(path)
    assert loaded.name == "x.safetensors"
    assert loaded.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert (loaded.settings.dataset, loaded.settings.path_type) == ("digits", "cosine")
    assert loaded.settings.latent_space.is_pixels and loaded.settings.num_classes == 5
    assert not loaded.model.training and not list(loaded.model.projectors)
    assert all(p.dtype == torch.float32 and not p.requires_grad for p in loaded.model.parameters())
    assert torch.equal(velocity(loaded.model), velocity(model.float()))


@pytest.mark.parametrize("form", ["safetensors", "torch", "torch without zip"])
def test_bare_state_dict_is_recognised_by_its_shapes_and_gives_the_recorded_velocity(
    form, golden, golden_sit, tmp_path
):
    arrays, meta = golden("sit_b")
    path = tmp_path / "last.pt"
    if form == "safetensors":
        save_file(golden_sit("sit_b").state_dict(), path)
    else:
        zipped = form == "torch"
        torch.save(golden_sit("sit_b").state_dict(), path, _use_new_zipfile_serialization=zipped)
    loaded = load_model(path)
    config = {**meta["config"], "target_dims": meta["config"]["z_dims"]}
    inferred = loaded.settings.model
    assert inferred == {key: config[key] for key in inferred}
    x, t, labels = (torch.from_numpy(arrays[key]) for key in "xty")
    with torch.no_grad():
        velocity, features = loaded.model(x, t, labels, return_features=True)
    torch.testing.assert_close(velocity, torch.from_numpy(arrays["v"]), atol=2e-5, rtol=0)
    for i, projected in enumerate(features):
        expected = torch.from_numpy(arrays[f"zs/{i}"])
        torch.testing.assert_close(projected, expected, atol=2e-5, rtol=0)


def test_latent_imagenet_checkpoint_gets_the_published_autoencoder_and_data_set(tmp_path):
    sizes = {**SIT_SIZES["SiT-Pico/2"], "in_channels": 4, "num_classes": 1000, "input_size": 32}
    torch.save(tiny_sit(**sizes).state_dict(), tmp_path / "last.pt")
    settings = read_checkpoint(tmp_path / "last.pt").settings
    assert (settings.dataset, settings.latent_space) == ("imagenet-256", SD_LATENTS)
    assert settings.model["num_heads"] == SIT_SIZES["SiT-Pico/2"]["num_heads"]
    assert settings.model["encoder_depth"] == settings.model["depth"] == 3


def test_number_of_heads_that_nothing_tells_is_not_guessed(tmp_path):
    torch.save(tiny_sit().state_dict(), tmp_path / "last.pt")
    with pytest.raises(CheckpointFormatError, match="width 24 and depth 2, so its number of heads"):
        read_checkpoint(tmp_path / "last.pt")


def test_reference_trainer_checkpoint_gives_its_moving_average_and_arguments(tmp_path):
    sizes = SIT_SIZES["SiT-Pico/4"]
    model, ema = tiny_sit(**sizes), tiny_sit(**sizes)
    torch.nn.init.ones_(model.x_embedder.proj.bias)
    content = {
        "model": model.state_dict(),
        "ema": ema.state_dict(),
        "opt": torch.optim.AdamW(model.parameters()).state_dict(),
        "args": argparse.Namespace(path_type="cosine", encoder_depth=1, model="SiT-Pico/4"),
        "steps": 400_000,
    }
    torch.save(content, tmp_path / "0400000.pt")
    loaded = load_model(tmp_path / "0400000.pt")
    assert torch.equal(velocity(loaded.model), velocity(ema))
    assert not torch.equal(velocity(loaded.model), velocity(model))
    assert (loaded.settings.path_type, loaded.model.encoder_depth) == ("cosine", 1)


def test_folder_of_a_run_gives_the_moving_average_of_its_highest_step(tmp_path):
    for step in (900, 9_999_999, 10_000_000):
        folder = tmp_path / "run" / "checkpoints" / f"step-{step:07d}"
        folder.mkdir(parents=True)
        model = tiny_sit()
        torch.nn.init.constant_(model.x_embedder.proj.bias, step)
        save_ours(folder / "ema.safetensors", model.state_dict())
        (folder / "model.safetensors").write_bytes(b"not this one")
    run = tmp_path / "run"
    for place in (run, run / "checkpoints", run / "checkpoints" / "step-10000000"):
        loaded = load_model(place)
        assert (loaded.model.x_embedder.proj.bias == 10_000_000).all()
    assert load_model(tmp_path / "run").name == "run/step-10000000"
    with pytest.raises(CheckpointFormatError, match="no training run"):
        load_model(tmp_path)


@pytest.mark.parametrize(
    ("autoencoder", "in_channels", "space"),
    [
        ({"autoencoder": "sd-vae-ft-ema"}, 4, SD_LATENTS),
        ({"autoencoder": "my-vae"}, 4, LatentSpace("my-vae", scale=1 / 0.18215)),
        ({"autoencoder": None}, 3, PIXELS),
        ({}, 3, PIXELS),
        ({}, 4, LatentSpace(scale=1 / 0.18215)),
    ],
)
def test_description_of_before_latent_spaces_still_means_what_it_did(
    tmp_path, autoencoder, in_channels, space
):
    model = {**TINY, "in_channels": in_channels}
    path = save_ours(
        tmp_path / "x.safetensors", tiny_sit(**model).state_dict(), model, **autoencoder
    )
    loaded = load_model(path)
    assert (loaded.settings.latent_space, loaded.settings.prediction) == (space, Prediction())
    assert loaded.velocity_model is loaded.model


def test_described_prediction_makes_the_velocity_and_leaves_the_network_as_it_is(tmp_path):
    model = tiny_sit()
    space = {"autoencoder": "my-vae", "scale": [2, 3, 4], "bias": 0.5}
    stated = {"prediction": {"reversed_time": True}, "latent_space": space, "format": 2}
    loaded = load_model(save_ours(tmp_path / "x.safetensors", model.state_dict(), **stated))
    assert loaded.settings.latent_space == LatentSpace("my-vae", scale=(2.0, 3.0, 4.0), bias=0.5)
    x, t, labels = torch.randn(2, 3, 8, 8), torch.tensor([0.25, 0.75]), torch.tensor([0, 5])
    assert torch.equal(loaded.velocity_model(x, t, labels), -model.eval()(x, 1 - t, labels))
    assert torch.equal(loaded.model(x, t, labels), model(x, t, labels))


def test_network_of_a_checkpoint_that_is_read_is_built_once_and_when_asked_for(
    tmp_path, monkeypatch
):
    path = save_ours(tmp_path / "x.safetensors", tiny_sit().state_dict())
    built = []
    monkeypatch.setattr(reading, "SiT", lambda **sizes: built.append(sizes) or SiT(**sizes))
    checkpoint = read_checkpoint(path)
    assert checkpoint.settings.num_classes == 5 and built == []
    assert checkpoint.model is checkpoint.velocity_model is checkpoint.model
    assert len(built) == 1
    load_model(path)
    assert len(built) == 2


def test_missing_unexpected_and_misshapen_tensors_are_named(tmp_path):
    tensors = tiny_sit().state_dict()
    del tensors["x_embedder.proj.bias"], tensors["blocks.1.attn.qkv.weight"]
    tensors["extra"] = torch.zeros(1)
    tensors["final_layer.linear.bias"] = torch.zeros(2)
    path = save_ours(tmp_path / "x.safetensors", tensors)
    with pytest.raises(CheckpointMismatchError) as caught:
        load_model(path)
    assert str(caught.value) == (
        f"{path}: does not hold the network it should: "
        "missing x_embedder.proj.bias, blocks.1.attn.qkv.weight; unexpected extra; "
        "misshapen final_layer.linear.bias (2,) instead of (48,)."
    )


def test_only_the_first_few_of_many_tensors_are_named(tmp_path):
    path = save_ours(tmp_path / "x.safetensors", tiny_sit().state_dict(), {**TINY, "depth": 4})
    with pytest.raises(CheckpointMismatchError, match=r"missing blocks\.2\.\S+, .* and \d+ more"):
        load_model(path)


def test_file_in_the_place_of_a_registered_checkpoint_must_hold_its_network(tmp_path, monkeypatch):
    monkeypatch.setenv("REPA_CACHE", str(tmp_path))
    (tmp_path / "checkpoints").mkdir()
    model = tiny_sit(**SIT_SIZES["SiT-Pico/2"], in_channels=4, num_classes=1000, input_size=32)
    torch.save(model.state_dict(), tmp_path / "checkpoints" / "sit-xl-2-repa-256.pt")
    checkpoint = read_checkpoint("sit-xl-2-repa-256", "meta")
    assert checkpoint.name == "sit-xl-2-repa-256"
    assert checkpoint.settings.model["hidden_size"] == 1152
    assert checkpoint.settings.latent_space == SD_LATENTS
    with pytest.raises(
        CheckpointMismatchError, match=r"\(1, 256, 48\) instead of \(1, 256, 1152\)"
    ):
        _ = checkpoint.model


class Call:
    """A value whose loading calls a function."""

    def __init__(self, *call):
        self.call = call

    def __reduce__(self):
        return self.call[0], self.call[1:]


class Attack:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_code_in_a_checkpoint_is_never_run(tmp_path):
    for zipped in (True, False):
        content = {"ema": tiny_sit().state_dict(), "args": Attack(tmp_path / "attacked")}
        torch.save(content, tmp_path / "x.pt", _use_new_zipfile_serialization=zipped)
        with pytest.raises(CheckpointFormatError) as caught:
            load_model(tmp_path / "x.pt")
        assert str(caught.value) == (
            f"{tmp_path / 'x.pt'}: asks to run code (posix.mkdir) when it is loaded: it is not "
            "opened. Get the weights as safetensors, or from a source you trust."
        )
    assert not (tmp_path / "attacked").exists()


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize(
    ("value", "said"),
    [
        (Call(eval, "1"), r"asks to run code \(builtins\.eval\)"),
        (Call(getattr, 1, "real"), r"asks to run code \(builtins\.getattr\)"),
        (functools.partial(print), r"asks to run code \(functools\.partial\)"),
        (np.float64(3), r"holds numpy\.\S+\.scalar, neither .* run code of numpy"),
        (Path("x"), r"holds pathlib\.\w+, neither .* run code of pathlib"),
        (collections.defaultdict(list), r"holds collections\.defaultdict, neither"),
    ],
)
def test_what_would_run_code_is_named_and_no_way_to_run_it_is_told(tmp_path, zipped, value, said):
    content = {"ema": tiny_sit().state_dict(), "args": value}
    torch.save(content, tmp_path / "x.pt", _use_new_zipfile_serialization=zipped)
    with pytest.raises(CheckpointFormatError, match=rf"x\.pt: {said}") as caught:
        load_model(tmp_path / "x.pt")
    text = str(caught.value)
    assert not any(word in text for word in ("weights_only", "safe_globals", "\n", "\033"))


def test_damage_within_the_pickle_is_not_told_in_torch_s_words(tmp_path):
    content = pickle.dumps({"ema": 1}, protocol=2).replace(b"X", b"\xff", 1)
    (tmp_path / "x.pt").write_bytes(content)
    with pytest.raises(CheckpointFormatError, match=r"x\.pt: is damaged") as caught:
        load_model(tmp_path / "x.pt")
    assert "weights_only" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is no checkpoint"),
        (b"epoch,loss\n1,0.5\n", "is no checkpoint"),
        (b"\n<!DOCTYPE html><html></html>", "is a web page"),
        (b"\x89PNG\r\n\x1a\n" + bytes(50), "is no checkpoint"),
        (b"\xff" * 8 + b"{", "is damaged"),
        (b"PK\3\4" + bytes(50), "is damaged"),
        (b"\x80\x02" + bytes(50), "is damaged"),
    ],
)
def test_file_that_is_no_checkpoint_is_one_line(tmp_path, content, message):
    (tmp_path / "x.pt").write_bytes(content)
    with pytest.raises(CheckpointFormatError, match=rf"x\.pt: {message}") as caught:
        load_model(tmp_path / "x.pt")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["x.safetensors", "x.pt"])
def test_checkpoint_cut_short_anywhere_is_an_error(tmp_path, name):
    path = tmp_path / name
    if name.endswith("pt"):
        torch.save(tiny_sit(**SIT_SIZES["SiT-Pico/4"]).state_dict(), path)
    else:
        save_ours(path, tiny_sit().state_dict())
    load_model(path)
    whole = path.read_bytes()
    for size in (1, 8, 9, 60, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:size])
        with pytest.raises(CheckpointFormatError):
            load_model(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([1, 2], "but a list"),
        ({}, r"but the keys \(none\)"),
        (
            {"model": {"x": torch.zeros(1)}, "steps": 1},
            "raw weights of a training run under .model. and no moving average",
        ),
        ({"x": torch.zeros(1)}, "its tensors are not a SiT's"),
    ],
)
def test_saved_object_that_is_no_state_dict_is_described(tmp_path, content, message):
    torch.save(content, tmp_path / "x.pt")
    with pytest.raises(CheckpointFormatError, match=message):
        load_model(tmp_path / "x.pt")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": 4}, "format 4 is newer than this toolkit"),
        ({"model": None}, "has no model"),
        ({"model": {**TINY, "depth": 10**9}}, "depth is 1000000000, not a whole number"),
        ({"model": {**TINY, "num_classes": "5"}}, "num_classes is '5'"),
        ({"model": {**TINY, "wings": 2}}, "describes no SiT: .*wings"),
        ({"model": {**TINY, "hidden_size": 25}}, "describes no SiT: hidden_size must be"),
        ({"model": {**TINY, "patch_size": 0}}, "patch_size is 0"),
        ({"model": {**TINY, "hidden_size": 0}}, "hidden_size is 0"),
        ({"model": {**TINY, "hidden_size": -24}}, "hidden_size is -24"),
        ({"model": {**TINY, "num_heads": -1}}, "num_heads is -1"),
        ({"model": {**TINY, "mlp_ratio": -1}}, "describes no SiT: .*negative dimension"),
        ({"model": {"size": "SiT-XXL/2"}}, "unknown size 'SiT-XXL/2'; did you mean 'SiT-XL/2'"),
        ({"model": {"size": ["SiT-XL/2"]}}, "unhashable|unknown size"),
        ({"path_type": "curved"}, "path_type is 'curved'"),
        ({"autoencoder": 3}, "autoencoder is 3, not a name"),
        ({"latent_space": {"scale": 0}}, "scale is 0, not a finite number other than 0"),
        ({"latent_space": {"shift": 1}}, "unexpected keyword argument 'shift'"),
        ({"latent_space": 3}, "must be a mapping, not int"),
        ({"latent_space": {"bias": [1, 2]}}, "latent_space is for 2 channels and the model has 3"),
        ({"latent_space": {}, "autoencoder": "vae"}, "both an autoencoder and a latent_space"),
        ({"prediction": {"target": "score"}}, "target is 'score'"),
        ({"prediction": []}, "must be a mapping, not list"),
        ({"prediction": {"channels": 4}}, "prediction is for 4 channels and the model has 3"),
    ],
)
def test_wrong_description_is_an_error_that_names_the_field(tmp_path, changes, message):
    path = save_ours(tmp_path / "x.safetensors", tiny_sit().state_dict(), **changes)
    with pytest.raises(CheckpointFormatError, match=message):
        load_model(path)


@pytest.mark.parametrize("shape", [(), (0,)], ids=["scalar", "empty"])
@pytest.mark.parametrize(
    "name",
    [
        "x_embedder.proj.weight",
        "pos_embed",
        "y_embedder.embedding_table.weight",
        "blocks.0.mlp.fc1.weight",
        "blocks.0.attn.q_norm.weight",
        "projectors.0.0.weight",
        "projectors.0.4.weight",
    ],
)
def test_bare_state_dict_with_a_tensor_of_an_odd_shape_is_an_error(tmp_path, name, shape):
    tensors = {**tiny_sit(qk_norm=True).state_dict(), name: torch.zeros(shape)}
    torch.save(tensors, tmp_path / "x.pt")
    with pytest.raises(CheckpointFormatError, match=r"x\.pt: ") as caught:
        read_checkpoint(tmp_path / "x.pt")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["projectors.0.0.weight", "projectors.0.4.weight"])
def test_described_checkpoint_with_a_scalar_for_a_projector_is_an_error(tmp_path, name):
    tensors = {**tiny_sit().state_dict(), name: torch.zeros(())}
    path = save_ours(tmp_path / "x.safetensors", tensors)
    with pytest.raises(CheckpointFormatError, match=rf"the tensor {name} has the shape \(\)"):
        read_checkpoint(path)


def test_bare_state_dict_of_width_zero_is_an_error(tmp_path):
    tensors = {**tiny_sit().state_dict(), "x_embedder.proj.weight": torch.zeros(0, 3, 4, 4)}
    torch.save(tensors, tmp_path / "x.pt")
    with pytest.raises(CheckpointFormatError, match="its tensors are not a SiT's"):
        read_checkpoint(tmp_path / "x.pt")


def test_description_that_is_no_json_is_an_error(tmp_path):
    metadata = {"repa": "{"}
    save_file(tiny_sit().state_dict(), tmp_path / "x.safetensors", metadata=metadata)
    with pytest.raises(CheckpointFormatError, match="its description is unreadable"):
        load_model(tmp_path / "x.safetensors")


def test_unknown_model_gets_the_closest_name():
    with pytest.raises(UnknownNameError, match="model, file or folder 'digit'; did you mean 'digi"):
        load_model("digit")


def test_an_npz_file_is_named_as_such(tmp_path):
    np.savez(tmp_path / "images.npz", np.zeros((2, 4, 4, 3), np.uint8))
    with pytest.raises(CheckpointFormatError, match=r"images\.npz: is an NPZ file"):
        load_model(tmp_path / "images.npz")


@pytest.fixture
def sealed_run(tmp_path):
    """A run's folder with checkpoints of steps 1 and 2, each with its checksums."""
    settings = CheckpointSettings(model=TINY)
    for step in (1, 2):
        folder = tmp_path / f"run/checkpoints/step-000000{step}"
        folder.mkdir(parents=True)
        torch.manual_seed(step)
        write_weights(folder / "ema.safetensors", SiT(**TINY).state_dict(), describe(settings))
        (folder / "state.json").write_text("{}")
        seal_folder(folder)
    return tmp_path / "run"


@pytest.mark.parametrize("damage", ["flip", "gone"])
@pytest.mark.parametrize("at", ["", "checkpoints/step-0000002"])
def test_damage_to_a_run_s_average_is_noticed_and_the_one_before_it_named(sealed_run, damage, at):
    path = sealed_run / "checkpoints/step-0000002/ema.safetensors"
    assert load_model(sealed_run / at).path == path
    content = bytearray(path.read_bytes())
    if damage == "flip":
        content[-3] ^= 1
        path.write_bytes(content)
    else:
        path.unlink()
    with pytest.raises(CheckpointFormatError, match=r"ema\.safetensors") as caught:
        load_model(sealed_run / at)
    earlier = str(caught.value).partition("; the checkpoint before it is ")[2].removesuffix(".")
    if at and damage == "gone":
        assert not earlier  # a folder without one is no checkpoint at all
    else:
        assert load_model(earlier).name == "step-0000001/step-0000001"


def test_a_file_beside_checksums_that_do_not_list_it_is_not_checked(sealed_run):
    path = sealed_run / "checkpoints/step-0000002/ema.safetensors"
    (path.parent / "SHA256SUMS").write_text("0" * 64 + "  other.bin\n")
    assert load_model(path).name == "ema.safetensors"


def test_the_first_checkpoint_has_none_before_it(sealed_run):
    folder = sealed_run / "checkpoints/step-0000001"
    with (folder / "ema.safetensors").open("ab") as file:
        file.write(b"\0")
    with pytest.raises(CheckpointFormatError) as caught:
        load_model(folder)
    assert "before it" not in str(caught.value)
