"""Curves of runs over steps and over images seen: losses, alignment and metrics on one PNG."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from repa.errors import MissingPackageError, SettingError
from repa_base.files import check_output, replacing

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
"""Told apart by most colour-blind people (Okabe and Ito, Color Universal Design, 2008), without
their yellow, which white paper swallows. More runs than these have colours of a rainbow."""

_COLUMNS, _PANEL, _DPI = 4, (3.6, 2.8), 110
_MEAN_SHARE = 20  # a mean is over a twentieth of a curve's points
_SMALLEST_NOISY = 40  # fewer points are drawn as they are

Points = tuple[np.ndarray, np.ndarray]
"""Steps and values, of the same length."""


@dataclass(frozen=True)
class RunCurves:
    """What is known of a run at some steps.

    Attributes:
        name: What the legend calls it.
        batch_size: Images a step.
        losses: Of batches that were trained on, by their names.
        fixed: Losses on the same images and draws every time, by name and by what they are of.
        metrics: Metrics of samples, by their labels.
    """

    name: str
    batch_size: int
    losses: Mapping[str, Points]
    fixed: Mapping[str, Mapping[str, Points]]
    metrics: Mapping[str, Points]


def check_curves(path: Path, *, overwrite: bool = False) -> None:
    """Find out before the work whether curves can be drawn on a PNG of that name.

    Raises:
        SettingError: The name does not end in .png.
        OutputExistsError: It is taken.
        MissingPackageError: Matplotlib is not installed.
        OSError: No file can be made in its folder.
    """
    if path.suffix.lower() != ".png":
        reason = f"the curves are a PNG: its name must end in .png, got {path}."
        raise SettingError("out", reason)
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        message = "curves are drawn by matplotlib: pip install 'repa-toolkit[demo]'"
        raise MissingPackageError(message) from error
    check_output(path, overwrite=overwrite)


def save_curves(runs: Sequence[RunCurves], path: Path) -> list[str]:
    """Draw the curves of runs, a colour each, on a PNG; return the titles of its panels.

    Errors are those of `check_curves`.
    """
    from matplotlib.figure import Figure

    panels = _panels(runs)
    rows = -(-len(panels) // _COLUMNS)
    columns = -(-len(panels) // rows)
    size = (_PANEL[0] * max(columns, 2), _PANEL[1] * 2 * rows + 0.5)
    figure = Figure(figsize=size, dpi=_DPI, layout="constrained")
    axes = figure.subplots(2 * rows, columns, squeeze=False)
    for half, over in enumerate(("step", "images seen")):
        places = axes[half * rows : (half + 1) * rows].ravel()
        for place, panel in zip(places[: len(panels)], panels, strict=True):
            _draw(place, panel, runs, over)
        for place in places[len(panels) :]:
            place.set_axis_off()
    _add_legend(figure, runs)
    with replacing(path) as partial:
        figure.savefig(partial, format="png")
    return [panel.title for panel in panels]


@dataclass(frozen=True)
class _Panel:
    title: str
    log: bool = False

    def series(self, run: RunCurves) -> Iterable[tuple[str, Points]]:
        """Return what is drawn of a run: the style's name and the points."""
        if self.title in run.metrics:
            yield "metric", run.metrics[self.title]
        name = self.title.removesuffix(" loss")
        if name in run.losses:
            yield "batches", run.losses[name]
        yield from run.fixed.get(name, {}).items()


_STYLES: dict[str, tuple[str, dict[str, Any]]] = {
    "batches": ("batches, mean of neighbours", {"linestyle": "-"}),
    "held out": ("held-out images", {"linestyle": "--", "marker": "o", "markersize": 3}),
    "trained on": ("images trained on", {"linestyle": ":", "marker": ".", "markersize": 4}),
    "metric": ("of samples", {"linestyle": "-", "marker": "o", "markersize": 4}),
}


def _panels(runs: Sequence[RunCurves]) -> list[_Panel]:
    """Return a panel for every loss and every metric that any run has, losses first."""
    losses = dict.fromkeys(name for run in runs for name in (*run.losses, *run.fixed))
    metrics = dict.fromkeys(label for run in runs for label in run.metrics)
    found = [_Panel(f"{name} loss", log=name == "velocity") for name in losses]
    return found + [_Panel(label) for label in metrics]


def _draw(axis: "Axes", panel: _Panel, runs: Sequence[RunCurves], over: str) -> None:
    for run, colour in zip(runs, _colours(len(runs)), strict=True):
        for kind, (steps, values) in panel.series(run):
            x = steps * run.batch_size if over == "images seen" else steps
            style = {"color": colour, "linewidth": 1.4, **_STYLES[kind][1]}
            if kind == "batches" and len(x) >= _SMALLEST_NOISY:
                axis.plot(x, values, color=colour, alpha=0.2, linewidth=0.6)
                x, values = _means(x, values)
            axis.plot(x, values, **style)
    axis.set_title(panel.title, fontsize=10)
    axis.set_xlabel(over, fontsize=9)
    axis.tick_params(labelsize=8)
    axis.grid(alpha=0.25, linewidth=0.5)
    axis.set_xlim(left=0)
    if panel.log:
        axis.set_yscale("log")
        axis.yaxis.set_major_formatter("{x:g}")
        axis.yaxis.set_minor_formatter("{x:g}")
        axis.tick_params(axis="y", which="minor", labelsize=7)
    axis.spines[["top", "right"]].set_visible(False)
    _short_numbers(axis)


def _short_numbers(axis: "Axes") -> None:
    """Write 400k instead of 400000."""
    from matplotlib.ticker import EngFormatter, MaxNLocator

    axis.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axis.xaxis.set_major_formatter(EngFormatter(sep=""))


def _means(x: np.ndarray, values: np.ndarray) -> Points:
    """Return means over a window of a twentieth of all, each at the middle of its window."""
    window = max(2, len(values) // _MEAN_SHARE)
    kernel = np.ones(window) / window
    return np.convolve(x, kernel, "valid"), np.convolve(values, kernel, "valid")


def _add_legend(figure: "Figure", runs: Sequence[RunCurves]) -> None:
    """Name the runs by their colours, and what lines of each kind are of."""
    from matplotlib.lines import Line2D

    coloured = zip(runs, _colours(len(runs)), strict=True)
    handles = [Line2D([], [], color=colour, label=run.name) for run, colour in coloured]
    kinds = {kind for run in runs for p in _panels([run]) for kind, _ in p.series(run)}
    if len(kinds - {"metric"}) > 1:
        styles = [_STYLES[kind] for kind in _STYLES if kind in kinds - {"metric"}]
        handles += [Line2D([], [], color="0.4", label=label, **style) for label, style in styles]
    columns = min(4, len(handles))
    figure.legend(handles=handles, loc="outside upper center", ncols=columns, fontsize=9)


def _colours(count: int) -> Sequence[Any]:
    """Return so many colours, all different."""
    from matplotlib import colormaps

    known = _COLOURS[:count]
    return known if count == len(known) else list(colormaps["turbo"](np.linspace(0, 1, count)))
