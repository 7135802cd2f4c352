"""The study of whether alignment helps: what it chooses, what it concludes, and that it runs."""

import json
import sys
from pathlib import Path

import pytest
from pictures import class_folders, draw, noise

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def evidence(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import evidence

    return evidence


def test_the_best_values_of_the_two_best_factors_are_chosen(evidence):
    scores = dict.fromkeys(
        ("base", "coefficient-0", "coefficient-1", "block-0", "block-1", "spatial-0", "until-0"),
        5.0,
    )
    assert evidence.best_two(scores) == {}
    assert evidence.best_two({**scores, "block-1": 4.0}) == {"encoder_depth": 5}
    scores |= {"coefficient-0": 4.5, "coefficient-1": 4.2, "block-0": 4.9, "until-0": 3.0}
    assert evidence.best_two(scores) == {"align_until": 150, "alignment_weight": 1.0}


def test_plain_steps_to_a_distance_lie_between_looks_on_straight_lines_of_logarithms(evidence):
    rows = [
        {"step": step, f"plain {evidence.METRIC}": (value, 0.0)}
        for step, value in ((100, 400.0), (400, 100.0), (1600, 50.0))
    ]
    assert evidence.steps_of_plain(rows, 200.0) == pytest.approx(200)
    assert evidence.steps_of_plain(rows, 100.0) == pytest.approx(400)
    assert evidence.steps_of_plain(rows, 50 * 2**0.5) == pytest.approx(800)
    assert evidence.steps_of_plain(rows, 49.0) is None
    assert evidence.steps_of_plain(rows, 401.0) is None
    assert evidence.steps_of_plain(rows, 400.0) == 100


def test_the_spread_is_that_of_a_sample(evidence):
    assert evidence.mean_and_spread([1.0, 3.0]) == (2.0, pytest.approx(2**0.5))
    assert evidence.mean_and_spread([4.0]) == (4.0, 0.0)


def test_a_package_is_sorted_into_categories_with_all_its_forms(evidence, tmp_path):
    listed = [
        {
            "image": "a.png",
            "category": "People & Body",
            "has_img_twitter": True,
            "skin_variations": {
                "x": {"image": "b.png", "has_img_twitter": True},
                "y": {"image": "c.png", "has_img_twitter": False},
            },
        },
        {"image": "d.png", "category": "Flags", "has_img_twitter": True},
    ]
    (tmp_path / "package").mkdir()
    (tmp_path / "package/emoji.json").write_text(json.dumps(listed))
    for name in "abcd":
        draw(tmp_path / f"package/img/twitter/64/{name}.png", noise(1))
    for _ in range(2):
        evidence.arrange(tmp_path / "package", tmp_path / "out")
    found = sorted(p.relative_to(tmp_path / "out").as_posix() for p in tmp_path.rglob("out/*/*"))
    assert found == ["Flags/d.png", "People-and-Body/a.png", "People-and-Body/b.png"]


@pytest.mark.slow
def test_a_tiny_study_ends_with_a_table_and_goes_on_where_it_was_stopped(
    evidence, tmp_path, monkeypatch, capsys
):
    monkeypatch.setenv("REPA_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(evidence, "CANDIDATES", {"coefficient": [{"alignment_weight": 0.1}]})
    base = evidence.Study.base
    monkeypatch.setattr(
        evidence.Study,
        "base",
        lambda self, seed, **c: base(self, seed, **{"encoder_depth": 1, **c}),
    )
    class_folders(tmp_path / "pictures", each=20)
    typed = ["--pictures", str(tmp_path / "pictures"), "--out", str(tmp_path / "out")]
    typed += ["--model", "SiT-Pico/8", "--looks", "1", "2", "--factor-looks", "1"]
    typed += ["--seeds", "2", "--samples", "8", "--batch-size", "4", "--workers", "1"]
    assert evidence.main([*typed, "--minutes", "0"]) == 1
    assert evidence.main(typed) == 0
    rows = json.loads((tmp_path / "out/results.json").read_text())["rows"]
    assert [row["step"] for row in rows] == [1, 2]
    assert all(row[f"{arm} held_out"][0] > 0 for row in rows for arm in ("plain", "repa"))
    shown = capsys.readouterr().out
    assert "| 2 | " in shown and "FD-lite0 of step 2" in shown
    before = (tmp_path / "out/runs/repa-2/looks.json").read_text()
    assert evidence.main(typed) == 0  # nothing is done again
    assert (tmp_path / "out/runs/repa-2/looks.json").read_text() == before
    plain = json.loads((tmp_path / "out/runs/plain-1/config.json").read_text())
    assert plain["alignment"]["encoder"] == "none" and plain["run"]["seed"] == 1
    assert sys.modules["evidence"] is evidence
