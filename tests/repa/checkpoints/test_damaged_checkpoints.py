"""Checkpoint files that are damaged, or not what they say: one line, and no code is run."""

import collections
import functools
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from aligned_checkpoint import TINY, aligned_sit, save_ours
from safetensors.torch import save_file

from repa import SIT_SIZES
from repa.checkpoints import load_model, read_checkpoint
from repa.errors import (
    CheckpointFormatError,
    CheckpointMismatchError,
)


def test_missing_unexpected_and_misshapen_tensors_are_named(tmp_path):
    tensors = aligned_sit().state_dict()
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
    path = save_ours(tmp_path / "x.safetensors", aligned_sit().state_dict(), {**TINY, "depth": 4})
    with pytest.raises(CheckpointMismatchError, match=r"missing blocks\.2\.\S+, .* and \d+ more"):
        load_model(path)


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
        content = {"ema": aligned_sit().state_dict(), "args": Attack(tmp_path / "attacked")}
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
    content = {"ema": aligned_sit().state_dict(), "args": value}
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
        torch.save(aligned_sit(**SIT_SIZES["SiT-Pico/4"]).state_dict(), path)
    else:
        save_ours(path, aligned_sit().state_dict())
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
    path = save_ours(tmp_path / "x.safetensors", aligned_sit().state_dict(), **changes)
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
    tensors = {**aligned_sit(qk_norm=True).state_dict(), name: torch.zeros(shape)}
    torch.save(tensors, tmp_path / "x.pt")
    with pytest.raises(CheckpointFormatError, match=r"x\.pt: ") as caught:
        read_checkpoint(tmp_path / "x.pt")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["projectors.0.0.weight", "projectors.0.4.weight"])
def test_described_checkpoint_with_a_scalar_for_a_projector_is_an_error(tmp_path, name):
    tensors = {**aligned_sit().state_dict(), name: torch.zeros(())}
    path = save_ours(tmp_path / "x.safetensors", tensors)
    with pytest.raises(CheckpointFormatError, match=rf"the tensor {name} has the shape \(\)"):
        read_checkpoint(path)


def test_bare_state_dict_of_width_zero_is_an_error(tmp_path):
    tensors = {**aligned_sit().state_dict(), "x_embedder.proj.weight": torch.zeros(0, 3, 4, 4)}
    torch.save(tensors, tmp_path / "x.pt")
    with pytest.raises(CheckpointFormatError, match="its tensors are not a SiT's"):
        read_checkpoint(tmp_path / "x.pt")


def test_description_that_is_no_json_is_an_error(tmp_path):
    metadata = {"repa": "{"}
    save_file(aligned_sit().state_dict(), tmp_path / "x.safetensors", metadata=metadata)
    with pytest.raises(CheckpointFormatError, match="its description is unreadable"):
        load_model(tmp_path / "x.safetensors")


def test_an_npz_file_is_named_as_such(tmp_path):
    np.savez(tmp_path / "images.npz", np.zeros((2, 4, 4, 3), np.uint8))
    with pytest.raises(CheckpointFormatError, match=r"images\.npz: is an NPZ file"):
        load_model(tmp_path / "images.npz")
