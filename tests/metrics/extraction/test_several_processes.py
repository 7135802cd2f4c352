"""Several processes give the numbers of one, and meet the same errors."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from stand_in import counted, stand_in
from worlds import run_world

from metrics import (
    FeatureCache,
    MetricSettings,
    Reference,
    evaluate,
    measure,
    open_images,
)
from repa_base.processes import Processes, own_rows
from repa_cli.app import main

RANDOM = np.random.default_rng(0)
SAMPLES = RANDOM.integers(0, 200, (45, 8, 8, 3), dtype=np.uint8)
REAL = RANDOM.integers(50, 256, (37, 8, 8, 3), dtype=np.uint8)

EVALUATE = """
import json, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from stand_in import counted
from metrics import FeatureCache, MetricSettings, Reference, evaluate, open_images
from repa_base.processes import joined_processes

cache, reference, *samples = sys.argv[2:]
network, sizes = counted()
outcomes = []
with joined_processes() as world:
    for path in samples:
        try:
            report = evaluate(
                open_images(path), Reference("r", open_images(reference)), network, batch_size=4,
                settings=MetricSettings(num_resamples=2, split_size=20),
                cache=FeatureCache(Path(cache)), processes=world)
            outcomes.append(report.to_dict())
        except ValueError as error:
            outcomes.append(repr(error))
print(json.dumps([outcomes, sizes]))
"""


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Samples and reference, and a folder with damage that only who decodes to the end can see."""
    folder = tmp_path_factory.mktemp("files")
    np.savez(folder / "samples.npz", SAMPLES)
    np.savez_compressed(folder / "real.npz", REAL)
    many = RANDOM.integers(0, 256, (600, 8, 8, 3), dtype=np.uint8)
    (folder / "damaged").mkdir()
    for number, image in enumerate(many):
        Image.fromarray(image).save(folder / "damaged" / f"{number:03}.png")
    content = bytearray((folder / "damaged" / "590.png").read_bytes())
    content[len(content) // 2] ^= 1
    (folder / "damaged" / "590.png").write_bytes(content)
    return folder


@pytest.fixture(scope="module")
def three(files):
    """What each of three processes finds of the good and of the damaged samples."""
    names = ("three", "real.npz", "samples.npz", "damaged")
    outcomes = run_world(
        3, "-c", EVALUATE, Path(__file__).parents[2], *(files / name for name in names)
    )
    assert [code for code, _, _ in outcomes] == [0, 0, 0], outcomes
    return [json.loads(out) for _, out, _ in outcomes]


def test_processes_give_the_numbers_of_one(files, three):
    network, _ = counted()
    one = FeatureCache(files / "one")
    report = evaluate(
        open_images(files / "samples.npz"),
        Reference("r", open_images(files / "real.npz")),
        network,
        batch_size=4,
        settings=MetricSettings(num_resamples=2, split_size=20),
        cache=one,
    )
    found = [outcomes[0] for outcomes, _ in three]
    assert found[0] == found[1] == found[2]
    for key in ("values", "standard_errors"):
        assert found[0][key] == pytest.approx(getattr(report, key), rel=1e-9)
    assert found[0]["findings"] == json.loads(json.dumps(report.findings.to_dict()))
    several = FeatureCache(files / "three")
    for name in ("samples.npz", "real.npz"):
        ours, theirs = (
            measure(open_images(files / name), network, cache=c) for c in (several, one)
        )
        np.testing.assert_array_equal(ours.pool_features, theirs.pool_features)
        np.testing.assert_array_equal(ours.probabilities, theirs.probabilities)


def test_every_process_measures_its_own_share_alone(three):
    counts = [sum(sizes) for _, sizes in three]
    shares = [[len(own_rows(Processes(rank, 3), n, 4)) for n in (37, 45, 600)] for rank in range(3)]
    assert counts[:2] == [sum(share) for share in shares[:2]]
    assert sum(shares[2][:2]) < counts[2] < sum(shares[2])


def test_an_error_at_one_process_is_raised_at_all(files, three):
    errors = [outcomes[1] for outcomes, _ in three]
    assert errors[0] == errors[1] == errors[2]
    assert errors[0].startswith("InputError") and "590.png" in errors[0]
    assert len(FeatureCache(files / "three").entries()) == 2


def test_processes_without_a_cache_in_common_are_refused(files):
    with pytest.raises(ValueError, match="3 processes need a cache"):
        measure(open_images(files / "real.npz"), stand_in(), processes=Processes(0, 3))


def test_command_in_two_processes_prints_once_the_numbers_of_one(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("REPA_CACHE", str(tmp_path / "cache"))
    np.savez("samples.npz", SAMPLES[:10])
    np.savez("real.npz", REAL[:9])
    options = ("fid", "samples.npz", "--ref", "real.npz", "--features", "efficientnet-lite0")
    options += ("--batch-size", "4", "--device", "cpu", "--no-cache", "--json")
    with pytest.raises(SystemExit):
        main(list(options))
    one = json.loads(capsys.readouterr().out)["samples"]
    first, second = run_world(2, "-m", "repa_cli", *options)
    assert (first[0], second) == (0, (0, "", ""))
    several = json.loads(first[1])["samples"]
    assert several["values"] == pytest.approx(one["values"], rel=1e-9)
    assert not (tmp_path / "cache").exists()


def test_command_in_two_processes_prints_an_error_once(tmp_path):
    options = ("fid", tmp_path / "none.npz", "--device", "cpu")
    first, second = run_world(2, "-m", "repa_cli", *options)
    assert (first[0], second) == (1, (1, "", ""))
    assert first[2].startswith(f"repa: error: {tmp_path / 'none.npz'}")


def test_an_error_that_the_first_process_alone_meets_ends_all_with_one_line(tmp_path):
    np.savez(tmp_path / "real.npz", REAL[:9])
    (tmp_path / "out.npz").touch()
    options = ("stats", tmp_path / "real.npz", "--features", "efficientnet-lite0")
    options += ("--device", "cpu", "--no-cache", "--out", tmp_path / "out.npz")
    first, second = run_world(2, "-m", "repa_cli", *options)
    assert (first[0], second) == (1, (1, "", ""))
    assert first[2].splitlines()[-1].startswith(f"repa: error: {tmp_path / 'out.npz'} exists")
