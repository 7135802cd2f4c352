import importlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch

import repa.evaluation.self_test as self_test
from repa.registry import find_entry
from repa_cli.app import main

RECORDED = Path(self_test.__file__).parent / "recorded" / "self_test.npz"


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("REPA_CACHE", str(tmp_path))
    return tmp_path


@pytest.fixture(scope="module")
def seeded(tmp_path_factory):
    """Weights of the recording, in a file."""
    path = tmp_path_factory.mktemp("weights") / "seeded.pth"
    torch.save(self_test._seeded_weights(self_test._load_recorded()[1]["inception"]), path)
    return path


@pytest.fixture
def no_network(monkeypatch):
    """Leave out the checks of Inception, which take seconds."""
    monkeypatch.setattr(self_test, "_check_network", lambda *arguments: iter(()))


def failed(checks):
    return {check.name for check in checks if check.passed is False}


def test_recorded_values_are_those_of_the_goldens(golden):
    recorded, meta = self_test._load_recorded()
    for key, array in recorded.items():
        name, _, rest = key.partition("/")
        expected = golden(name)[0][rest]
        np.testing.assert_array_equal(array, expected[: len(array)] if array.ndim else expected)
    recipe = golden("inception_a")[1]
    assert meta["inception"] == {name: recipe[name] for name in meta["inception"]}


def test_seeded_weights_are_those_of_the_recording(golden):
    import hashlib

    meta = golden("inception_a")[1]
    digest = hashlib.sha256()
    for name, tensor in self_test._seeded_weights(meta).items():
        if not name.endswith("num_batches_tracked"):
            digest.update(tensor.numpy().tobytes())
    key = "weights_sha256_float32_in_state_dict_order_without_num_batches_tracked"
    assert digest.hexdigest() == meta[key]


def test_this_installation_passes_and_says_what_it_could_not_run(cache):
    checks = list(self_test.run_self_test())
    assert failed(checks) == set()
    not_run = [check for check in checks if check.passed is None]
    assert [check.name for check in not_run] == [
        "adm-guided-upsampled-imagenet-256",
        "adm-guided-imagenet-128",
    ]
    for check in not_run:
        assert str(cache) in check.missing and "inception-2015-12-05-6726825d.pth" in check.missing


def test_a_wrong_constant_is_caught(monkeypatch, no_network):
    # then every block is trusted to hold in float16, and those that overflow spoil the manifolds
    module = importlib.import_module("metrics.formulas.precision_recall")
    monkeypatch.setattr(module, "_HALF_SAFE", float("inf"))
    names = failed(self_test.run_self_test())
    assert "share of float16 radii, adm, mixed_blocks" in names
    assert all("adm, mixed_blocks" in name for name in names)


def test_a_network_with_another_preprocessing_fails(monkeypatch):
    from metrics.networks import inception

    def rounded(images, size=299):
        return resize(images, size).round()

    resize = inception.resize_like_tensorflow
    monkeypatch.setattr(inception, "resize_like_tensorflow", rounded)
    recorded, meta = self_test._load_recorded()
    checks = list(self_test._check_network(recorded, meta["inception"], "cpu"))
    assert "Inception, pooled features: largest error" in failed(checks)


def test_exact_distances_where_adms_are_claimed_fail(monkeypatch, no_network):
    from metrics.formulas.precision_recall import manifold_radii

    def always_exact(features, *, distances, block_size):
        return manifold_radii(features, block_size=block_size)

    monkeypatch.setattr(self_test.metrics, "manifold_radii", always_exact)
    assert failed(self_test.run_self_test()) == {"share of float16 radii, adm, mixed_blocks"}


def test_published_files_in_the_cache_are_measured(monkeypatch, cache, seeded, no_network):
    entry = find_entry("samples", "adm-guided-imagenet-128")
    reference = find_entry("references", entry["reference"])
    images = np.random.default_rng(0).integers(0, 256, (5, 8, 8, 3), dtype=np.uint8)
    for folder, file in (("samples", entry["file"]), ("references", reference["file"])):
        (cache / folder).mkdir()
        np.savez(cache / folder / file, images)
    checks = {c.name: c for c in self_test.run_self_test(seeded) if "128" in c.name}
    published = {"FID": 2.97328, "sFID": 5.09456, "IS": 141.4767, "Precision": 0.78138}
    for label, value in (published | {"Recall": 0.5929}).items():
        check = checks[f"{label}, adm-guided-imagenet-128"]
        assert np.isclose(check.recorded, value, rtol=1e-5) and check.measured is not None
    # five images against themselves are as near as can be, and so far from what is published
    assert abs(checks["FID, adm-guided-imagenet-128"].measured) < 1e-6
    assert checks["FID, adm-guided-imagenet-128"].passed is False


def run(capsys, *arguments):
    with pytest.raises(SystemExit) as caught:
        main(["fid", *arguments])
    output = capsys.readouterr()
    return caught.value.code, output.out, output.err


def test_command_prints_a_certificate_without_samples(capsys, no_network):
    code, out, err = run(capsys, "--self-test", "--device", "cpu")
    assert (code, err) == (0, "")
    assert "Fréchet distance, low_rank" in out and "pass" in out and "FAIL" not in out
    assert "not run: adm-guided-imagenet-128: not in the cache" in out
    assert "2 not run" in out and f"torch {torch.__version__}" in out


def test_command_exits_with_1_when_a_value_is_out_of_tolerance(capsys, monkeypatch, no_network):
    monkeypatch.setattr(self_test.metrics, "frechet_distance", lambda a, b: 0.0)
    code, out, _ = run(capsys, "--self-test", "--json", "--device", "cpu")
    certificate = json.loads(out)
    assert code == 1 and certificate["passed"] is False
    by_name = {check["name"]: check for check in certificate["checks"]}
    assert by_name["Fréchet distance, low_rank"]["passed"] is False
    assert by_name["Inception Score, single_split"]["passed"] is True
    code, out, _ = run(capsys, "--self-test", "--device", "cpu")
    assert code == 1 and "FAIL" in out


def test_command_without_samples_says_so(capsys):
    code, out, err = run(capsys)
    assert (code, out) == (2, "") and "SAMPLES" in err and len(err.splitlines()) == 1


def test_recorded_values_are_small_and_travel_with_the_package():
    assert RECORDED.stat().st_size < 1 << 20
    assert "!repa/evaluation/recorded/*.npz" in (RECORDED.parents[3] / ".gitignore").read_text()
