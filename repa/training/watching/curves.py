"""The curves of runs, read from the logs in their folders."""

import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from repa.errors import RepaError
from repa.sheets.curves import Points, RunCurves, check_curves, save_curves
from repa.training.run.folder import read_run_config
from repa_base.checksums import parse_json
from repa_base.settings import LARGEST

_LOSSES = ("velocity", "alignment")
HELD_OUT, TRAINED_ON = "held_out", "trained_on"
"""Of the log's entries: the velocity loss on images that training never sees, and on as many that
it does, by the same draws."""

METRICS = "metrics"
"""Of the log's entries: metrics of samples by their labels."""


def plot_runs(runs: Sequence[Path], out: Path, *, overwrite: bool = False) -> list[str]:
    """Draw losses, alignment and metrics of runs over steps and images seen on a PNG.

    Runs are called like their folders, or by their paths where two folders have one name. Losses
    that are 0 are left out: of plain SiT, and after `align_until`, there is no alignment.

    Returns:
        The titles of the panels.

    Raises:
        RepaError: A folder holds no run, or its log has no losses; or as for `check_curves`.
    """
    check_curves(out, overwrite=overwrite)
    names = [run.resolve().name for run in runs]
    named = zip(runs, names, strict=True)
    titles = [str(run) if names.count(name) > 1 else name for run, name in named]
    return save_curves([read_curves(r, t) for r, t in zip(runs, titles, strict=True)], out)


def read_curves(run: Path, name: str) -> RunCurves:
    """Read the log of a run, which the legend shall call `name`.

    Raises:
        RepaError: The folder holds no run, or its log has no losses.
    """
    config = read_run_config(run)
    if config is None:
        what = "no such folder" if not run.is_dir() else "no config.json in it"
        raise RepaError(f"{run} holds no run ({what}): name folders that repa train has made.")
    entries = list(_entries(run / "log.jsonl"))
    losses = {name: _points([e for e in entries if e.get(name) != 0], name) for name in _LOSSES}
    losses = {name: points for name, points in losses.items() if len(points[0])}
    if not losses:
        raise RepaError(
            f"{run}: its log.jsonl has no losses yet: let it train, or see --log-every."
        )
    kinds = {"held out": HELD_OUT, "trained on": TRAINED_ON}
    fixed = {kind: _points(entries, key) for kind, key in kinds.items()}
    metrics = [{"step": e["step"], **e[METRICS]} for e in entries if _is_mapping(e.get(METRICS))]
    labels = dict.fromkeys(label for entry in metrics for label in entry if label != "step")
    return RunCurves(
        name=name,
        batch_size=config.batch_size,
        losses=losses,
        fixed={"velocity": {kind: points for kind, points in fixed.items() if len(points[0])}},
        metrics={label: _points(metrics, label) for label in labels},
    )


def _entries(path: Path) -> Iterable[dict[str, Any]]:
    """Yield the entries of a log, without what a kill has left of a line."""
    try:
        lines = path.read_text("utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        return
    for line in lines:
        try:
            entry = parse_json(line)
        except ValueError:
            continue
        step = entry.get("step") if isinstance(entry, dict) else None
        if type(step) is int and abs(step) <= LARGEST:
            yield entry


def _points(entries: Iterable[Mapping[str, Any]], name: str) -> Points:
    """Return steps and values of what the entries hold of one name; finite numbers alone."""
    found = [(entry["step"], entry[name]) for entry in entries if name in entry]
    largest = sys.float_info.max
    numbers = [(s, v) for s, v in found if isinstance(v, int | float) and abs(v) <= largest]
    steps, values = zip(*numbers, strict=True) if numbers else ((), ())
    return np.array(steps, np.int64), np.array(values, np.float64)


def _is_mapping(value: object) -> bool:
    return isinstance(value, Mapping)
