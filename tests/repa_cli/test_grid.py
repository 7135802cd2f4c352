import json
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from repa.data import load_digits


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A working folder with digits.npz, labelled, and plain.npz, not."""
    monkeypatch.chdir(tmp_path)
    images, labels = load_digits("heldout", 32)
    np.savez("digits.npz", arr_0=images[:50], arr_1=labels[:50])
    np.savez("plain.npz", arr_0=images[:7])
    return tmp_path


def test_grid_draws_an_npz_and_a_folder(repa, here):
    code, out, err = repa("grid", "digits.npz", "--out", "new/sheet.png", "--count", 20)
    assert (code, err) == (0, "") and "20" in out
    with Image.open("new/sheet.png") as sheet:
        assert sheet.width == 4 + 10 * 68
    code, out, _ = repa("grid", "new", "--out", "of-sheet.png", "--json")
    assert (code, json.loads(out)) == (0, {"sheet": "of-sheet.png", "images": 1})
    options = ("--by-class", "--columns", 3, "--numbers", "--first", 5)
    assert repa("grid", "digits.npz", "--out", "rows.png", *options)[0] == 0
    with Image.open("rows.png") as sheet:
        assert sheet.height > 10 * (64 + 2 * 14)


@pytest.mark.parametrize(
    ("arguments", "code", "part"),
    [
        (["digits.npz", "--out", "a.jpg"], 2, "--out: the contact sheet is a PNG"),
        (["digits.npz", "--out", "taken.png"], 1, "taken.png exists; use --overwrite to replace"),
        (["digits.npz", "--out", "a.png", "--first", 50], 1, "has images 0 to 49, and none 50"),
        (["plain.npz", "--out", "a.png", "--by-class"], 1, "plain.npz does not tell the classes"),
        (["no.npz", "--out", "a.png"], 1, "no.npz: No such file"),
        (["taken.png", "--out", "a.png"], 1, "taken.png is no NPZ file"),
        (["digits.npz", "--out", "a.png", "--count", 0], 2, "--count"),
        (["digits.npz", "--out", "a.png", "--columns", 0], 2, "--columns"),
        (["digits.npz", "--out", "a.png", "--first", -1], 2, "--first"),
        (["digits.npz"], 2, "--out"),
    ],
)
def test_errors_are_one_line(repa, here, arguments, code, part):
    (here / "taken.png").write_bytes(b"precious")
    found, out, err = repa("grid", *arguments)
    assert (found, out) == (code, ""), err
    assert err.startswith("repa: error: ") and err.count("\n") == 1 and part in err, err
    assert (here / "taken.png").read_bytes() == b"precious" and not (here / "a.png").exists()


def test_overwrite_replaces_a_picture(repa, here):
    (here / "taken.png").write_bytes(b"old")
    assert repa("grid", "plain.npz", "--out", "taken.png", "--overwrite")[0] == 0
    with Image.open("taken.png") as sheet:
        assert sheet.width > 64


def test_drawing_digits_needs_no_torch(here):
    script = (
        "import sys\nfrom repa_cli.app import main\n"
        "try: main(['grid', 'digits.npz', '--out', 'sheet.png'])\n"
        "except SystemExit as stop: assert not stop.code\n"
        "assert 'torch' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
