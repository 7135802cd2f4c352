"""What `repa fid` and `repa stats` say of their images, on stderr and in the JSON alike."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from stand_in import POOL_DIM, stand_in

from repa.data import load_digits
from repa.evaluation import measuring

LITE0 = ("--features", "efficientnet-lite0")
COUNT = 12


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A working folder with an empty cache, real images, and a folder of others as PNG files."""
    network = stand_in("efficientnet-lite0")
    monkeypatch.setattr(measuring, "load_named_network", lambda *_, **options: network)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("REPA_CACHE", str(tmp_path / "cache"))
    np.savez("real.npz", load_digits("heldout", 8)[0][:COUNT])
    save("folder", load_digits("train", 8)[0][:COUNT])
    return tmp_path


def save(folder, images, suffix="png", **options):
    Path(folder).mkdir()
    for number, image in enumerate(images):
        Image.fromarray(image).save(f"{folder}/{number:02}.{suffix}", **options)


@pytest.fixture
def warned(repa, here):
    """Run a command with --json: its warnings by their checks, each of which stderr has."""

    def run(*arguments):
        code, out, err = repa(*arguments, *LITE0, "--json")
        assert code == 0, err
        found = json.loads(out)
        warnings = found.get("samples", found)["warnings"]
        lines = [line for line in err.splitlines() if line.startswith("repa: warning: ")]
        assert lines == [f"repa: warning: {each['reason']}: {each['effect']}." for each in warnings]
        return {each["check"]: each["reason"] for each in warnings}

    return run


def test_four_real_images_are_few(warned):
    np.savez("four.npz", load_digits("heldout", 8)[0][:4])
    found = warned("fid", "folder", "--ref", "four.npz")
    assert found["few-references"].startswith("a reference of 4 images")
    assert warned("stats", "four.npz", "--out", "ref.npz") == {
        "few-references": found["few-references"]
    }
    assert warned("fid", "folder", "--ref", "ref.npz")["few-references"].startswith("a refer")


def test_built_in_data_is_as_large_as_it_is_and_two_hundred_images_of_it_are_enough(warned):
    found = warned("fid", "folder", "--ref", "digits-heldout")
    assert "few-references" not in found
    assert found["few-samples"] == f"{COUNT} images, of which 200 are the least that tell " + (
        "models apart"
    )


@pytest.mark.parametrize("kept", [(), ("--no-cache",)])
def test_a_file_against_itself_and_against_its_own_reference(warned, kept):
    whole = f"{COUNT} of {COUNT} images are in the reference too, in every pixel"
    warned("stats", "real.npz", "--out", "ref.npz", "--num-images", 5, *kept)
    for _ in range(2):  # measured, and from the cache
        assert warned("fid", "real.npz", "--ref", "real.npz", *kept)["shared-images"] == whole
        found = warned("fid", "real.npz", "--ref", "ref.npz", *kept)
        assert found["shared-images"].startswith(f"5 of {COUNT} images")
        assert "shared-images" not in warned("fid", "folder", "--ref", "ref.npz", *kept)


def test_jpeg_against_lossless_images(warned):
    images = load_digits("train", 8)[0][:COUNT]
    save("jpeg", images, "jpg", quality=50)
    found = warned("fid", "jpeg", "--ref", "real.npz")
    assert found["lossy-files"] == "the images come from 12 JPEG files, the reference from an array"
    warned("stats", "jpeg", "--out", "ref.npz")
    found = warned("fid", "folder", "--ref", "ref.npz")
    assert found["lossy-files"].endswith("12 PNG files, the reference from 12 JPEG files")
    assert "lossy-files" not in warned("fid", "jpeg", "--ref", "ref.npz")
    assert "lossy-files" not in warned("fid", "folder", "--ref", "real.npz")


def test_files_that_were_not_taken_are_told(warned, here):
    for name in ("a.txt", "b.txt", "c.heic"):
        (here / "folder" / name).write_text("")
    said = "folder: 3 files were not taken: 2 .txt, 1 .heic"
    assert warned("fid", "folder", "--ref", "real.npz")["files-not-taken"] == said
    assert warned("fid", "real.npz", "--ref", "folder")["files-not-taken"] == said
    assert warned("stats", "folder", "--out", "ref.npz")["files-not-taken"] == said


@pytest.mark.parametrize(
    "arguments",
    [
        ("fid", "pipe", "--ref", "real.npz"),
        ("fid", "real.npz", "--ref", "pipe"),
        ("fid", "real.npz", "--ref", "/dev/zero"),
        ("fid", "piped", "--ref", "real.npz"),
        ("stats", "pipe", "--out", "ref.npz"),
        ("stats", "/dev/zero", "--out", "ref.npz"),
    ],
)
def test_a_pipe_or_device_is_one_line_and_is_not_waited_for(repa, here, arguments):
    os.mkfifo("pipe")
    save("piped", load_digits("train", 8)[0][:4])
    os.mkfifo("piped/00.jpg")
    code, out, err = repa(*arguments, *LITE0)
    assert (code, out) == (1, "")
    assert err.startswith("repa: error: ") and "is neither a file nor a folder" in err


def test_statistics_that_overflow_are_one_line_and_no_numbers(repa, here):
    names = {"network": "efficientnet-lite0", "mu": np.full(POOL_DIM, 1e200)}
    np.savez("ref.npz", **names, sigma=np.eye(POOL_DIM))
    code, out, err = repa("fid", "real.npz", "--ref", "ref.npz", *LITE0)
    assert (code, out) == (1, "")
    assert "too large to be features'" in err.splitlines()[-1] and "Traceback" not in err
