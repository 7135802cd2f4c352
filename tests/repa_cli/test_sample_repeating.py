"""`repa sample --from-manifest`: the bytes of an earlier run, or one line that says why not."""

import json
import shutil

import numpy as np
import pytest

AGAIN = ("sample", "--from-manifest", "first.npz", "--device", "cpu")


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    from repa.generation import SampleConfig, generate

    settings = {"model": "digits", "num_images": 3, "num_steps": 2, "device": "cpu"}
    out = tmp_path_factory.mktemp("first") / "first.npz"
    return generate(SampleConfig(**settings, solver="sa", times="karras", out=out)).path


@pytest.fixture
def here(first, tmp_path, monkeypatch):
    """A working folder that holds first.npz."""
    shutil.copy(first, tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_command_repeats_a_run_to_the_byte_and_says_so(repa, here):
    code, out, err = repa(*AGAIN, "--out", "again.npz", "--grid", "sheet.png", "--json")
    assert (code, json.loads(out)["bytes"]) == (0, "those of first.npz")
    assert err == (
        "repa: digits (as recorded in first.npz): 3 images, sa of order 2 in 2 steps, karras "
        "times, guidance 1.8 for t in [0, 0.7], 3 network rows an image.\n"
    )
    assert (here / "again.npz").read_bytes() == (here / "first.npz").read_bytes()
    assert (here / "sheet.png").exists()


@pytest.mark.parametrize(
    ("arguments", "code", "part"),
    [
        (["--cfg", 2, "--fast"], 2, "--from-manifest: its manifest decides --cfg, --fast: leave"),
        (["--batch-size", 5], 2, "decides --batch-size"),
        (["--out", "first.npz"], 2, "--out: first.npz is the file that is repeated"),
        (["--out", "x.png"], 2, "--out: must be a file name that ends in .npz"),
        (["--guide", "digits"], 2, "--guide: had no part in first.npz"),
        (["--model", "digit"], 2, "did you mean 'digits'"),
        (["--model", "other.safetensors"], 1, "is no checkpoint"),
    ],
)
def test_what_is_not_to_be_repeated_is_one_line(repa, here, arguments, code, part):
    (here / "other.safetensors").write_text("text")
    found, out, err = repa(*AGAIN, *arguments)
    assert (found, out) == (code, "") and part in err and err.count("\n") == 1, err
    assert sorted(path.name for path in here.iterdir()) == ["first.npz", "other.safetensors"]


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("none.npz", "No such file"),
        ("plain.npz", "has no manifest"),
        ("text.npz", "is no NPZ file"),
        ("cut.npz", "cut short"),
        ("later.npz", "of a later version: its format 2 is unknown here"),
    ],
)
def test_a_foreign_file_is_one_line(repa, here, name, part):
    with np.load(here / "first.npz") as file:
        images, manifest = file["arr_0"], json.loads(str(file["manifest"]))
    np.savez(here / "plain.npz", arr_0=images)
    np.savez(here / "later.npz", arr_0=images, manifest=json.dumps({**manifest, "format": 2}))
    (here / "text.npz").write_text("no archive")
    (here / "cut.npz").write_bytes((here / "first.npz").read_bytes()[:-300])
    code, out, err = repa("sample", "--from-manifest", name, "--out", "again.npz")
    assert (code, out) == (1, "") and part in err and name in err and err.count("\n") == 1, err
    assert not (here / "again.npz").exists()


def test_bytes_that_are_not_those_of_the_first_are_told(repa, here):
    with np.load(here / "first.npz") as file:
        manifest = json.loads(str(file["manifest"])) | {"toolkit": "0.0.1"}
        np.savez(here / "first.npz", arr_0=file["arr_0"], manifest=json.dumps(manifest))
    code, out, err = repa(*AGAIN, "--out", "again.npz", "--json")
    assert (code, json.loads(out)["bytes"]) == (0, "not those of first.npz")
    assert "not all is as it was (toolkit 0.0.1 there, " in err
