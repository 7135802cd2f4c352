"""Tables and plots of the sweeps: numbers by hand, and a picture for each file of rows."""

import json
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
METRICS = ("FD-lite0", "Precision-lite0", "Recall-lite0")


@pytest.fixture
def plots(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import solver_plots

    monkeypatch.setattr(solver_plots, "FOLDER", tmp_path)
    return solver_plots


def row(distance, *, precision=0.25, seed=0, count=200, **key):
    """A row of the digits model."""
    values = dict(zip(METRICS, (distance, precision, 0.5), strict=True))
    errors = {f"{metric} error": value / 10 for metric, value in values.items()}
    setting = {"solver": "sa 2", "times": "uniform", "evaluations": 12, "rows": 20}
    return {**setting, "seed": seed, "count": count, **key, **values, **errors}


def test_rows_of_several_seeds_are_their_mean_and_half_their_range(plots):
    rows = [row(d, seed=s, count=500) for s, d in enumerate((10.0, 11.0, 15.0))]
    rows.append(row(20.0, count=500, evaluations=25))
    lines = plots.table_of_seeds(rows).splitlines()[2:]
    assert lines == [
        "| 12 | `sa 2` | uniform | 20 | 3 | 12.0 ± 2.5 | 0.25 ± 0.00 | 0.50 ± 0.00 |",
        "| 25 | `sa 2` | uniform | 20 | 1 | 20.0 | 0.25 | 0.50 |",
    ]


def test_tables_of_the_sweep_leave_out_other_counts_and_seeds(plots, capsys):
    model = [row(14.0), row(99.0, seed=1), row(98.0, count=500)]
    guided = [
        row(16.0, kind="none", weight=1.0, interval=None),
        row(15.0, kind="apg", weight=1.5, interval=[0.0, 0.7]),
    ]
    plots.print_tables([], model, guided)
    printed = capsys.readouterr().out
    of_sweep, rest = printed.split("digits, 500 images")
    of_seeds, of_guidance = rest.split("guidance on digits")
    assert "| 14.0 ± 1.4 |" in of_sweep and "98.0" not in of_sweep and "99.0" not in printed
    assert "| `sa 2` | 14.0 ± 1.4 · 0.25 ± 0.03 · 0.50 ± 0.05 |" in of_sweep
    assert "| 98.0 |" in of_seeds
    assert "| `none` |  | 1 | 20 | 16.0 ± 1.6 |" in of_guidance
    assert "| `apg` | [0, 0.7] | 1.5 | 20 | 15.0 ± 1.5 |" in of_guidance


def test_each_file_of_rows_is_drawn(plots, tmp_path, monkeypatch):
    kinds = [row(16.0, kind="none", weight=1.0, interval=None)]
    kinds += [row(15.0, kind=k, weight=2.0, interval=[0.0, 0.7]) for k in plots.KINDS]
    for name, rows in (("digits", [row(14.0), row(80.0, solver="sde")]), ("guidance", kinds)):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    monkeypatch.setattr("sys.argv", ["solver_plots.py"])
    plots.main()
    assert {path.name for path in tmp_path.glob("*.png")} == {"digits.png", "guidance.png"}


def test_mixtures_are_drawn_at_the_recommended_times_and_others(plots, tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(plots.plt.Axes, "plot", lambda axes, xs, ys, *_, **how: drawn.append(ys))
    values = {"uniform": 1.0, "shifted 0.5": 2.0, "logsnr": 3.0, "karras": 4.0, "shifted 0.3": 5.0}
    rows = [
        row(0.0, times=times, guidance=guidance, fd=value)
        for times, value in values.items()
        for guidance in ("none", "2 in [0, 0.7]")
    ]
    rows.append(row(0.0, solver="sde", times="published", guidance="none", fd=9.0))
    (tmp_path / "mixtures.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    monkeypatch.setattr("sys.argv", ["solver_plots.py"])
    plots.main()
    assert [path.name for path in tmp_path.glob("*.png")] == ["mixtures.png"]
    unguided = [[9.0], [1.0], [9.0], [2.0], [9.0], [3.0], [9.0], [4.0]]
    assert drawn == [*unguided, [1.0], [2.0], [3.0], [4.0]]


def test_titles_say_what_the_rows_say(plots):
    rows = [row(16.0, kind="none", weight=1.0, interval=None)]
    rows += [row(15.0, kind="cfg", weight=2.0, interval=[0.0, 0.7])]
    plots.draw_guidance(rows)
    title = plots.plt.gcf().get_suptitle()
    assert title == "The digits model, 200 images,\nsa 2, 12 evaluations, uniform"
