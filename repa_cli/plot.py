"""`repa plot`: the curves of runs."""

from pathlib import Path
from typing import Annotated

import typer

from repa_cli.options import Json, Replace
from repa_cli.output import print_json, print_table


def plot(
    runs: Annotated[
        list[Path],
        typer.Argument(help="Folders of runs of `repa train`.", show_default=False),
    ],
    out: Annotated[Path, typer.Option(help="The PNG to write.", show_default=False)],
    overwrite: Replace = False,
    as_json: Json = False,
) -> None:
    """Draw losses, alignment and metrics of runs over steps and over images seen.

    Reads config.json and log.jsonl of each folder, also of runs that are still going on. Dashed are
    held-out images (--validate-every), with markers metrics of samples (--eval-every).
    """
    from repa.training.watching.curves import plot_runs

    panels = plot_runs(runs, out, overwrite=overwrite)
    if as_json:
        print_json({"plot": str(out), "runs": [str(run) for run in runs], "panels": panels})
    else:
        print_table(("plot", str(out)), [("runs", str(len(runs))), ("panels", ", ".join(panels))])
