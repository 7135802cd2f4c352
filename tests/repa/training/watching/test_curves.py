"""Curves of runs: what is read of their logs, and what is drawn of it."""

import json
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from tiny_run import TINY

import repa.training.watching.curves as curves
from repa.errors import MissingPackageError, OutputExistsError, RepaError, SettingError
from repa.sheets.curves import _means
from repa.training.run.folder import record_settings
from repa.training.watching.curves import plot_runs, read_curves


def made_run(out, entries, **changes):
    config = replace(TINY, **changes)
    out.mkdir(parents=True)
    record_settings(out, config, before=None, step=0, skip=())
    (out / "log.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    return out


def step(number, **values):
    return {"step": number, "loss": 1.0, "velocity": 1 / number, "alignment": 0.0, **values}


ENTRIES = [
    step(1, gradient_norm=2.0),
    step(2),
    {"step": 2, "held_out": 0.7, "held_out_average": 0.9, "trained_on": 0.6},
    step(3),
    step(4, velocity=float("nan")),
    {"step": 4, "held_out": 0.8, "held_out_average": 0.9, "trained_on": 0.5},
    {"step": 4, "metrics": {"FD-lite0": 99.0, "recall": 0.5}, "metrics_of": 12},
]


def test_losses_fixed_losses_and_metrics_are_read_each_at_its_steps(tmp_path):
    run = read_curves(made_run(tmp_path / "a", ENTRIES), "a")
    assert (run.name, run.batch_size) == ("a", 8)
    assert [list(points) for points in run.losses["velocity"]] == [[1, 2, 3], [1, 1 / 2, 1 / 3]]
    assert "alignment" not in run.losses  # that of plain SiT is 0 throughout
    held, known = run.fixed["velocity"]["held out"], run.fixed["velocity"]["trained on"]
    assert [list(points) for points in held] == [[2, 4], [0.7, 0.8]]
    assert [list(points) for points in known] == [[2, 4], [0.6, 0.5]]
    assert {name: v[1].tolist() for name, v in run.metrics.items()} == {
        "FD-lite0": [99.0],
        "recall": [0.5],
    }


def test_steps_without_alignment_have_no_alignment_loss(tmp_path):
    # As those after `align_until`, where the log says 0.
    aligned = [step(1, alignment=-0.2), step(2, alignment=-0.2), step(3), step(4)]
    run = read_curves(made_run(tmp_path / "a", aligned), "a")
    assert [list(points) for points in run.losses["alignment"]] == [[1, 2], [-0.2, -0.2]]
    assert run.losses["velocity"][0].tolist() == [1, 2, 3, 4]


@pytest.mark.parametrize(
    "line",
    [
        "[" * 100_000,
        '{"step": 5, "velocity": ' + "9" * 5000 + "}",
        '{"step": 5, "velocity": ' + "9" * 400 + "}",
        '{"step": 9223372036854775808, "velocity": 1.0}',
        '{"step": 9223372036854775807, "velocity": NaN}',
    ],
    ids=["deep", "digits", "value", "step", "nan"],
)
def test_numbers_and_texts_that_no_run_writes_are_passed_over(tmp_path, line):
    out = made_run(tmp_path / "a", ENTRIES)
    with (out / "log.jsonl").open("a") as log:
        log.write(f"{line}\n")
    assert read_curves(out, "a").losses["velocity"][0].tolist() == [1, 2, 3]


def test_what_a_kill_left_of_a_line_is_passed_over(tmp_path):
    out = made_run(tmp_path / "a", ENTRIES)
    with (out / "log.jsonl").open("a") as log:
        log.write('[1, 2]\n{"step": "x"}\n{"step": 5, "velo')
    assert read_curves(out, "a").losses["velocity"][0].tolist() == [1, 2, 3]


def test_a_mean_stands_at_the_middle_of_its_window():
    x, means = _means(np.arange(100.0), 3 * np.arange(100.0))
    assert len(x) == 96 and x[0] == 2 and np.allclose(means, 3 * x)


def test_several_runs_are_drawn_over_steps_and_over_images(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(curves, "save_curves", lambda runs, path: drawn.append(runs) or [])
    plain = made_run(tmp_path / "x/run", ENTRIES)
    aligned = made_run(tmp_path / "y/run", [step(1, alignment=-0.2), step(2, alignment=-0.4)])
    other = made_run(tmp_path / "z", [step(1)], batch_size=16)
    plot_runs([plain, aligned, other], tmp_path / "c.png")
    assert [run.name for run in drawn[0]] == [str(plain), str(aligned), "z"]
    assert [run.batch_size for run in drawn[0]] == [8, 8, 16]


def test_the_picture_has_a_panel_for_each_loss_and_metric_twice(tmp_path):
    runs = [
        made_run(tmp_path / "plain", ENTRIES),
        made_run(tmp_path / "aligned", [step(1, alignment=-0.2), step(2, alignment=-0.4)]),
    ]
    panels = plot_runs(runs, tmp_path / "c.png")
    assert panels == ["velocity loss", "alignment loss", "FD-lite0", "recall"]
    with Image.open(tmp_path / "c.png") as picture:
        assert picture.width > 1000 and picture.convert("L").getextrema() == (0, 255)
        colours = {colour for _, colour in picture.convert("RGB").getcolors(1 << 24)}
    assert {(0, 114, 178), (213, 94, 0)} <= colours  # a colour a run
    with pytest.raises(OutputExistsError, match="--overwrite"):
        plot_runs(runs, tmp_path / "c.png")
    assert plot_runs(runs[1:], tmp_path / "c.png", overwrite=True) == panels[:2]


@pytest.fixture
def figures(monkeypatch):
    """The figures that are saved."""
    from matplotlib.figure import Figure

    saved, save = [], Figure.savefig
    monkeypatch.setattr(
        Figure, "savefig", lambda self, *a, **k: saved.append(self) or save(self, *a, **k)
    )
    return saved


def test_panels_fill_rows_evenly_and_no_empty_one_is_drawn(tmp_path, figures):
    labels = dict.fromkeys(("FD", "precision", "recall"), 1.0)
    entries = [step(1, alignment=-0.2), {"step": 1, "metrics": labels}]
    assert len(plot_runs([made_run(tmp_path / "a", entries)], tmp_path / "c.png")) == 5
    (figure,) = figures
    shown = [axis.get_title() for axis in figure.axes if axis.axison]
    assert len(figure.axes) == 12 and len(shown) == 10 and all(shown)
    assert shown[:5] == shown[5:]


def test_the_second_half_is_over_images_seen(tmp_path, figures):
    runs = [
        made_run(tmp_path / "a", ENTRIES),
        made_run(tmp_path / "b", [step(1), step(2)], batch_size=16),
    ]
    plot_runs(runs, tmp_path / "c.png")
    steps, images = (
        [line.get_xdata().tolist() for line in axis.lines]
        for axis in figures[0].axes
        if axis.get_title() == "velocity loss"
    )
    assert steps == [[1, 2, 3], [2, 4], [2, 4], [1, 2]]
    assert images == [[8, 16, 24], [16, 32], [16, 32], [16, 32]]


def test_the_legend_names_runs_by_their_colours_and_lines_by_what_they_are_of(tmp_path, figures):
    from matplotlib.colors import to_hex

    watched, plain = made_run(tmp_path / "a", ENTRIES), made_run(tmp_path / "b", [step(1), step(2)])
    same = made_run(tmp_path / "other/b", [step(1), step(2)])
    plot_runs([watched, plain, same], tmp_path / "c.png")
    plot_runs([plain], tmp_path / "d.png")
    (many,), (one,) = (figure.legends for figure in figures)
    texts = [text.get_text() for text in many.get_texts()]
    lines = ["batches, mean of neighbours", "held-out images", "images trained on"]
    assert texts == ["a", str(plain), str(same), *lines]
    drawn = [to_hex(line.get_color()) for line in figures[0].axes[0].lines]
    named = [to_hex(line.get_color()) for line in many.get_lines()]
    assert list(dict.fromkeys(drawn)) == named[:3] and len(set(named[:3])) == 3
    styles = [line.get_linestyle() for line in many.get_lines()]
    assert styles == ["-", "-", "-", "-", "--", ":"]
    assert [text.get_text() for text in one.get_texts()] == ["b"]


def test_each_of_many_runs_has_a_colour_of_its_own(tmp_path, figures):
    from matplotlib.colors import to_hex

    runs = [made_run(tmp_path / f"{n}", [step(1), step(2)]) for n in range(15)]
    plot_runs(runs, tmp_path / "c.png")
    named, drawn = (
        [to_hex(line.get_color()) for line in lines]
        for lines in (figures[0].legends[0].get_lines(), figures[0].axes[0].lines)
    )
    assert named == drawn and len(set(named)) == 15


def test_what_is_no_run_is_named(tmp_path):
    (tmp_path / "folder").mkdir()
    with pytest.raises(RepaError, match=r"folder holds no run \(no config"):
        plot_runs([tmp_path / "folder"], tmp_path / "c.png")
    with pytest.raises(RepaError, match=r"none holds no run \(no such folder"):
        plot_runs([tmp_path / "none"], tmp_path / "c.png")
    empty = made_run(tmp_path / "empty", [])
    with pytest.raises(RepaError, match="has no losses yet"):
        plot_runs([empty], tmp_path / "c.png")
    with pytest.raises(SettingError, match=r"must end in \.png"):
        plot_runs([empty], tmp_path / "c.jpg")
    assert not (tmp_path / "c.png").exists()


def test_without_matplotlib_the_message_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "matplotlib", None)
    with pytest.raises(MissingPackageError, match=r"repa-toolkit\[demo\]"):
        plot_runs([made_run(tmp_path / "a", ENTRIES)], tmp_path / "c.png")
