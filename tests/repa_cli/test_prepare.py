import json
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from pictures import class_folders, content

from metrics.settings import DEFAULT_BATCH_SIZE
from repa.data import open_prepared
from repa.data.held_out import HeldOutReference
from repa.errors import RepaError

BY_LITE0 = ("--features", "efficientnet-lite0")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """An empty cache."""
    monkeypatch.setenv("REPA_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def source(tmp_path):
    return class_folders(tmp_path / "src")


def test_prepare_prints_a_table_or_json_and_says_when_it_was_finished(repa, source, tmp_path):
    arguments = ("prepare", source, "--out", tmp_path / "out", "--image-size", 16, *BY_LITE0)
    code, out, err = repa(*arguments, "--held-out", "0.2", "--threads", 2)
    assert code == 0 and "prepared set" in out and "image size" in out
    assert "15 pictures in 3 classes to 16 x 16 pixels make" in err and "are free" in err
    code, out, err = repa(*arguments, "--held-out", "0.2", "--json")
    assert code == 0 and "finished before" in err
    told = json.loads(out)
    assert (told["images"], told["held out"], told["classes"]) == (12, 3, 3)
    assert "images/s" not in told
    assert open_prepared(tmp_path / "out").count == 12


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        (("--image-size", 0), 2, "--image-size"),
        (("--held-out", "1.5"), 2, "--held-out"),
        (("--held-out", "14", *BY_LITE0), 2, "--held-out"),
        (BY_LITE0, 2, "--features"),
        (("--weights", __file__), 2, "--weights"),
        (("--flip",), 2, "--flip"),
        (("--grid-size", 4), 2, "--grid-size"),
        (("--encoder", "a,,b"), 2, "--encoder"),
        (("--encoder", "efficientnet-lite9"), 2, "efficientnet-lite0"),
        (("--encoder", "efficientnet-lite1"), 2, "--grid-size"),
        (("--autoencoder", "sd-vae"), 2, "sd-vae-ft-mse"),
        (("--threads", -1), 2, "--threads"),
    ],
)
def test_what_was_mistyped_is_one_line_and_code_2(repa, source, tmp_path, options, code, words):
    found, out, err = repa(
        "prepare", source, "--out", tmp_path / "out", "--image-size", 16, *options
    )
    lines = [line for line in err.splitlines() if line.startswith("repa: error:")]
    assert found == code and len(lines) == 1 and words in lines[0], err
    assert not out and not (tmp_path / "out" / "prepared.json").exists()


def test_what_was_found_is_one_line_and_code_1(repa, source, tmp_path):
    (source / "cat" / "poor.png").write_bytes(b"")
    code, _, err = repa("prepare", source, "--out", tmp_path / "out", "--image-size", 16)
    assert code == 1 and "1 file to mend or remove" in err and "poor.png" in err
    code, _, err = repa("prepare", tmp_path / "absent", "--out", tmp_path / "out2")
    assert code == 1 and "absent: No such file or directory." in err
    (tmp_path / "empty").mkdir()
    code, _, err = repa("prepare", tmp_path / "empty", "--out", tmp_path / "out2")
    assert code == 1 and "holds no images" in err and not Path(tmp_path / "out2").exists()


def test_a_batch_of_nothing_to_encode_is_refused(repa, source, tmp_path):
    code, _, error = repa("prepare", source, "--out", tmp_path / "out", "--batch-size", 4)
    assert code == 2 and error.count("\n") == 1 and "no effect without --autoencoder" in error
    assert not (tmp_path / "out").exists()


def test_features_of_an_encoder_are_those_that_it_gives(repa, tmp_path):
    from repa.encoders import load_encoder

    source = class_folders(tmp_path / "src", ("a", "b"), each=2)
    arguments = ("--image-size", 64, "--encoder", "efficientnet-lite1", "--flip", "--batch-size", 4)
    code, _, err = repa("prepare", source, "--out", tmp_path / "out", *arguments, "--grid-size", 4)
    assert code == 0, err
    prepared = open_prepared(tmp_path / "out")
    import torch

    images = torch.from_numpy(prepared.images(range(4)))
    encoder = load_encoder("efficientnet-lite1")
    for flipped, seen in ((False, images), (True, images.flip(2))):
        expected = encoder(seen, grid_size=4).half().numpy()
        found = prepared.features("efficientnet-lite1", [3, 1], flipped=flipped)
        assert found.dtype == np.float16 and np.array_equal(found, expected[[3, 1]])
    assert set(content(tmp_path / "out")) == {
        *("checksums.npz", "images.zip", "prepared.json"),
        *(f"features{f}/efficientnet-lite1.npy" for f in ("", "-flipped")),
    }


def test_what_is_held_out_becomes_the_reference_of_samples_that_name_it(repa, source, tmp_path):
    arguments = ("prepare", source, "--out", tmp_path / "out", "--image-size", 16)
    arguments += ("--held-out", "0.4", *BY_LITE0)
    code, out, _ = repa(*arguments)
    assert code == 0 and "held-out-efficientnet-lite0.npz" in out
    prepared = open_prepared(tmp_path / "out")
    held_out = prepared.manifest["held_out"]
    assert held_out["file"] in prepared.manifest["files"] and held_out["count"] == 6
    reference = HeldOutReference.from_mapping({"name": "src@1", **held_out}).to_dict()
    made = np.array(json.dumps({"dataset": "src@1", "reference": reference}))
    (tmp_path / "elsewhere").mkdir()
    samples = tmp_path / "elsewhere" / "samples.npz"
    np.savez(samples, prepared.images(range(6)), manifest=made)
    code, out, err = repa("fid", samples, "--json")
    assert code == 0 and "held out of src@1" in err
    values = json.loads(out)["samples"]["values"]
    code, out, _ = repa("fid", samples, "--ref", tmp_path / "out" / "held-out.zip", *BY_LITE0,
                        "--json")  # fmt: skip
    by_images = json.loads(out)["samples"]["values"]
    assert values.keys() == by_images.keys()
    assert all(values[name] == pytest.approx(by_images[name], rel=1e-5) for name in values)
    code, _, err = repa(*arguments[:-1], "inception", "--weights", __file__)
    assert code == 0 and "its reference stays that of efficientnet-lite0" in err


def test_a_smaller_batch_size_is_that_of_measuring_as_well(repa, source, tmp_path, monkeypatch):
    sizes = []

    def maker(how):
        sizes.append(how.batch_size)
        raise RepaError("enough.")

    monkeypatch.setattr("repa.evaluation.reference_maker", maker)
    arguments = ("prepare", source, "--out", tmp_path / "out", "--image-size", 16, *BY_LITE0)
    for options in ((), ("--batch-size", 3)):
        assert repa(*arguments, "--held-out", "3", *options)[0] == 1
    assert sizes == [DEFAULT_BATCH_SIZE, 3]


def test_weights_that_are_missing_are_one_line_before_any_work(repa, source, tmp_path, monkeypatch):
    def unreachable(*arguments, **options):
        raise urllib.error.URLError("no network")

    monkeypatch.setattr(urllib.request, "urlopen", unreachable)
    out = tmp_path / "out"
    code, _, err = repa("prepare", source, "--out", out, "--image-size", 16, "--held-out", "3")
    assert code == 1 and not out.exists()
    (line,) = err.splitlines()
    assert "weights-inception" in line and "--features" in line
