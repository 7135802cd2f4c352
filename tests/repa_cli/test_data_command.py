import json

import pytest
from pictures import class_folders
from PIL import Image


def test_data_prints_a_table_or_json_and_draws_a_sheet(repa, tmp_path):
    source = class_folders(tmp_path / "src")
    code, out, _ = repa("data", source, "--grid", tmp_path / "sheet.png")
    assert code == 0 and "5 to 5" in out and "emu" in out
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.width > 5 * 60 and sheet.height > 3 * 60
    code, _, err = repa("data", source, "--grid", tmp_path / "sheet.png")
    assert code == 1 and "--overwrite" in err
    code, out, _ = repa("data", "digits", "--json")
    assert code == 0 and json.loads(out)["images"] == 901


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        (("--decoded",), 2, "--decoded"),
        (("--autoencoder", "sd-vae-ft-mse"), 2, "--autoencoder"),
        (("--grid", "new.png", "--device", "cpu"), 2, "--device: has no effect without --decoded"),
        (("--columns", 5), 2, "--columns: has no effect without --grid"),
        (("--grid", "sheet.jpg"), 1, ".png"),
        (("--grid", "sheet.png", "--decoded"), 1, "prepared set with latents"),
    ],
)
def test_what_has_no_effect_is_refused(repa, tmp_path, monkeypatch, options, code, words):
    monkeypatch.chdir(tmp_path)
    found, _, err = repa("data", class_folders(tmp_path / "src"), *options)
    assert found == code and words in err and err.count("repa: error:") == 1
