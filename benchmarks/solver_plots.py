"""Tables and plots of what `solvers.py` measured: from docs/solvers/*.jsonl, Markdown and PNG."""

import argparse
from collections import defaultdict
from itertools import cycle
from statistics import mean

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.ticker import NullLocator
from sweep_rows import FOLDER, read_rows

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

PUBLISHED = ("sde", "heun")
LABELS = {"sde": "Euler-Maruyama, published", "heun": "heun, published"}
KINDS = {"cfg": "black", "cfg-zero": "#3182bd", "apg": "#e6550d", "autoguidance": "#31a354"}
SPACINGS = ("published", "uniform", "shifted 0.5", "shifted 0.3", "logsnr", "karras")
METRICS = {"FD-lite0": 1, "Precision-lite0": 2, "Recall-lite0": 2}
"""What is shown of the digits model, with its decimals."""
FD, PRECISION, _ = METRICS


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
        own = "published" if solver in PUBLISHED else times
        points = sorted(
            (n, values) for (s, t, n), values in found.items() if (s, t) == (solver, own)
        )
        if not points:
            continue
        xs = [n for n, _ in points]
        style = "--" if solver in PUBLISHED else "-"
        label = LABELS.get(solver, solver)
        axes.plot(xs, [mean(v) for _, v in points], style, color=colour, marker=".", label=label)
        low, high = [min(v) for _, v in points], [max(v) for _, v in points]
        axes.fill_between(xs, low, high, color=colour, alpha=0.15, linewidth=0)
    name_evaluations(axes)


def name_evaluations(axes):
    """Make an axis of evaluations logarithmic, with those of the sweep named."""
    axes.set_xscale("log", base=2)
    ticks = [8, 12, 16, 25, 50, 100, 250]
    axes.set_xticks(ticks, [str(tick) for tick in ticks], minor=False)
    axes.grid(alpha=0.3)


def finish(figure, axes):
    """Put the legend of one plot below all of them."""
    handles, labels = axes.get_legend_handles_labels()
    figure.tight_layout(rect=(0, 0.07, 1, 1))
    figure.legend(handles, labels, loc="lower center", ncols=6, fontsize=9)


def draw_mixtures(rows):
    columns = ("uniform", "shifted 0.5", "logsnr", "karras")
    figure, grid = plt.subplots(2, len(columns), figsize=(18, 8), sharex=True, sharey="row")
    for line, guidance in zip(grid, ("none", "2 in [0, 0.7]"), strict=True):
        here = [row for row in rows if row["guidance"] == guidance]
        for axes, times in zip(line, columns, strict=True):
            draw_curves(axes, by_setting(here, "fd"), times)
            axes.set_yscale("log")
            axes.set_title(f"guidance {guidance}, {times} times")
        line[0].set_ylabel("Frechet distance to the exact result")
    for axes in grid[1]:
        axes.set_xlabel("evaluations")
    figure.suptitle("Gaussian mixtures of an image-like spectrum")
    finish(figure, grid[0, 0])
    figure.savefig(FOLDER / "mixtures.png", dpi=90)


def draw_digits(rows):
    """Draw the sweep of 200 images and one seed; bars are standard errors."""
    new = {row["times"] for row in rows if row["solver"] not in PUBLISHED}
    spacings = [times for times in ("uniform", "shifted 0.5", "logsnr") if times in new] or [
        "uniform"
    ]
    size = {"figsize": (5 * len(spacings), 9), "squeeze": False}
    figure, grid = plt.subplots(2, len(spacings), sharex=True, sharey="row", **size)
    for line, value in zip(grid, (FD, PRECISION), strict=True):
        for axes, times in zip(line, spacings, strict=True):
            drawn = [s for s in COLOURS if any(r["solver"] == s for r in rows)]
            for place, solver in enumerate(drawn):
                own = "published" if solver in PUBLISHED else times
                points = [r for r in rows if (r["solver"], r["times"]) == (solver, own)]
                # Side by side, as bars of the same evaluations would cover each other.
                aside = 1.012 ** (place - len(drawn) / 2)
                style = {"color": COLOURS[solver], "label": LABELS.get(solver, solver)}
                style["linestyle"] = "--" if solver in PUBLISHED else "-"
                draw_with_errors(axes, points, "evaluations", value, aside, **style)
            name_evaluations(axes)
            axes.set_title(f"{times} times")
        line[0].set_ylabel(value)
    name_distances(grid[0, 0])
    for axes in grid[-1]:
        axes.set_xlabel("evaluations")
    figure.suptitle("The digits model, guidance 2 in [0, 0.7], 200 images")
    finish(figure, grid[0, 0])
    figure.savefig(FOLDER / "digits.png", dpi=90)


def draw_guidance(rows):
    """Draw quality against the weight, a line a kind; weight 1, without guidance, is all lines'."""
    intervals = sorted({tuple(row["interval"]) for row in rows if row["interval"]})
    size = {"figsize": (1 + 5 * len(intervals), 9), "squeeze": False}
    figure, grid = plt.subplots(2, len(intervals), sharex=True, sharey="row", **size)
    for line, value in zip(grid, (FD, PRECISION), strict=True):
        for axes, interval in zip(line, map(list, intervals), strict=True):
            for place, (kind, colour) in enumerate(KINDS.items()):
                of_kind = [r for r in rows if r["kind"] == kind and r["interval"] == interval]
                guides = sorted({row.get("guide", "") for row in of_kind})
                for guide, dashes in zip(guides, cycle(("-", "--", ":")), strict=False):
                    points = [r for r in of_kind if r.get("guide", "") == guide]
                    points += [r for r in rows if r["kind"] == "none"]
                    style = {"color": colour, "label": f"{kind} {guide}", "linestyle": dashes}
                    draw_with_errors(axes, points, "weight", value, 1 + 0.006 * place, **style)
            axes.set_xticks(sorted({row["weight"] for row in rows}))
            axes.grid(alpha=0.3)
            axes.set_title(f"guided in [{interval[0]:g}, {interval[1]:g}]")
        line[0].set_ylabel(value)
    name_distances(grid[0, 0])
    for axes in grid[-1]:
        axes.set_xlabel("weight")
    made = {"{solver}, {evaluations} evaluations, {times}".format(**row) for row in rows}
    figure.suptitle("\n".join(["The digits model, 200 images,", *sorted(made)]))
    finish(figure, grid[0, 0])
    figure.savefig(FOLDER / "guidance.png", dpi=90)


def draw_with_errors(axes, rows, across, value, aside, **style):
    """Draw a metric with its standard errors, moved aside by a factor."""
    points = sorted((row[across] * aside, row[value], row[f"{value} error"]) for row in rows)
    if points:
        xs, ys, errors = zip(*points, strict=True)
        axes.errorbar(xs, ys, errors, marker=".", linewidth=1.2, elinewidth=0.7, **style)


def name_distances(axes):
    """Make an axis of distances logarithmic, with numbers as a person writes them."""
    axes.set_yscale("log")
    low, high = axes.get_ylim()
    known = range(6, 30) if high < 2 * low else (8, 10, 12, 15, 20, 30, 50, 80, 120)
    ticks = [tick for tick in known if low <= tick <= high]
    axes.set_yticks(ticks, [str(tick) for tick in ticks])
    axes.yaxis.set_minor_locator(NullLocator())


def table_of(rows, named, values=None):
    """Return a Markdown table of rows: a column for each name, then the metrics with their errors.

    `values` returns a row's value and error, or None, of a metric; without it the standard error is
    taken.
    """
    values = values or (lambda row, metric: (row[metric], row[f"{metric} error"]))
    lines = ["| " + " | ".join((*named, *METRICS)) + " |"]
    lines.append("| --- " * (len(named) + len(METRICS)) + "|")
    for row in rows:
        cells = [str(find(row)) for find in named.values()]
        for metric, digits in METRICS.items():
            value, error = values(row, metric)
            spread = "" if error is None else f" ± {error:.{digits}f}"
            cells.append(f"{value:.{digits}f}{spread}")
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


SETTING = {
    "evaluations": lambda row: row["evaluations"],
    "solver, order": lambda row: f"`{row['solver']}`",
    "times": lambda row: row["times"],
    "rows an image": lambda row: row["rows"],
}
GUIDED = {
    "guidance": lambda row: f"`{row['kind']}` {row.get('guide', '')}".strip(),
    "interval": lambda row: "[{:g}, {:g}]".format(*row["interval"]) if row["interval"] else "",
    "weight": lambda row: f"{row['weight']:g}",
    "rows an image": lambda row: row["rows"],
}


def table_of_seeds(rows):
    """Return a table of means over seeds, with half the range of several."""
    found = defaultdict(list)
    for row in rows:
        found[row["evaluations"], row["solver"], row["times"]].append(row)

    def values(row, metric):
        of_seeds = [each[metric] for each in row["of seeds"]]
        return mean(of_seeds), (max(of_seeds) - min(of_seeds)) / 2 if of_seeds[1:] else None

    together = [{**each[0], "of seeds": each} for _, each in sorted(found.items())]
    named = SETTING | {"seeds": lambda row: len(row["of seeds"])}
    return table_of(together, named, values)


def table_of_spacings(rows, evaluations):
    """Return a table of the metrics with their errors: a line a solver, a column a spacing."""
    found = {
        (row["solver"], row["times"]): row for row in rows if row["evaluations"] == evaluations
    }
    columns = [times for times in SPACINGS if any(t == times for _, t in found)]
    lines = ["| solver, order | " + " | ".join(columns) + " |", "| --- " * (len(columns) + 1) + "|"]
    for solver in COLOURS:
        cells = [in_one_cell(found.get((solver, times))) for times in columns]
        if any(cells):
            lines.append(f"| `{solver}` | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def in_one_cell(row):
    """Return all metrics of a row with their errors; nothing of none."""
    return " · ".join(
        f"{row[metric]:.{digits}f} ± {row[f'{metric} error']:.{digits}f}"
        for metric, digits in METRICS.items()
        if row
    )


def table(rows, value, evaluations, scale=1.0):
    """Return a Markdown table of means over seeds: a line a solver, a column a spacing."""
    found = by_setting(rows, value)
    lines = ["| solver | " + " | ".join(SPACINGS) + " |", "| --- " * (len(SPACINGS) + 1) + "|"]
    for solver in COLOURS:
        cells = []
        for times in SPACINGS:
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
    known, guided, model = (
        read_rows(FOLDER / f"{name}.jsonl") for name in ("mixtures", "guidance", "digits")
    )
    guided = in_sweep(guided)
    if options.tables:
        print_tables(known, model, guided)
        return
    for rows, draw in (
        (known, draw_mixtures),
        (in_sweep(model), draw_digits),
        (guided, draw_guidance),
    ):
        if rows:
            draw(rows)


def in_sweep(rows):
    """Return the rows of the sweeps of the digits model: 200 images, one seed."""
    return [row for row in rows if (row["count"], row["seed"]) == (200, 0)]


def print_tables(known, model, guided):
    for guidance in ("none", "2 in [0, 0.7]"):
        here = [row for row in known if row["guidance"] == guidance]
        for value in ("fd", "fd of sde", "relative fd"):
            for evaluations in (8, 12, 16, 25, 50, 100, 250):
                scale = 1 if value.startswith("relative") else 1000
                print(f"\nmixtures, guidance {guidance}, {value} x {scale}, {evaluations}\n")
                print(table(here, value, evaluations, scale))
    print("\ndigits, 200 images and one seed, ± the standard error of 20 resamples\n")
    print(table_of(sorted(in_sweep(model), key=lambda r: (r["evaluations"], r[FD])), SETTING))
    for evaluations in sorted({row["evaluations"] for row in in_sweep(model)}):
        print(f"\nthe same, {evaluations} evaluations: {' · '.join(METRICS)}\n")
        print(table_of_spacings(in_sweep(model), evaluations))
    print("\ndigits, 500 images, means over seeds, ± half their range\n")
    print(table_of_seeds([row for row in model if row["count"] == 500]))
    print("\nguidance on digits, 200 images and one seed, ± the standard error of 20 resamples\n")
    guided = sorted(guided, key=lambda r: (GUIDED["guidance"](r), r["interval"] or [], r["weight"]))
    print(table_of(guided, GUIDED))


if __name__ == "__main__":
    main()
