"""`repa fid` on small files: what it finds by itself, prints, and refuses in one line."""

import functools
import hashlib
import io
import json
import struct
import subprocess
import sys
import urllib.error
import urllib.request
import zlib

import numpy as np
import pytest
import torch

from metrics import MetricNetwork, Reference, evaluate, load_network, open_images
from metrics.networks.weights import load_tensors, packaged_lite0_weights
from repa.data import load_digits
from repa.evaluation import references
from repa.registry import find_entry

COUNT = 24
LITE0 = "efficientnet-lite0"


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A working folder with an empty cache and no network; digits come from a fixed few."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("REPA_CACHE", str(tmp_path / "cache"))

    def unreachable(*arguments, **options):
        raise urllib.error.URLError("no network")

    monkeypatch.setattr(urllib.request, "urlopen", unreachable)
    # the built-in data set in the size of a test
    monkeypatch.setitem(
        references._BUILT_IN,
        "digits",
        lambda split, size: tuple(part[:COUNT] for part in load_digits(split, size)),
    )
    return tmp_path


@pytest.fixture
def repa(repa):
    """Run `repa fid`: exit code, stdout, stderr."""
    return functools.partial(repa, "fid")


def digits(count=COUNT, split="train"):
    return load_digits(split, 16)[0][100 : 100 + count]


def npz_bytes():
    with io.BytesIO() as file:
        np.savez(file, digits())
        return file.getvalue()


def save(path, images, **arrays):
    np.savez(path, images, **arrays)
    return path


def manifest(**settings):
    return np.array(json.dumps(settings))


def test_an_npz_with_a_manifest_needs_no_options(repa, here):
    save("samples.npz", digits(), manifest=manifest(dataset="digits"))
    code, out, err = repa("samples.npz")
    assert code == 0
    assert "the manifest's data set is digits" in err
    assert "digits-heldout" in out and "efficientnet-lite0" in out
    for label in ("FD-lite0", "sFD-lite0", "IS-lite0", "Precision-lite0", "Recall-lite0"):
        assert label in out
    assert "FID" not in out


def test_json_holds_the_numbers_of_the_package(repa, here):
    save("samples.npz", digits(), manifest=manifest(dataset="digits"))
    code, out, _ = repa("samples.npz", "--json", "--num", 10)
    assert code == 0
    found = json.loads(out)["samples"]
    real = load_digits("heldout", 16)[0][:COUNT]
    wanted = evaluate(
        open_images(digits(10)),
        Reference("digits-heldout", open_images(real)),
        load_network("efficientnet-lite0"),
    )
    assert found["values"] == pytest.approx(wanted.values, rel=1e-4)
    assert found["num_samples"] == 10
    assert found["settings"]["distances"] == "adm"
    assert found["compared_with"]["FD-lite0"] == f"{COUNT} images"


def test_baselines_are_as_many_images_and_bound_the_samples(repa, here):
    save("samples.npz", digits(12), manifest=manifest(dataset="digits"))
    code, out, _ = repa("samples.npz", "--baselines", "--json")
    assert code == 0
    found = json.loads(out)
    assert [report["num_samples"] for report in found.values()] == [12, 12, 12]
    distance = {name: report["values"]["FD-lite0"] for name, report in found.items()}
    assert max(distance["samples"], distance["real"]) < distance["noise"]


def test_without_real_images_baselines_say_so(repa, here):
    save("samples.npz", digits(6))
    save("reference.npz", digits(6, "heldout"))
    code, out, err = repa(
        "samples.npz", "--ref", "reference.npz", "--features", "efficientnet-lite0", "--baselines"
    )
    assert code == 0
    assert "noise only" in err
    assert "noise" in out


def test_a_folder_and_a_file_of_the_same_images_are_equal(repa, here):
    from PIL import Image

    (here / "folder").mkdir()
    for number, image in enumerate(digits(8)):
        Image.fromarray(image).save(here / "folder" / f"{number}.png")
    save("samples.npz", digits(8))
    options = ("--ref", "digits-heldout", "--json")
    values = [
        json.loads(repa(source, *options)[1])["samples"]["values"]
        for source in ("folder", "samples.npz")
    ]
    assert values[0] == values[1]


@pytest.mark.parametrize("dataset", [None, "mine", 3])
def test_images_of_unknown_data_ask_for_a_reference_and_never_take_adms(repa, here, dataset):
    made = {} if dataset is None else {"manifest": manifest(dataset=dataset)}
    save("samples.npz", np.zeros((8, 64, 64, 3), np.uint8), **made)
    code, out, err = repa("samples.npz")
    assert (code, out, err.count("\n")) == (1, "", 1)
    assert "name what to compare with by --ref" in err
    assert "ADM's batch of ImageNet in this size is called adm-imagenet-64" in err
    assert ("mine" in err) == (dataset == "mine")


def test_adms_batch_is_judged_against_by_its_name_and_cannot_be_had(repa, here):
    save("samples.npz", np.zeros((8, 64, 64, 3), np.uint8))
    code, out, err = repa("samples.npz", "--ref", "adm-imagenet-64")
    assert (code, out) == (1, "")
    assert "reference adm-imagenet-64, network inception: as asked" in err
    assert "VIRTUAL_imagenet64_labeled.npz" in err
    assert err.count("repa: error:") == 1


def test_inception_without_network_says_where_to_put_its_weights(repa, here):
    save("samples.npz", digits(6))
    code, _, err = repa("samples.npz", "--ref", "samples.npz")
    assert code == 1
    assert "weights-inception-2015-12-05-6726825d.pth" in err
    assert str(here / "cache") in err


def test_images_of_a_size_that_adm_has_not_get_no_name_of_its_batch(repa, here):
    save("samples.npz", digits(6))
    code, _, err = repa("samples.npz")
    assert code == 1
    assert "--ref" in err and "adm" not in err.lower()


def test_images_of_imagenet_are_still_judged_by_adms_batch(repa, here):
    save(
        "samples.npz",
        np.zeros((8, 256, 256, 3), np.uint8),
        manifest=manifest(dataset="imagenet-256"),
    )
    code, _, err = repa("samples.npz")
    assert code == 1
    assert "reference adm-imagenet-256, network inception: the manifest's data set is" in err
    assert "VIRTUAL_imagenet256_labeled.npz" in err


def _cut(path):
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


BAD_FILES = {
    "truncated": (lambda path: (save(path, digits()), _cut(path)), "bad.npz is an NPZ file that"),
    "not a zip": (lambda path: path.write_bytes(b"hello"), "bad.npz is no NPZ file"),
    "empty": (lambda path: path.write_bytes(b""), "bad.npz is empty"),
    "without arr_0": (lambda path: np.savez(path, x=digits()), "arr_0"),
    "float": (lambda path: save(path, digits() / 255), "uint8"),
    "NaN": (lambda path: save(path, np.full((8, 4, 4, 3), np.nan)), "NaN"),
    "rank": (lambda path: save(path, digits()[..., 0]), "(N, H, W, 3)"),
    "channels first": (lambda path: save(path, digits().transpose(0, 3, 1, 2)), "transpose"),
    "objects": (lambda path: save(path, np.array([{}], dtype=object)), "Python objects"),
    "too few": (lambda path: save(path, digits(3), manifest=manifest(dataset="digits")), "4"),
    "manifest": (lambda path: save(path, digits(), manifest=np.array("{")), "JSON"),
}


@pytest.mark.parametrize("kind", BAD_FILES)
def test_a_bad_file_is_one_line_and_exit_code_1(repa, here, kind):
    write, message = BAD_FILES[kind]
    write(here / "bad.npz")
    code, out, err = repa("bad.npz", "--ref", "digits-heldout")
    assert (code, out) == (1, "")
    errors = [line for line in err.splitlines() if line.startswith("repa: error:")]
    assert len(errors) == 1
    assert message in errors[0]
    assert "Traceback" not in err


def test_json_names_samples_reference_and_weights_by_their_hashes(repa, here):
    save("samples.npz", digits())
    save("real.npz", digits(20, "heldout"))
    network = ("--features", "efficientnet-lite0")
    code, out, err = repa("samples.npz", "--ref", "real.npz", *network, "--kid", "--json")
    assert code == 0, err
    found = json.loads(out)["samples"]
    for kind, file in (("samples", "samples.npz"), ("reference", "real.npz")):
        assert found[f"{kind}_sha256"] == hashlib.sha256((here / file).read_bytes()).hexdigest()
    assert found["weights_sha256"] == find_entry("networks", "efficientnet-lite0")["sha256"]
    assert found["reference_images"] == found["reference_count"] == len(digits(20, "heldout"))
    assert found["details"]["KD-lite0"]["mean"] == found["values"]["KD-lite0"]
    assert found["run"]["batch_size"] == 16 and found["run"]["versions"]["torch"]


def test_other_weights_than_the_registrys_are_warned_of(repa, here):
    save("samples.npz", digits())
    weights = load_tensors(packaged_lite0_weights())
    weights["_conv_stem.weight"] *= 1.5
    torch.save(weights, "other.pth")
    options = ("--ref", "digits-heldout", "--weights", "other.pth")
    code, _, err = repa("samples.npz", *options)
    assert code == 0, err
    assert "the weights of efficientnet-lite0 are not those that the registry names" in err
    assert "registry names" not in repa("samples.npz", *options[:2])[2]


def test_kid_against_statistics_alone_is_refused(repa, here):
    save("samples.npz", digits())
    np.savez("reference.npz", mu=np.zeros(1280), sigma=np.eye(1280))
    network = ("--features", "efficientnet-lite0")
    code, out, err = repa("samples.npz", "--ref", "reference.npz", *network, "--kid")
    assert (code, out) == (2, "") and "holds statistics alone" in err
    code, out, err = repa("samples.npz", "--ref", "reference.npz", *network)
    assert code == 0 and "FD-lite0" in out and "precision, recall" not in out


@pytest.mark.parametrize("given", [("samples.npz",), ("--num", "5"), ("--kid",)])
def test_what_has_no_effect_on_the_self_test_is_refused(repa, here, given):
    code, out, err = repa("--self-test", *given)
    assert (code, out) == (2, "") and "no effect with --self-test" in err


def test_a_picture_of_absurd_size_is_one_line(repa, here):
    (here / "folder").mkdir()
    header = b"IHDR" + struct.pack(">II5B", 20_000, 20_000, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))
    (here / "folder" / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + chunk)
    done = subprocess.run(
        [sys.executable, "-m", "repa_cli", "fid", "folder"], capture_output=True, text=True
    )
    assert done.returncode == 1
    assert done.stderr.startswith("repa: error: folder/a.png") and done.stderr.count("\n") == 1


def test_statistics_bring_their_network_and_refuse_others_before_weights_are_sought(repa, here):
    save("samples.npz", digits())
    parts = {"mu": np.zeros(1280), "sigma": np.eye(1280), "network": "efficientnet-lite0"}
    np.savez("reference.npz", **parts)
    code, out, err = repa("samples.npz", "--ref", "reference.npz")
    assert code == 0 and "FD-lite0" in out
    assert "network efficientnet-lite0: as asked; the network is that of the reference" in err
    for other in (("--features", "inception"), ("--resize", "clean")):
        code, out, err = repa("samples.npz", "--ref", "reference.npz", *other)
        assert (code, out) == (1, "")
        assert "holds statistics of efficientnet-lite0" in err
        assert "use --features efficientnet-lite0, or another" in err
    np.savez("clean.npz", **parts | {"network": "inception-clean"})
    code, _, err = repa("samples.npz", "--ref", "clean.npz")
    assert code == 1 and "use --features inception --resize clean, or another" in err
    np.savez("older.npz", **parts | {"network": "efficientnet-lite0-clean"})
    code, _, err = repa("samples.npz", "--ref", "older.npz")
    assert code == 1 and "not of efficientnet-lite0; use another reference" in err


@pytest.mark.parametrize("network", ["efficientnet-lite0", "dinov2"])
@pytest.mark.parametrize("command", ["fid", "stats"])
def test_clean_fids_resize_of_other_networks_is_mistyped(repa, here, command, network):
    save("samples.npz", digits())
    rest = ("--ref", "digits-heldout") if command == "fid" else ("--out", "r.npz")
    options = ("samples.npz", *rest, "--features", network, "--resize", "clean")
    code, out, err = repa.func(command, *options)
    assert (code, out) == (2, "")
    assert "--resize" in err and f"for inception; {network} has only its own" in err


def test_damage_inside_the_file_is_found_before_any_image_is_measured(repa, here, monkeypatch):
    def fail(*arguments):
        raise AssertionError("an image was measured")

    monkeypatch.setattr(MetricNetwork, "__call__", fail)
    for write in (np.savez, np.savez_compressed):
        for option in ((), ("--no-cache",)):
            # beyond the 64 KB in which a header is looked for
            write("bad.npz", np.random.default_rng(0).integers(0, 256, (40, 64, 64, 3), np.uint8))
            content = bytearray((here / "bad.npz").read_bytes())
            content[len(content) * 3 // 4] ^= 1
            (here / "bad.npz").write_bytes(content)
            code, out, err = repa("bad.npz", "--ref", "bad.npz", "--features", LITE0, *option)
            assert (code, out) == (1, "") and "error: bad.npz is not a readable NPZ" in err


@pytest.mark.parametrize(
    ("name", "write", "message"),
    [
        ("text.pth", lambda path: path.write_text("hello"), "is not a readable weights file"),
        ("empty.pth", lambda path: path.write_bytes(b""), "is not a readable weights file"),
        ("images.pth", lambda path: path.write_bytes(npz_bytes()), "is not a readable weights"),
        ("other.pth", lambda path: torch.save({"a": torch.zeros(1)}, path), "These are not"),
    ],
)
@pytest.mark.parametrize("network", ["efficientnet-lite0", "inception"])
def test_wrong_weights_are_one_short_line(repa, here, name, write, message, network):
    save("samples.npz", digits())
    write(here / name)
    options = ("--ref", "samples.npz", "--features", network, "--weights", name)
    code, out, err = repa("samples.npz", *options)
    (line,) = (line for line in err.splitlines() if line.startswith("repa: error:"))
    assert (code, out) == (1, "")
    assert line.startswith(f"repa: error: {name}") and message in line and len(line) < 200


def test_built_in_references_are_not_enlarged_without_bound(repa, here):
    save("large.npz", np.zeros((5, 257, 257, 3), np.uint8))
    code, out, err = repa("large.npz", "--ref", "digits-heldout")
    assert (code, out) == (1, "") and "256 pixels at most, not with 257 x 257" in err


def test_a_missing_file_is_one_line(repa, here):
    code, out, err = repa("none.npz")
    assert (code, out) == (1, "")
    assert err.startswith("repa: error: none.npz")


def test_statistics_of_another_network_are_refused(repa, here):
    save("samples.npz", digits())
    np.savez("reference.npz", mu=np.zeros(2048), sigma=np.eye(2048))
    code, _, err = repa("samples.npz", "--ref", "reference.npz", "--features", "efficientnet-lite0")
    assert code == 1
    assert "2048 pooled features; efficientnet-lite0 has 1280" in err


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (("--features", "inceptoin"), 2, "did you mean 'inception'"),
        (("--distances", "exakt"), 2, "did you mean 'exact'"),
        (("--ref", "digits-heldoud"), 2, "did you mean 'digits-heldout'"),
        (("--weights", "none.pth"), 2, "none.pth"),
        (("--num", "1"), 2, "--num"),
        (("--num", "99", "--ref", "digits-heldout"), 1, "99 were asked for"),
        (("--batch-size", "0"), 2, "--batch-size"),
        (("--device", "gpu"), 2, "gpu"),
    ],
)
def test_a_bad_option_is_one_line_with_the_closest_match(repa, here, options, code, message):
    save("samples.npz", digits())
    found, out, err = repa("samples.npz", "--ref", "digits-heldout", *options)
    assert (found, out) == (code, "")
    assert message in err
    assert "Traceback" not in err
