"""Tables and plots of what `solvers.py` measured: from docs/solvers/*.jsonl, Markdown and PNG."""

import argparse
import json
from collections import defaultdict
from pathlib import Path
from statistics import mean

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

FOLDER = Path(__file__).resolve().parents[1] / "docs" / "solvers"
COLOURS = {
    "sde": "black",
    "heun": "grey",
    "dpm++ 1": "#9ecae1",
    "dpm++ 2": "#3182bd",
    "dpm++ 3": "#08306b",
    "dpm++sde 1": "#fdae6b",
    "dpm++sde 2": "#e6550d",
    "sa 1": "#a1d99b",
    "sa 2": "#31a354",
    "sa 3": "#00441b",
    "ab2": "#c994c7",
    "ab4": "#980043",
}


def rows_of(name):
    path = FOLDER / f"{name}.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def by_setting(rows, value):
    """Return the values of all seeds by solver, times and evaluations."""
    found = defaultdict(list)
    for row in rows:
        if value in row:
            found[row["solver"], row["times"], row["evaluations"]].append(row[value])
    return found


def draw_curves(axes, found, times):
    """Draw quality against evaluations, the published solvers and those at some times."""
    for solver, colour in COLOURS.items():
        own = "published" if solver in ("sde", "heun") else times
        points = sorted(
            (n, values) for (s, t, n), values in found.items() if (s, t) == (solver, own)
        )
        if not points:
            continue
        xs = [n for n, _ in points]
        style = "--" if solver in ("sde", "heun") else "-"
        label = "Euler-Maruyama, published" if solver == "sde" else solver
        axes.plot(xs, [mean(v) for _, v in points], style, color=colour, marker=".", label=label)
        low, high = [min(v) for _, v in points], [max(v) for _, v in points]
        axes.fill_between(xs, low, high, color=colour, alpha=0.15, linewidth=0)
    axes.set_xscale("log", base=2)
    ticks = [8, 12, 16, 25, 50, 100, 250]
    axes.set_xticks(ticks, [str(tick) for tick in ticks])
    axes.grid(alpha=0.3)


def finish(figure, axes):
    """Put the legend of one plot below all of them."""
    handles, labels = axes.get_legend_handles_labels()
    figure.tight_layout(rect=(0, 0.07, 1, 1))
    figure.legend(handles, labels, loc="lower center", ncols=6, fontsize=9)


def draw_mixtures(rows):
    figure, grid = plt.subplots(2, 3, figsize=(14, 8), sharex=True, sharey="row")
    for line, guidance in zip(grid, ("none", "2 in [0, 0.7]"), strict=True):
        here = [row for row in rows if row["guidance"] == guidance]
        columns = [("uniform", "fd"), ("logsnr", "fd"), ("karras", "fd")]
        for axes, (times, value) in zip(line, columns, strict=True):
            draw_curves(axes, by_setting(here, value), times)
            axes.set_yscale("log")
            axes.set_title(f"guidance {guidance}, {times} times")
        line[0].set_ylabel("Frechet distance to the exact result")
    for axes in grid[1]:
        axes.set_xlabel("evaluations")
    figure.suptitle("Gaussian mixtures of an image-like spectrum")
    finish(figure, grid[0, 0])
    figure.savefig(FOLDER / "mixtures.png", dpi=90)


def draw_digits(rows):
    values = ("FD-lite0", "Precision-lite0", "Recall-lite0")
    spacings = ("uniform", "shifted 0.5")
    figure, grid = plt.subplots(3, len(spacings), figsize=(10, 11), sharex=True, sharey="row")
    for line, value in zip(grid, values, strict=True):
        for axes, times in zip(line, spacings, strict=True):
            draw_curves(axes, by_setting(rows, value), times)
            axes.set_title(f"{value}, {times} times")
    grid[0, 0].set_ylim(8, 40)
    for axes in grid[-1]:
        axes.set_xlabel("evaluations")
    figure.suptitle("The digits model, guidance 2 in [0, 0.7]")
    finish(figure, grid[0, 0])
    figure.savefig(FOLDER / "digits.png", dpi=90)


def table(rows, value, evaluations, scale=1.0):
    """Return a Markdown table of means over seeds: a line a solver, a column a spacing."""
    found = by_setting(rows, value)
    columns = ("published", "uniform", "shifted 0.5", "shifted 0.3", "logsnr", "karras")
    lines = ["| solver | " + " | ".join(columns) + " |", "| --- " * (len(columns) + 1) + "|"]
    for solver in COLOURS:
        cells = []
        for times in columns:
            values = found.get((solver, times, evaluations))
            spread = (
                f" ± {(max(values) - min(values)) / 2 * scale:.2g}" if values and values[1:] else ""
            )
            cells.append(f"{mean(values) * scale:.3g}{spread}" if values else "")
        if any(cells):
            lines.append(f"| {solver} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tables", action="store_true", help="print tables, draw nothing")
    options = parser.parse_args()
    known, model = rows_of("mixtures"), rows_of("digits")
    if not options.tables:
        if known:
            draw_mixtures(known)
        if model:
            draw_digits(model)
        return
    for guidance in ("none", "2 in [0, 0.7]"):
        here = [row for row in known if row["guidance"] == guidance]
        for value in ("fd", "fd of sde", "relative fd"):
            for evaluations in (8, 12, 16, 25, 50, 100, 250):
                scale = 1 if value.startswith("relative") else 1000
                print(f"\nmixtures, guidance {guidance}, {value} x {scale}, {evaluations}\n")
                print(table(here, value, evaluations, scale))
    for value in ("FD-lite0", "Precision-lite0", "Recall-lite0"):
        for evaluations in (8, 12, 16, 25, 50, 100, 250):
            print(f"\ndigits, {value}, {evaluations} evaluations\n")
            print(table(model, value, evaluations))


if __name__ == "__main__":
    main()
