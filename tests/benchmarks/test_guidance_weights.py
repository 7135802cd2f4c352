"""The sweep of guidance: its settings are protocols, it goes on, another guide is another row."""

import json
from dataclasses import fields, replace
from pathlib import Path

import pytest

from repa.generation import Protocol
from repa.generation.solvers import FAST

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def sweep(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import guidance

    return guidance


@pytest.fixture
def asked(sweep, monkeypatch):
    """The settings of all images that were made, none of which is made."""
    found = []

    def judged(**settings):
        found.append(settings)
        return {"rows": 22, "FD-lite0": 1.0}

    monkeypatch.setattr(sweep, "judged_images", judged)
    monkeypatch.setattr(sweep, "hash_of", lambda guide: f"hash of {guide}")
    return found


def test_weight_one_is_measured_once_and_all_else_by_a_protocol_of_its_own(sweep, asked, tmp_path):
    rows = sweep.Rows(tmp_path / "rows.jsonl")
    sweep.measure(rows, sweep.settings_of_the_sweep(sweep.KINDS), guide="worse", count=200)
    known = {field.name for field in fields(Protocol)}
    protocols = [(Protocol(**{k: v for k, v in a.items() if k in known}), a) for a in asked]
    assert [p.cfg_scale for p, _ in protocols].count(1) == 1
    assert len(protocols) == 1 + 4 * 4 * 2
    fast = replace(Protocol(**FAST), order=2)  # which is the default
    plain = {"cfg_scale": 1.8, "guidance_interval": (0.0, 0.7), "guidance": "cfg"}
    assert {replace(protocol, **plain) for protocol, _ in protocols} == {fast}
    found = {
        (p.guidance if "guide" not in a else "auto", p.cfg_scale, p.guidance_interval)
        for p, a in protocols
        if p.cfg_scale > 1
    }
    assert len(found) == 4 * 4 * 2
    assert {a["guide"] for _, a in protocols if "guide" in a} == {"worse"}


def test_a_stopped_sweep_goes_on_and_another_guide_is_measured_anew(sweep, asked, tmp_path):
    path, settings = tmp_path / "rows.jsonl", [("none", 1.0, None), ("autoguidance", 2.0, (0, 1))]
    sweep.measure(sweep.Rows(path), settings, guide="worse", until=float("-inf"))
    assert asked == []
    sweep.measure(sweep.Rows(path), settings, guide="worse")
    sweep.measure(sweep.Rows(path), settings, guide="worse")
    assert len(asked) == 2
    sweep.measure(sweep.Rows(path), settings, guide="worst")
    assert [a.get("guide") for a in asked] == [None, "worse", "worst"]
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert [row.get("guide") for row in rows] == [None, "hash of worse", "hash of worst"]
