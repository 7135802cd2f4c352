"""The sweep of solvers: its mixtures are what they say, and a stopped run goes on."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def sweep(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import solvers

    return solvers


@pytest.fixture
def known(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import gaussian_mixtures

    return gaussian_mixtures


@pytest.mark.parametrize("t", [1.0, 0.4, 0.03])
@pytest.mark.parametrize("classes", [1, 2, 4])
def test_expected_data_are_bayes_rule_s(known, t, classes):
    variance = (1 - t) ** 2 * known.WITHIN + t**2
    noise = torch.randn(5, 24, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    x = (1 - t) * known.MEANS[0] + variance.sqrt() * noise
    total = torch.zeros(5, 1, dtype=torch.float64)
    by_hand = torch.zeros_like(x)
    for mean in known.MEANS[:classes]:
        off = x - (1 - t) * mean
        likely = (-(off**2) / variance / 2).sum(1, keepdim=True).exp()
        total += likely
        by_hand += likely * (mean + (1 - t) * known.WITHIN / variance * off)
    torch.testing.assert_close(known.expected(x, t, classes), by_hand / total)


def test_frechet_distance_is_that_of_commuting_covariances(known):
    one = torch.zeros(24, dtype=torch.float64), torch.eye(24, dtype=torch.float64)
    other = torch.full((24,), 0.5, dtype=torch.float64), 4 * torch.eye(24, dtype=torch.float64)
    assert known.frechet(one, other) == pytest.approx(24 * (0.25 + 1))
    units = torch.full((24,), 2.0, dtype=torch.float64)
    assert known.frechet(one, other, units) == pytest.approx(24 * (0.25 + 1) / 4)


def test_samples_of_many_steps_have_the_exact_moments(sweep, known):
    setting = sweep.Setting("ab4", "karras", 60)
    x, asked = sweep.solved(setting, (1.0, 0.0, 1.0), 0, 4000, known.velocity(1.0), 24)
    assert asked == 60
    # Of 4,000 exact samples the distance is 0.001 by itself.
    assert known.frechet(known.moments(x), known.exact_moments()) < 0.005


@pytest.mark.parametrize("process", ["ode", "sde", "dpm++sde"])
def test_limits_keep_the_narrow_directions_too(sweep, known, process):
    x = sweep.limit(process, (1.0, 0.0, 1.0), 1000, 1000)
    # Of 1,000 exact samples the distance is 0.06 by itself; a last step to the expected data from
    # 0.01 of noise adds 0.23.
    assert known.frechet(known.moments(x), known.exact_moments(), known.SPECTRUM) < 0.1


def test_limits_have_a_time_at_the_ends_of_the_guidance_interval(sweep, monkeypatch):
    asked = []
    monkeypatch.setattr(sweep, "solved", lambda setting, *_: (asked.append(setting), None))
    sweep.limit("sde", (2.0, 0.1, 0.7), 0, 1)
    assert {0.1, 0.7} < set(asked[0].times) and asked[0].evaluations == 400


def test_settings_are_protocols_and_each_is_measured_once(sweep):
    from repa.generation import Protocol

    settings = list(sweep.settings_of_the_sweep())
    assert len(set(settings)) == len(settings)
    for setting in settings:
        Protocol(**setting.protocol)
    assert sweep.Setting("heun", "published", 25).protocol["num_steps"] == 13


def test_rows_on_disk_are_not_measured_again(sweep, tmp_path):
    rows = sweep.Rows(tmp_path / "rows.jsonl")
    rows.add({"solver": "sa 2", "seed": 0, "fd": 1.0})
    again = sweep.Rows(tmp_path / "rows.jsonl")
    assert again.has(solver="sa 2", seed=0) and not again.has(solver="sa 2", seed=1)
    assert again.rows[0]["fd"] == 1.0 and again.rows[0]["load"] >= 0


def test_a_row_that_a_kill_cut_short_is_left_out_and_made_again(sweep, tmp_path):
    path = tmp_path / "rows.jsonl"
    rows = sweep.Rows(path)
    rows.add({"seed": 0})
    rows.add({"seed": 1})
    whole = path.read_text()
    last = whole.index("\n") + 1
    for length in (last, last + 1, len(whole) - 2):
        path.write_text(whole[:length])
        again = sweep.Rows(path)
        assert again.has(seed=0) and not again.has(seed=1)
        again.add({"seed": 1})
        assert [row["seed"] for row in sweep.Rows(path).rows] == [0, 1]
    path.write_text(whole[:-1])  # all but the end of its line
    sweep.Rows(path).add({"seed": 2})
    assert [row["seed"] for row in sweep.Rows(path).rows] == [0, 1, 2]


def test_images_of_a_row_are_kept_when_time_is_up_and_gone_on_with(sweep, tmp_path, monkeypatch):
    report = SimpleNamespace(values={"FD-lite0": 9.0}, standard_errors={"FD-lite0": 0.5})
    judged = []

    def judge(path, **options):
        judged.append(len(np.load(path)["arr_0"]))
        return SimpleNamespace(reports={"samples": report})

    monkeypatch.setattr("repa.evaluation.evaluate.evaluate_file", judge)
    keep = tmp_path / "made" / "samples.npz"
    asked = {"num_images": 4, "batch_size": 2, "solver": "heun", "num_steps": 2, "seed": 3}
    assert sweep.judged_images(keep=keep, until=float("-inf"), **asked) is None
    assert [path.suffix for path in sorted(keep.parent.iterdir())] == [".part", ".progress"]
    row = sweep.judged_images(keep=keep, **asked)
    assert row["seconds"] >= 0 and judged == [4]
    assert {**row, "seconds": 0} == {
        "rows": 4,
        "seconds": 0,
        "FD-lite0": 9.0,
        "FD-lite0 error": 0.5,
    }
    written = keep.stat().st_mtime_ns
    assert sweep.judged_images(keep=keep, **asked) and keep.stat().st_mtime_ns == written
