"""Runs repeated by what a manifest says: every setting comes back, and every byte."""

import hashlib
import json
import shutil
from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from tiny_autoencoder import save_tiny_autoencoder

from metrics import InputError
from repa import SiT
from repa.checkpoints import read_checkpoint
from repa.errors import ChecksumError, RepaError, SettingError
from repa.generation.job import Job, generate, repeat
from repa.generation.manifests.recorded import Recorded, read_recorded
from repa.generation.sample_files.sample_run import read_manifest
from repa.generation.settings import SampleConfig
from repa_base.processes import Processes

SIZES = {"input_size": 8, "patch_size": 4, "in_channels": 3, "hidden_size": 24, "depth": 2}
SIZES |= {"num_heads": 3, "num_classes": 5, "encoder_depth": 1, "target_dims": []}


def network(seed, **changes):
    torch.manual_seed(seed)
    model = SiT(**{**SIZES, **changes})
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return model


def save(path, seed=0, description=None, **changes):
    """Save a checkpoint in our own form."""
    said = {"format": 1, "model": {**SIZES, **changes}, "path_type": "linear", "dataset": "x"}
    tensors = network(seed, **changes).state_dict()
    save_file(tensors, path, metadata={"repa": json.dumps({**said, **(description or {})})})
    return path


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A folder of checkpoints, an autoencoder and statistics of latents."""
    here = tmp_path_factory.mktemp("files")
    save(here / "tiny.safetensors")
    save(here / "worse.safetensors", seed=1)
    save(here / "two-heads.safetensors", internal_head=True)
    save(here / "latent.safetensors", in_channels=4)
    save_tiny_autoencoder(here / "vae")
    # In REPA's form neither heads nor the depth of the projectors stand in the file.
    bare = network(2, in_channels=4, target_dims=[8], projector_dim=8)
    torch.save({"ema": bare.state_dict()}, here / "bare.pt")
    numbers = {"latents_scale": torch.full((4,), 0.5), "latents_bias": torch.ones(4)}
    torch.save(numbers, here / "statistics.pt")
    return here


def config_of(files, out, **changes):
    given = {"model": "tiny.safetensors", "num_images": 5, "num_steps": 3, "batch_size": 2}
    given |= {"device": "cpu", **changes}
    for name in ("model", "guide", "autoencoder"):
        if name in given:
            given[name] = str(files / given[name])
    if "." in given.get("latents", ""):
        given["latents"] = str(files / given["latents"])
    return SampleConfig(**given, out=out)


LATENT = {"model": "latent.safetensors", "autoencoder": "vae"}
BARE = {"model": "bare.pt", "autoencoder": "vae", "dialect": "repa", "num_heads": 3}
BARE |= {"encoder_depth": 1, "latents": "sd-vae-ft-ema"}
APG = {"guidance": "apg", "apg_parallel": 0.3, "apg_bound": 2.0, "apg_momentum": -0.5}
IG = {"model": "two-heads.safetensors", "internal_scale": 1.5, "internal_interval": (0.1, 0.8)}
REFERENCE = {"rng": "reference", "world_size": 2}
OTHERWISE = {
    "num_steps": ({}, {"num_steps": 4}),
    "cfg_scale": ({}, {"cfg_scale": 2.5}),
    "guidance_interval": ({}, {"guidance_interval": (0.2, 0.6)}),
    "guidance": ({}, {"guidance": "cfg-zero"}),
    "apg_parallel": (APG, {"apg_parallel": 0.0}),
    "apg_bound": (APG, {"apg_bound": 3.0}),
    "apg_momentum": (APG, {"apg_momentum": 0.5}),
    "internal_scale": (IG, {"internal_scale": 1.2}),
    "internal_interval": (IG, {"internal_interval": (0.0, 0.8)}),
    "solver": ({}, {"solver": "dopri5"}),
    "order": ({"solver": "sa"}, {"order": 3}),
    "times": ({"solver": "ab2"}, {"times": (1.0, 0.6, 0.1, 0.0)}),
    "shift": ({"solver": "dpm++", "times": "shifted", "shift": 2.0}, {"shift": 0.4}),
    "seed": ({}, {"seed": 7}),
    "batch_size": ({}, {"batch_size": 3}),
    "labels": ({}, {"labels": (4, 0, 1)}),
    "quantizer": ({}, {"quantizer": "round"}),
    "rng": ({}, REFERENCE),
    "world_size": (REFERENCE, {"world_size": 3}),
    "precision": ({}, {"precision": "bf16"}),
    "compile": ({}, {"compile": True}),
    "tf32": None,  # False on a CPU, whatever is asked for
    "model": ({}, {"model": "worse.safetensors"}),
    "num_images": ({}, {"num_images": 4}),
    "autoencoder": None,  # tested with statistics of latents below
    "guide": ({}, {"guide": "worse.safetensors"}),
    "dialect": (BARE, {"dialect": "irepa"}),
    "num_heads": (BARE, {"num_heads": 2}),
    "encoder_depth": (BARE, {"encoder_depth": 2}),
    "latents": (BARE, {"latents": "statistics.pt"}),
}
"""Of every setting that decides bytes: others, and then another value of it."""


def test_every_setting_is_here_but_those_of_the_repetition():
    assert {field.name for field in fields(SampleConfig)} - {"out", "overwrite", "device"} == set(
        OTHERWISE
    )


@pytest.mark.parametrize("name", [name for name, case in OTHERWISE.items() if case])
def test_every_setting_decides_the_manifest_and_comes_back_from_it(files, tmp_path, name):
    """A setting that a manifest or its reader forgets is found here."""
    others, changes = OTHERWISE[name]
    manifests = []
    for out, given in (("a.npz", others), ("b.npz", {**others, **changes})):
        config = config_of(files, tmp_path / out, **given)
        made = json.loads(json.dumps(Job.plan(config, Processes()).manifest))
        recorded = Recorded(files / "images.npz", made)
        again = recorded.config(tmp_path / out, device="cpu")
        assert same_run(again, config)
        assert Job.plan(again, Processes(), recorded).manifest == made
        manifests.append(made)
    assert manifests[0] != manifests[1]


def same_run(again, config):
    """Whether two settings are equal, but for what a manifest need not tell apart."""
    blind = {"order": config.order if again.order in (config.order, 2) else None, "tf32": True}
    if config.adaptive:
        blind["num_steps"] = config.num_steps
    return replace(again, **blind) == config


RUNS = [
    {},
    {"solver": "dopri5"},
    {"solver": "sa", "order": 3, "times": "karras"},
    {"solver": "heun", "times": (1.0, 0.6, 0.1, 0.0), "quantizer": "round", "labels": (4, 0)},
    {"guide": "worse.safetensors", "precision": "bf16"},
    APG,
    IG,
    {**REFERENCE, "seed": 3},
    {**BARE, "latents": "statistics.pt", "labels": "balanced"},
]


@pytest.mark.parametrize("changes", RUNS, ids=lambda changes: ",".join(changes) or "published")
def test_a_repeated_run_gives_the_same_bytes(files, tmp_path, monkeypatch, changes):
    first = generate(config_of(files, tmp_path / "first.npz", **changes)).path
    monkeypatch.chdir(files)  # where the names lead to
    notes = []
    again = repeat(first, tmp_path / "again.npz", device="cpu", on_note=notes.append)
    assert again.path.read_bytes() == first.read_bytes() and not again.was_finished
    assert not [note for note in notes if "as it was" in note]


def test_files_are_found_beside_the_images_or_as_they_are_named(files, tmp_path, monkeypatch):
    given = {**LATENT, "num_images": 2, "num_steps": 1}
    first = generate(config_of(files, tmp_path / "first.npz", **given)).path
    with pytest.raises(
        RepaError, match=r"latent\.safetensors, the model of its images, is neither"
    ):
        repeat(first, tmp_path / "again.npz")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    shutil.copy(files / "latent.safetensors", elsewhere / "renamed.safetensors")
    shutil.copytree(files / "vae", elsewhere / "decoder")
    named = {"model": elsewhere / "renamed.safetensors", "autoencoder": elsewhere / "decoder"}
    again = repeat(first, tmp_path / "again.npz", device="cpu", **named)
    assert again.path.read_bytes() == first.read_bytes()
    shutil.copy(files / "latent.safetensors", tmp_path)
    shutil.copytree(files / "vae", tmp_path / "vae")
    beside = repeat(first, tmp_path / "beside.npz", device="cpu")
    assert beside.path.read_bytes() == first.read_bytes()


def test_a_training_run_is_found_again_at_the_step_that_it_had(files, tmp_path, monkeypatch):
    steps = [tmp_path / "runs" / "mine" / "checkpoints" / f"step-000000{n}" for n in (1, 2)]
    for seed, step in enumerate(steps):
        step.mkdir(parents=True)
        save(step / "ema.safetensors", seed)
    given = {"num_images": 2, "num_steps": 1, "device": "cpu"}
    run = str(tmp_path / "runs" / "mine")
    monkeypatch.chdir(tmp_path)
    first = generate(SampleConfig(model=run, **given, out=tmp_path / "first.npz")).path
    assert read_manifest(first)["model"] == "mine/step-0000002"
    (steps[1].parent / "step-0000003").mkdir()
    save(steps[1].parent / "step-0000003" / "ema.safetensors", 2)
    for number, named in enumerate(({}, {"model": run})):
        again = repeat(first, tmp_path / f"again-{number}.npz", device="cpu", **named)
        assert again.path.read_bytes() == first.read_bytes()


def test_a_copy_of_a_registered_file_is_read_as_the_registered_one(tmp_path):
    from repa.registry import fetch

    given = {"num_images": 2, "num_steps": 1, "device": "cpu"}
    first = generate(SampleConfig(model="digits", **given, out=tmp_path / "first.npz")).path
    copy = shutil.copy(fetch("checkpoints", "digits"), tmp_path / "copy.safetensors")
    for number, named in enumerate(({}, {"model": copy})):
        again = repeat(first, tmp_path / f"again-{number}.npz", device="cpu", **named)
        assert again.path.read_bytes() == first.read_bytes()


def test_what_the_registry_says_of_a_file_is_taken_from_its_entry(files, monkeypatch):
    said = {**SIZES, "in_channels": 4, "num_heads": 2}
    entry = {"model": said, "dialect": "repa", "dataset": "x", "autoencoder": "sd-vae-ft-ema"}
    monkeypatch.setattr("repa.checkpoints.reading.find_entry", lambda *_: entry)
    found = read_checkpoint(files / "bare.pt", registered="theirs")
    assert (found.name, found.path) == ("theirs", files / "bare.pt")
    assert (found.settings.model["num_heads"], found.settings.dataset) == (2, "x")


@pytest.mark.parametrize("name", ["model", "guide", "autoencoder"])
def test_another_file_is_refused_in_a_line_with_both_hashes(files, tmp_path, name):
    given = {"num_images": 2, "num_steps": 1}
    given |= LATENT if name == "autoencoder" else {"guide": "worse.safetensors"}
    first = generate(config_of(files, tmp_path / "first.npz", **given)).path
    if name == "autoencoder":
        named = {"model": files / "latent.safetensors"}
        named["autoencoder"] = save_tiny_autoencoder(tmp_path / "other", act_fn="relu")
        other = named["autoencoder"] / "diffusion_pytorch_model.safetensors"
        torch.manual_seed(1)
        other.write_bytes(other.read_bytes()[:-4] + b"\0\0\0\1")
    else:
        other = save(tmp_path / "other.safetensors", seed=5)
        named = {"model": files / "tiny.safetensors", "guide": files / "worse.safetensors"}
        named[name] = other
    recorded = read_manifest(first)[f"{name}_sha256".replace("model", "checkpoint")]
    found = hashlib.sha256(other.read_bytes()).hexdigest()
    with pytest.raises(ChecksumError, match=f"{recorded}; here it is {found}.*--{name}"):
        repeat(first, tmp_path / "again.npz", device="cpu", **named)
    assert not (tmp_path / "again.npz").exists()


@pytest.fixture(scope="module")
def first(files, tmp_path_factory):
    out = tmp_path_factory.mktemp("first") / "first.npz"
    return generate(config_of(files, out, num_images=2, num_steps=1)).path


def with_manifest(first, path, **changes):
    """Write the images of a file with a changed manifest; None takes a value out."""
    with np.load(first) as file:
        manifest = {**json.loads(str(file["manifest"])), **changes}
        manifest = {n: v for n, v in manifest.items() if v is not None or n not in changes}
        np.savez(path, arr_0=file["arr_0"], arr_1=file["arr_1"], manifest=json.dumps(manifest))
    return path


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": 2}, "is of a later version: its format 2 is unknown here"),
        ({"spin": 1}, "is of a later version: its 'spin' is unknown here"),
        ({"format": None}, "not of this toolkit, or damaged: it tells no format"),
        ({"format": True}, "not of this toolkit, or damaged: it tells no format"),
        ({"seed": None}, "or damaged: it lacks seed"),
        ({"solver": "warp"}, "or damaged: unknown solver 'warp'"),
        ({"guidance": "apg2"}, "or damaged: unknown guidance 'apg2'"),
        ({"cfg_scale": "two"}, "or damaged: cfg_scale must be a number"),
        ({"guidance_interval": [1]}, "or damaged: "),
        ({"labels": {"a": 1}}, "or damaged: "),
        ({"labels": [[1]]}, "or damaged: "),
        ({"times": [1, 2, 0]}, "or damaged: times must fall"),
        ({"dtype": "int4"}, "or damaged: its dtype is 'int4'"),
        ({"dtype": []}, r"or damaged: its dtype is \[\]"),
        ({"rng_device": "cuda"}, "cannot be repeated by this version: .*rng_device cuda there"),
        ({"hints": {"paint": 1}}, "or damaged: its hints are"),
        ({"model": 7}, "or damaged: its model is 7"),
        ({"model": ""}, "or damaged: its model is ''"),
        (
            {"dataset": "emoji"},
            r"cannot be repeated by this version: .*dataset emoji there, x here",
        ),
        ({"path_type": "cosine"}, "cannot be repeated by this version: .*cosine there"),
        ({"guided_channels": 3}, "cannot be repeated by this version: .*guided_channels 3 there"),
        ({"image_size": 16}, "cannot be repeated by this version: .*image_size 16 there, 8 here"),
        ({"rtol": 0.1}, "cannot be repeated by this version: .*rtol 0.1 there"),
    ],
)
def test_a_foreign_or_damaged_manifest_is_one_line(files, first, tmp_path, changes, message):
    path = with_manifest(first, tmp_path / "foreign.npz", **changes)
    with pytest.raises(RepaError, match=message) as caught:
        repeat(path, tmp_path / "again.npz", device="cpu", **named_in(changes, files))
    assert "\n" not in str(caught.value) and str(path) in str(caught.value)
    assert not (tmp_path / "again.npz").exists()


def named_in(changes, files):
    return {} if "model" in changes else {"model": files / "tiny.safetensors"}


def test_files_without_a_manifest_are_refused(files, tmp_path):
    images = np.zeros((2, 8, 8, 3), np.uint8)
    np.savez(tmp_path / "plain.npz", arr_0=images)
    with pytest.raises(RepaError, match=r"plain\.npz has no manifest"):
        read_recorded(tmp_path / "plain.npz")
    np.savez(tmp_path / "adm.npz", arr_0=images, manifest=json.dumps({"tool": "guided-diffusion"}))
    with pytest.raises(RepaError, match=r"adm\.npz: its manifest is not of this toolkit"):
        read_recorded(tmp_path / "adm.npz")
    (tmp_path / "text.npz").write_text("no archive")
    with pytest.raises(InputError, match=r"text\.npz is no NPZ file"):
        read_recorded(tmp_path / "text.npz")


def test_what_the_manifest_decides_is_not_given_beside_it(files, first, tmp_path):
    recorded = read_recorded(first)
    with pytest.raises(SettingError, match="cfg_scale is decided by"):
        recorded.config(tmp_path / "x.npz", cfg_scale=2.0)
    with pytest.raises(SettingError, match="guide had no part in"):
        recorded.config(tmp_path / "x.npz", guide=str(files / "worse.safetensors"))
    with pytest.raises(SettingError, match="is the file that is repeated: name another"):
        recorded.config(first)


def test_what_is_otherwise_here_is_told_and_recorded(files, first, tmp_path):
    versions = {**read_manifest(first)["versions"], "torch": "1.0"}
    there = {"versions": versions, "device": "NVIDIA H100 80GB HBM3", "tf32": True}
    path = with_manifest(first, tmp_path / "there.npz", **there, toolkit="0.0.1")
    notes = []
    again = repeat(
        path,
        tmp_path / "again.npz",
        model=files / "tiny.safetensors",
        device="cpu",
        on_note=notes.append,
    )
    (note,) = notes
    for said in ("toolkit 0.0.1 there", "torch 1.0 there", "tf32 True there, False here"):
        assert said in note
    assert "device NVIDIA H100 80GB HBM3 there, cpu (" in note and "numpy" not in note
    assert again.path.read_bytes() == first.read_bytes()  # which was made here


def test_a_file_of_an_earlier_version_is_repeated_to_the_byte(files, first, tmp_path):
    path = with_manifest(first, tmp_path / "earlier.npz", device=None)
    again = repeat(path, tmp_path / "again.npz", model=files / "tiny.safetensors", device="cpu")
    assert read_manifest(again.path) == read_manifest(path)
    with np.load(path) as one, np.load(again.path) as other:
        assert all((one[name] == other[name]).all() for name in one.files)


def test_the_device_belongs_to_the_run_and_makes_no_other_settings(files, first, tmp_path):
    path = with_manifest(first, tmp_path / "gpu.npz", device="NVIDIA H100 80GB HBM3")
    config = config_of(files, path, num_images=2, num_steps=1)
    assert generate(config).was_finished
