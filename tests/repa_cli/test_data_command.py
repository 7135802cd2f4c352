import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from pictures import class_folders
from PIL import Image
from tiny_autoencoder import save_tiny_autoencoder

from repa.autoencoders.autoencoder import find_autoencoder
from repa.data.overview import images_to_show
from repa.data.preparation import PrepareConfig, prepare
from repa.data.prepared_set import open_prepared
from repa.sheets.sample_sheet import source_sheet


@pytest.fixture(scope="module")
def decodable(tmp_path_factory):
    """A prepared set with latents, and the folder of its autoencoder."""
    folder = tmp_path_factory.mktemp("decodable")
    vae = save_tiny_autoencoder(folder / "vae")
    made = {"source": class_folders(folder / "src"), "out": folder / "set", "image_size": 16}
    return prepare(PrepareConfig(**made, autoencoder=str(vae))).folder, vae


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


@pytest.mark.parametrize("named", [False, True])
def test_decoded_draws_what_the_sets_latents_hold(repa, tmp_path, decodable, named):
    folder, vae = decodable
    options = ("--autoencoder", vae) if named else ()
    sheet = tmp_path / "sheet.png"
    code, out, err = repa(
        "data", folder, "--grid", sheet, "--decoded", "--device", "cpu", "--json", *options
    )
    assert code == 0 and json.loads(out)["grid"] == str(sheet), err
    data, network = open_prepared(folder), find_autoencoder(vae).network
    pixels = network.decode(torch.from_numpy(data.moments(range(15)))[:, :4]).sample
    images = ((pixels.clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy()
    shown = replace(images_to_show(data), read=images.__getitem__)
    expected, _ = source_sheet(shown, by_class=True, class_names=data.class_names)
    with Image.open(sheet) as found:
        difference = np.asarray(found).astype(int) - np.asarray(expected)
    assert np.abs(difference).max() <= 1  # of values between two whole numbers


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        (("--decoded",), 2, "--decoded"),
        (("--autoencoder", "sd-vae-ft-mse"), 2, "--autoencoder"),
        (("--grid", "new.png", "--device", "cpu"), 2, "--device: has no effect without --decoded"),
        (("--columns", 5), 2, "--columns: has no effect without --grid"),
        (("--overwrite",), 2, "--overwrite: has no effect without --grid"),
        (("--grid", "sheet.jpg"), 2, "--grid: the contact sheet is a PNG"),
        (("--grid", "sheet.png", "--decoded"), 2, "--decoded: needs a prepared set with latents"),
    ],
)
def test_what_has_no_effect_is_refused(repa, tmp_path, monkeypatch, options, code, words):
    monkeypatch.chdir(tmp_path)
    found, _, err = repa("data", class_folders(tmp_path / "src"), *options)
    assert found == code and words in err and err.count("repa: error:") == 1
