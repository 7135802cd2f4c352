"""`repa sample --labels` with names, and `--rng reference`: what is typed and what is said."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from repa import SIT_SIZES, SiT
from repa.errors import RepaError
from repa.sheets.contact_sheet import SheetCanvas

NAMES = ["big cat", "dog", "emu", "horse", "cat"]


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A working folder that holds own.safetensors, of five classes with names."""
    monkeypatch.chdir(tmp_path)
    save(tmp_path / "own.safetensors", dataset="pets@01234567", class_names=NAMES)
    return tmp_path


def save(path, **described):
    torch.manual_seed(0)
    sizes = {"input_size": 8, "in_channels": 3, "num_classes": 5, "encoder_depth": 1}
    settings = {**SIT_SIZES["SiT-Pico/4"], **sizes, "target_dims": []}
    described = {"format": 1, "model": settings, "path_type": "linear", **described}
    save_file(SiT(**settings).state_dict(), path, metadata={"repa": json.dumps(described)})


OWN = ("sample", "--model", "own.safetensors", "--num", 7, "--steps", 2, "--device", "cpu")


def test_classes_are_asked_for_by_name_or_number_and_named_on_the_sheet(repa, here, monkeypatch):
    captions = []

    class Recorded(SheetCanvas):
        def __init__(self, texts, *others, **options):
            super().__init__(texts, *others, **options)
            captions.extend(texts)

    monkeypatch.setattr("repa.sheets.sample_sheet.SheetCanvas", Recorded)
    code, _, err = repa(*OWN, "--labels", "emu, 1,Big_Cat", "--grid", "sheet.png")
    assert code == 0 and err.count("\n") == 1
    with np.load("samples.npz") as file:
        assert file["arr_1"].tolist() == [2, 1, 0, 2, 1, 0, 2]
        manifest = json.loads(str(file["manifest"]))
    assert (manifest["labels"], manifest["class_names"]) == ([2, 1, 0], NAMES)
    assert captions == ["0 big cat"] * 2 + ["1 dog"] * 2 + ["2 emu"] * 3
    before = (here / "samples.npz").read_bytes()
    assert "finished before" in repa(*OWN, "--labels", "2,1,0")[2]
    assert (here / "samples.npz").read_bytes() == before


def test_images_are_made_without_the_package_of_names(repa, here, monkeypatch):
    def missing(name):
        raise RepaError("not installed")

    monkeypatch.setattr("repa.generation.manifests.writing.class_names_of_dataset", missing)
    save(here / "own.safetensors", dataset="imagenet-256")
    assert repa(*OWN, "--labels", "3")[0] == 0


def test_a_model_of_five_classes_has_none_of_imagenets_names(repa, here):
    save(here / "own.safetensors", dataset="imagenet-256")
    assert repa(*OWN, "--labels", "3")[0] == 0
    with np.load("samples.npz") as file:
        assert json.loads(str(file["manifest"]))["class_names"] == []
    code, _, err = repa(*OWN, "--labels", "tench")
    assert code == 2 and "'tench': the names of own.safetensors's classes are not known" in err


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ("dgo", "no class is called 'dgo'; did you mean 1 dog?"),
        ("1,big", "no class is called 'big', but 0 big cat; give one."),
        ("random,dog", "no class is called 'random'."),
        ("randm", "unknown labels 'randm'; did you mean 'random'?"),
        ("dog,,cat", "'dog,,cat' is no list of classes such as 0,1,2"),
        ("dog,7", "label 7 is none of the 5 classes, 0 to 4."),
        ("dog,-1", "must be one or more classes from 0, got [1, -1]."),
    ],
)
def test_names_that_mean_no_class_are_one_line_with_the_option_and_exit_code_2(
    repa, here, typed, said
):
    code, out, err = repa(*OWN, "--labels", typed)
    assert (code, out) == (2, "") and err.count("\n") == 1
    assert "--labels" in err and said in err
    assert not (here / "samples.npz").exists()


def test_random_numbers_of_the_reference_are_asked_for_and_named(repa, here):
    reference = ("--rng", "reference", "--world-size", 2, "--batch-size", 2)
    code, _, err = repa(*OWN, *reference)
    plan, note = sorted(err.splitlines(), key=lambda line: "rng reference" in line)
    assert code == 0 and "7 images" in plan
    assert note == (
        "repa: rng reference: these images are those of no published run; those were drawn on "
        "GPUs, whose generators give other numbers than a CPU's."
    )
    with np.load("samples.npz") as file:
        manifest = json.loads(str(file["manifest"]))
    assert (manifest["rng"], manifest["world_size"], manifest["rank_batch_size"]) == (
        "reference",
        2,
        2,
    )
    code, _, err = repa(*OWN, *reference[:-1], 3)
    assert code == 1 and "rank_batch_size 2 there, 3 here" in err.splitlines()[-1]


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        (["--rng", "reference"], ["--world-size", "how many processes (GPUs) the run of REPA had"]),
        (["--world-size", "2"], ["--world-size", "is of rng reference alone"]),
        (["--rng", "refrence"], ["--rng", "did you mean 'reference'"]),
        (["--rng", "reference", "--world-size", "0"], ["--world-size", "'0' is not a whole"]),
        (["--rng", "reference", "--world-size", "x"], ["--world-size", "'x' is not a whole"]),
        (
            ["--rng", "reference", "--world-size", "2", "--labels", "dog"],
            ["--labels", "must be random with rng reference"],
        ),
        (
            ["--rng", "reference", "--world-size", "2", "--solver", "rk4"],
            ["--solver", "one of sde, euler, heun with rng reference"],
        ),
        (
            ["--rng", "reference", "--world-size", "4", "--seed", str((1 << 63) - 1)],
            ["--seed", "below 2**64"],
        ),
    ],
)
def test_what_contradicts_the_references_numbers_is_one_line_and_exit_code_2(
    repa, here, typed, said
):
    code, out, err = repa(*OWN, *typed)
    assert (code, out) == (2, "") and err.count("\n") == 1
    assert all(part in err for part in said), err
    assert not (here / "samples.npz").exists()
