"""`repa stats`: a reference in ADM's form that gives the numbers of the images it was made from."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from stand_in import counted, outputs, stand_in

from metrics import (
    ArrayImages,
    FeatureCache,
    InputError,
    Reference,
    evaluate,
    open_images,
    open_reference,
    write_reference,
)
from repa.registry import find_entry

RANDOM = np.random.default_rng(0)
SAMPLES = RANDOM.integers(0, 200, (10, 8, 8, 3), dtype=np.uint8)
REAL = RANDOM.integers(50, 256, (30, 8, 8, 3), dtype=np.uint8)


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A working folder with samples and real images, and an empty cache."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("REPA_CACHE", str(tmp_path / "cache"))
    np.savez("samples.npz", SAMPLES)
    np.savez("real.npz", REAL)
    return tmp_path


STATS = ("stats", "real.npz", "--out", "ref.npz", "--features", "efficientnet-lite0")


def test_the_reference_gives_the_numbers_of_its_images(repa, here):
    code, out, _ = repa(*STATS)
    assert code == 0 and "ref.npz" in out
    values = []
    for reference in ("ref.npz", "real.npz"):
        fid = ("fid", "samples.npz", "--ref", reference, "--features", "efficientnet-lite0")
        code, out, err = repa(*fid, "--json")
        assert code == 0, err
        values.append(json.loads(out)["samples"]["values"])
    assert values[0] == values[1]


def test_the_file_has_adms_arrays_and_scalars_that_say_what_it_is(repa, here):
    code, out, _ = repa(*STATS, "--num-images", 7, "--json")
    assert code == 0
    entry = find_entry("networks", "efficientnet-lite0")
    found = json.loads(out)
    assert [warning["check"] for warning in found.pop("warnings")] == ["few-references"]
    assert found == {
        "reference": "ref.npz",
        "network": "efficientnet-lite0",
        "preprocessing": "bicubic resize to 224, (x - 127) / 128",
        "weights_sha256": entry["sha256"],
        "images_in_statistics": 30,
        "images_kept": 7,
        "seed": 0,
    }
    with np.load("ref.npz", allow_pickle=False) as file:
        arrays = dict(file)
    assert arrays.keys() == {
        "mu",
        "sigma",
        "mu_s",
        "sigma_s",
        "arr_0",
        "count",
        "network",
        "weights_sha256",
    }
    assert arrays["sigma"].shape == (1280, 1280) and arrays["sigma_s"].shape == (1372, 1372)
    assert arrays["arr_0"].shape == (7, 8, 8, 3) and arrays["arr_0"].dtype == np.uint8
    assert (int(arrays["count"]), str(arrays["network"])) == (30, "efficientnet-lite0")
    assert str(arrays["weights_sha256"]) == entry["sha256"]


def test_labels_stay_with_the_images_that_are_kept(tmp_path):
    labels = np.arange(30)
    images = ArrayImages(
        np.repeat(labels.astype(np.uint8), 192).reshape(30, 8, 8, 3), labels=labels
    )
    network, _ = counted()
    write_reference(tmp_path / "ref.npz", images, network, num_images=9)
    kept = open_reference(tmp_path / "ref.npz").images
    assert kept.count == 9
    assert next(kept.batches(9))[:, 0, 0, 0].tolist() == kept.labels.tolist()


def test_the_images_themselves_are_not_replaced(repa, here):
    before = (here / "real.npz").read_bytes()
    code, out, err = repa("stats", "real.npz", "--out", "./real.npz", "--overwrite")
    assert (code, out) == (1, "") and "holds the images" in err
    assert (here / "real.npz").read_bytes() == before


def test_network_follows_from_the_manifest_of_the_source(repa, here):
    np.savez("real.npz", REAL, manifest=np.array(json.dumps({"dataset": "digits"})))
    code, _, err = repa(*STATS[:4])
    assert code == 0 and "network efficientnet-lite0" in err


def test_an_existing_output_is_kept_unless_it_may_be_replaced(repa, here):
    (here / "ref.npz").write_text("precious")
    code, out, err = repa(*STATS)
    assert (code, out) == (1, "")
    assert "ref.npz exists; use --overwrite" in err
    assert (here / "ref.npz").read_text() == "precious"
    assert not (here / "cache").exists()
    assert repa(*STATS, "--overwrite")[0] == 0
    assert open_reference(here / "ref.npz").statistics is not None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("--out", "folder"), "folder is a folder"),
        (("--out", "samples.npz/ref.npz"), "samples.npz"),
        (("--features", "inceptoin"), "did you mean 'inception'"),
        (("--num-images", "0"), "--num-images"),
    ],
)
def test_a_bad_option_is_one_line_and_leaves_nothing(repa, here, change, message):
    (here / "folder").mkdir()
    before = sorted(here.iterdir())
    code, out, err = repa(*STATS, *change)
    assert code in (1, 2) and out == ""
    assert message in err and "Traceback" not in err
    assert sorted(here.iterdir()) == before


def test_images_of_several_sizes_are_refused_before_any_is_measured(tmp_path):
    for size in (8, 9):
        Image.fromarray(np.zeros((size, 8, 3), np.uint8)).save(tmp_path / f"{size}.png")
    network, sizes = counted()
    with pytest.raises(InputError, match="several sizes"):
        write_reference(tmp_path / "ref.npz", open_images(tmp_path), network)
    assert sizes == [] and not (tmp_path / "ref.npz").exists()


def written(path, images, **options):
    write_reference(path, ArrayImages(images), stand_in(), **options)
    with np.load(path, allow_pickle=False) as file:
        return dict(file)


def test_statistics_are_of_all_images_and_those_kept_are_some_of_them_in_order(tmp_path):
    images = np.concatenate([REAL, RANDOM.integers(0, 256, (120, 8, 8, 3), dtype=np.uint8)])
    arrays = written(tmp_path / "r.npz", images, num_images=12, seed=1)
    pool, spatial, _ = outputs(stand_in().resize(torch.tensor(images)))
    for key, features in (("", pool.double()), ("_s", spatial.double())):
        np.testing.assert_allclose(arrays[f"mu{key}"], features.mean(0), rtol=1e-5)
        wanted = np.cov(features.numpy(), rowvar=False)
        np.testing.assert_allclose(arrays[f"sigma{key}"], wanted, rtol=1e-4, atol=1e-5)
    indices = [
        int(index)
        for kept in arrays["arr_0"]
        for index in np.flatnonzero((images == kept).all((1, 2, 3)))
    ]
    assert len(indices) == 12 and indices == sorted(set(indices))
    assert max(indices) > 100, "a choice from all of them"


def test_the_choice_follows_from_the_seed_and_few_images_are_all_kept(tmp_path):
    one, same, other = (
        written(tmp_path / "r.npz", REAL, num_images=12, seed=seed)["arr_0"] for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(one, same)
    assert (one != other).any()
    np.testing.assert_array_equal(written(tmp_path / "r.npz", REAL)["arr_0"], REAL)


class ReadableOnce(ArrayImages):
    """Images that are gone when they are to be written after they have been measured."""

    def batches(self, batch_size, start=0, stop=None):
        if batch_size != 16:
            raise InputError("the images are gone")
        return super().batches(batch_size, start, stop)


def test_an_error_in_the_middle_leaves_the_old_file_alone(tmp_path):
    written(tmp_path / "r.npz", REAL)
    before = (tmp_path / "r.npz").read_bytes()
    with pytest.raises(InputError, match="gone"):
        write_reference(tmp_path / "r.npz", ReadableOnce(REAL), stand_in())
    assert (tmp_path / "r.npz").read_bytes() == before
    assert len(list(tmp_path.iterdir())) == 1


def test_a_reference_is_measured_once_for_its_statistics_and_again_for_those_kept(tmp_path):
    written(tmp_path / "r.npz", REAL, num_images=12)
    cache = FeatureCache(tmp_path / "cache")
    report = evaluate(
        ArrayImages(SAMPLES), open_reference(tmp_path / "r.npz"), stand_in(), cache=cache
    )
    assert report.compared_with["FD-x"] == "mean and covariance of 30 images"
    assert report.compared_with["P-x"] == "12 images"
    wanted = evaluate(ArrayImages(SAMPLES), Reference("r", ArrayImages(REAL)), stand_in())
    for label in ("FD-x", "sFD-x"):
        assert report.values[label] == pytest.approx(wanted.values[label], rel=1e-12)
