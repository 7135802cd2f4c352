"""The scripts that kill and damage runs: they find what they look for, and run."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def corruption(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import corruption

    return corruption


@pytest.fixture
def kills(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import kills

    return kills


def run(script, *arguments):
    """Run a script; return its exit code, its JSON and what it said."""
    command = [sys.executable, str(BENCHMARKS / script), *arguments, "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stdout, done.stderr
    return done.returncode, json.loads(done.stdout), done.stderr


@pytest.mark.parametrize("kind", ["flip", "digit", "cut", "zero", "fill", "lengthen"])
def test_every_damage_changes_the_bytes_and_repeats_with_its_seed(corruption, kind):
    contents = (b'{"step": 12}\n', b"\0" * 40 + b"\1" * 40 + b"7", bytes(range(256)))
    for content in contents:
        for seed in range(20):
            made = [corruption.damaged(content, kind, np.random.default_rng(seed)) for _ in "ab"]
            assert made[0] == made[1] != content
            longer = len(made[0]) - len(content)
            assert (longer > 0, longer < 0) == (kind == "lengthen", kind == "cut")


def test_what_cannot_be_damaged_in_a_way_is_left_out(corruption):
    random = np.random.default_rng(0)
    assert corruption.damaged(b"", "flip", random) is None
    assert corruption.damaged(b"\0\0", "zero", random) is None
    assert corruption.damaged(b"abc", "digit", random) is None


@pytest.mark.parametrize(
    ("code", "out", "err", "outcome"),
    [
        (0, b"right", "repa: warning: made anew.\n", "identical"),
        (0, b"wrong", "", "different"),
        (0, None, "", "different"),
        (1, None, "repa: error: out.npz.part is damaged.\n", "refused"),
        (1, b"wrong", "repa: error: out.npz.part is damaged.\n", "different"),
        (1, None, "repa: error: one\nrepa: error: two\n", "faults"),
        (1, None, "Traceback (most recent call last):\nValueError\n", "faults"),
        (1, None, "", "faults"),
        (3, None, "repa: error: odd\n", "faults"),
        (-11, None, "", "faults"),
    ],
)
def test_a_repetition_is_right_or_refused_in_one_line_or_bad(
    corruption, tmp_path, code, out, err, outcome
):
    state = corruption.State("sample", tmp_path, ("sample",), {"out.npz": b"right"}, [])
    if out is not None:
        (tmp_path / "out.npz").write_bytes(out)
    assert corruption.judge(state, tmp_path, code, "", err)[0] == outcome


def life_of(kills, monkeypatch, tmp_path, result, *, sizes, files=frozenset({"out.npz"})):
    """Compare a result with undisturbed ones, b"a" of one process and b"b" of two."""
    command = "fid" if isinstance(result, float) else "sample"
    wanted = (
        {1: {"x": 1.0}, 2: {"x": 2.0}} if command == "fid" else {1: {"x": b"a"}, 2: {"x": b"b"}}
    )

    class Known:
        results = wanted

    Known.command, Known.files = command, set(files)
    monkeypatch.setattr(kills.small_runs, "make_inputs", lambda folder, images: None)
    counts = kills.Counts()
    life = kills.Life(0, 0, Known, counts, None, tmp_path)
    (life.folder / "out.npz").touch()
    life.sizes = set(sizes)
    life.compare({"x": result})
    return {name for name, count in counts.total().items() if count}


def test_a_life_counts_as_identical_only_by_the_processes_that_took_part(
    kills, monkeypatch, tmp_path
):
    def outcomes(result, **how):
        return life_of(kills, monkeypatch, tmp_path, result, **how)

    assert outcomes(b"a", sizes=[1]) == outcomes(b"b", sizes=[1, 2]) == {"identical"}
    assert outcomes(b"b", sizes=[1]) == outcomes(b"c", sizes=[1, 2]) == {"different"}
    assert outcomes(1.0, sizes=[1]) == {"identical"}
    assert outcomes(1.0 + 1e-12, sizes=[1, 2]) == {"last digits"}
    assert outcomes(1.0 + 1e-12, sizes=[1]) == outcomes(1.1, sizes=[1, 2]) == {"different"}
    assert outcomes(b"a", sizes=[1], files=()) == {"identical", "leftovers"}
    assert outcomes(b"a", sizes=[1], files=("out.npz", "more")) == {"identical", "leftovers"}


def test_a_few_damaged_files_of_a_sampling_run_end_well():
    code, found, said = run("corruption.py", "--only", "sample", "--trials", "6")
    assert code == 0, said
    assert found["total"]["trials"] == len(found["trials"]) == 6
    names = {Path(t["file"]).name for t in found["trials"]}  # one may be in a hidden folder still
    assert names <= {"out.npz.part", "out.npz.progress"}
    assert {t["outcome"] for t in found["trials"]} <= {"identical", "refused"}


@pytest.mark.slow
def test_a_few_damaged_files_of_all_states_end_well():
    code, found, said = run("corruption.py", "--trials", "20")
    assert code == 0, said
    assert len({t["state"] for t in found["trials"]}) == 5


@pytest.mark.slow
@pytest.mark.parametrize("command", ["sample", "train", "train aligned", "fid", "stats"])
def test_a_few_kills_lose_nothing(command):
    code, found, said = run("kills.py", "--only", command, "--kills", "3")
    assert code == 0, said
    total = found["total"]
    assert total["kills"] == sum(row["kills"] for row in found["kills"]) >= 3
    assert total["lives"] == total["identical"] + total.get("last digits", 0) > 0
