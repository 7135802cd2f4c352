"""`repa cache`, and what `repa fid` keeps in the cache and finds there."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest

from metrics import CacheError, FeatureCache
from metrics.extraction.image_pass import Extraction
from metrics.networks.efficientnet import EfficientNetLite0

RANDOM = np.random.default_rng(0)


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A working folder with samples and a reference, and an empty cache."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("REPA_CACHE", str(tmp_path / "cache"))
    np.savez("samples.npz", RANDOM.integers(0, 200, (10, 8, 8, 3), dtype=np.uint8))
    np.savez("real.npz", RANDOM.integers(50, 256, (12, 8, 8, 3), dtype=np.uint8))
    return tmp_path


FID = ("fid", "samples.npz", "--ref", "real.npz", "--features", "efficientnet-lite0", "--json")


def measured(repa, *options):
    code, out, err = repa(*FID, *options)
    assert code == 0, err
    return json.loads(out)["samples"]


def test_a_second_evaluation_loads_no_network_and_gives_the_same_numbers(repa, here, monkeypatch):
    first = measured(repa)

    def fail(self, weights):
        raise AssertionError("the network was loaded")

    monkeypatch.setattr(EfficientNetLite0, "__init__", fail)
    assert measured(repa) == first
    again = measured(repa, "--bootstrap", 3, "--kid")
    assert again["values"] == first["values"] | {"KD-lite0": again["values"]["KD-lite0"]}
    assert again["standard_errors"].keys() == again["values"].keys()
    assert again["settings"]["num_resamples"] == 3
    assert min(again["standard_errors"].values()) >= 0
    assert again["warnings"] == first["warnings"]


def test_without_the_cache_nothing_is_read_or_written(repa, here):
    wanted = measured(repa, "--no-cache")
    assert not (here / "cache").exists()
    assert wanted["standard_errors"] == {}
    errors = measured(repa, "--no-cache", "--bootstrap", 2)["standard_errors"]
    assert errors["FD-lite0"] > 0
    assert not (here / "cache").exists()


def test_table_gives_values_with_their_standard_errors(repa, here):
    code, out, _ = repa(*FID[:-1], "--bootstrap", 3, "--kid")
    assert code == 0
    rows = {line.split()[0]: line for line in out.splitlines() if line}
    for label in ("FD-lite0", "sFD-lite0", "IS-lite0", "KD-lite0"):
        assert "±" in rows[label]
    assert "5 at a time" in rows["KD-lite0"]
    assert "standard error, from 3 resamples" in out


def test_cache_lists_what_it_holds_and_clears_it(repa, here):
    measured(repa)
    code, out, err = repa("cache", "--json")
    assert (code, err) == (0, "")
    entries = {entry["source"]: entry for entry in json.loads(out)["entries"]}
    assert {name: entry["count"] for name, entry in entries.items()} == {
        "samples.npz": 10,
        "real.npz": 12,
    }
    for entry in entries.values():
        files = os.scandir(entry["path"])
        assert entry["num_bytes"] == sum(file.stat().st_size for file in files)
        assert entry["network"] == "efficientnet-lite0"
    code, out, _ = repa("cache")
    assert code == 0
    assert "samples.npz" in out and "12" in out and "2 entries" in out and "MB" in out

    (here / "cache" / "networks").mkdir()
    (here / "cache" / "networks" / "weights.pth").write_text("kept")
    code, out, _ = repa("cache", "--clear")
    assert code == 0 and "2 entries" in out and "removed" in out
    assert FeatureCache(here / "cache" / "features").entries() == []
    assert (here / "cache" / "networks" / "weights.pth").exists()
    assert repa("cache")[1].startswith("0 entries")


def damage(here, name):
    """Flip a bit of the samples' entry."""
    cache = FeatureCache(here / "cache" / "features")
    (folder,) = (entry.path for entry in cache.entries() if entry.source == "samples.npz")
    content = bytearray((folder / name).read_bytes())
    content[-9] ^= 64
    (folder / name).write_bytes(content)


@pytest.mark.parametrize("name", ["pool.npy", "probabilities.npy"])
def test_a_damaged_entry_is_named_in_one_line_and_moves_no_number(repa, here, name):
    first = measured(repa, "--kid")
    damage(here, name)
    code, out, err = repa(*FID, "--kid")
    found = json.loads(out)["samples"]
    assert code == 0
    (line,) = (line for line in err.splitlines() if "damaged" in line)
    assert line.startswith("repa: warning: ") and f"{name}: it is not as it was written" in line
    (warning,) = (w for w in found["warnings"] if w["check"] == "feature-cache")
    assert line == f"repa: warning: {warning['reason']}: {warning['effect']}."
    found["warnings"].remove(warning)
    assert found == first == measured(repa, "--kid")


def test_a_reference_file_is_made_of_no_damaged_entry(repa, here):
    options = ("stats", "samples.npz", "--features", "efficientnet-lite0", "--out")
    assert repa(*options, "a.npz")[0] == 0
    damage(here, "statistics.npz")
    code, _, err = repa(*options, "b.npz")
    assert code == 0 and err.count("damaged") == 1
    np.testing.assert_array_equal(np.load("a.npz")["sigma"], np.load("b.npz")["sigma"])


@pytest.mark.parametrize(("text", "size"), [("20GB", 20e9), ("1.5 tb", 1.5e12), ("500MB", 5e8)])
def test_the_limit_is_shown(repa, here, monkeypatch, text, size):
    assert json.loads(repa("cache", "--json")[1])["limit_bytes"] == 20e9
    assert "of at most 20.00 GB" in repa("cache")[1]
    monkeypatch.setenv("REPA_CACHE_LIMIT", text)
    assert json.loads(repa("cache", "--json")[1])["limit_bytes"] == size


@pytest.mark.parametrize("text", ["20", "much", "-1GB", "1e3GB", "9" * 400 + "GB", "GB", "nan GB"])
def test_a_limit_that_is_no_size_is_one_line(repa, here, monkeypatch, text):
    monkeypatch.setenv("REPA_CACHE_LIMIT", text)
    for command in (("cache",), FID, ("stats", "real.npz", "--out", "r.npz")):
        options = ("--features", "efficientnet-lite0") if command[0] == "stats" else ()
        code, out, err = repa(*command, *options)
        assert (code, out) == (2, "")
        (line,) = (line for line in err.splitlines() if "error" in line)
        assert "REPA_CACHE_LIMIT" in line and "20GB" in line and "--" not in line


def test_a_limit_of_nothing_keeps_nothing(repa, here, monkeypatch):
    wanted = measured(repa, "--no-cache")
    monkeypatch.setenv("REPA_CACHE_LIMIT", "0")
    assert measured(repa) == wanted
    assert measured(repa, "--bootstrap", 2)["values"] == wanted["values"]
    assert FeatureCache(here / "cache" / "features").entries() == []


def test_the_oldest_features_make_room_and_downloads_do_not(repa, here, monkeypatch):
    (here / "cache" / "networks").mkdir(parents=True)
    (here / "cache" / "networks" / "weights.pth").write_bytes(bytes(10**6))
    measured(repa)
    for entry in json.loads(repa("cache", "--json")[1])["entries"]:
        os.utime(Path(entry["path"]) / "entry.json", (0, 0))
    monkeypatch.setenv("REPA_CACHE_LIMIT", "1KB")
    np.savez("samples.npz", RANDOM.integers(0, 200, (11, 8, 8, 3), dtype=np.uint8))
    measured(repa)  # uses the reference, and makes room for the samples
    found = json.loads(repa("cache", "--json")[1])
    assert {entry["count"] for entry in found["entries"]} == {11, 12}
    assert found["num_bytes"] == sum(entry["num_bytes"] for entry in found["entries"]) > 1000
    assert (here / "cache" / "networks" / "weights.pth").exists()


def occupied(here, monkeypatch):
    (here / "cache").write_text("a file")


def full(here, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage(10, 10, 0))


def filling_later(here, monkeypatch):
    failing = iter([False, True])

    def finish(*arguments):
        if next(failing):
            raise CacheError("No space left on device")
        return whole(*arguments)

    whole = FeatureCache.finish
    monkeypatch.setattr(FeatureCache, "finish", finish)


@pytest.mark.parametrize("trouble", [occupied, full, filling_later])
def test_a_cache_that_cannot_be_written_is_done_without(repa, here, monkeypatch, trouble):
    wanted = measured(repa, "--no-cache")
    trouble(here, monkeypatch)
    code, out, err = repa(*FID)
    assert code == 0
    assert err.count("warning: features are not kept") == 1
    assert "$REPA_CACHE can name another folder" in err and "--no-cache" not in err
    found = json.loads(out)["samples"]
    assert found == wanted
    repa("cache", "--clear")


def test_a_full_cache_is_still_read(repa, here, monkeypatch):
    measured(repa)
    np.savez("samples.npz", RANDOM.integers(0, 200, (11, 8, 8, 3), dtype=np.uint8))
    full(here, monkeypatch)
    passed = []
    run = Extraction.run

    def counting(self, rows, keep):
        passed.append((self.images.name, len(rows)))
        return run(self, rows, keep)

    monkeypatch.setattr(Extraction, "run", counting)
    measured(repa)
    assert passed == [("samples.npz", 11)]


def test_a_temporary_cache_is_removed(repa, here, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(here / "temporary"))
    (here / "temporary").mkdir()
    measured(repa, "--no-cache", "--bootstrap", 2)
    occupied(here, None)
    measured(repa, "--bootstrap", 2)
    assert list((here / "temporary").iterdir()) == []


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_results_that_find_no_room_are_one_line(here):
    with Path("/dev/full").open("w") as full_file:
        done = subprocess.run(
            [sys.executable, "-m", "repa_cli", "cache"],
            stdout=full_file,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert done.returncode == 1
    assert done.stderr == "repa: error: an output could not be written: No space left on device.\n"


def test_standard_errors_and_references_do_without_the_cache_too(repa, here):
    wanted = measured(repa, "--no-cache", "--bootstrap", 2)
    occupied(here, None)
    code, out, err = repa(*FID, "--bootstrap", 2)
    assert code == 0 and err.count("warning: features are not kept") == 1
    assert json.loads(out)["samples"] == wanted
    code, _, err = repa("stats", "real.npz", "--out", "r.npz", "--features", "efficientnet-lite0")
    assert code == 0 and err.count("warning: features are not kept") == 1
    assert np.load("r.npz")["arr_0"].shape == (12, 8, 8, 3)


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (("--bootstrap", "1"), 2, "--bootstrap"),
        (("--fd-infinity",), 1, "at least 10000 images, got 10"),
    ],
)
def test_options_that_cannot_be_met_are_one_line(repa, here, options, code, message):
    found, out, err = repa(*FID, *options)
    assert (found, out) == (code, "")
    assert message in err and "Traceback" not in err
