"""`repa export`: a checkpoint as one small file for sampling."""

from pathlib import Path
from typing import Annotated

import typer

from repa_cli.options import Json, Overwrite
from repa_cli.output import print_json, print_table, setting_errors_as_options
from repa_cli.running.start import Loading


def export(
    source: Annotated[
        str,
        typer.Argument(
            help="Checkpoint: registered name (a file of that name is written ./NAME), file, or "
            "folder of a run."
        ),
    ],
    out: Annotated[Path, typer.Argument(help="File to write, ending in .safetensors.")],
    half: Annotated[bool, typer.Option("--half", help="Store float16: half the size.")] = False,
    bf16: Annotated[
        bool,
        typer.Option("--bf16", help="Store bfloat16: half the size, for weights beyond 65504."),
    ] = False,
    projectors: Annotated[
        bool, typer.Option("--projectors", help="Keep the projectors, which only training needs.")
    ] = False,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Write a checkpoint as one safetensors file for sampling.

    Reads every dialect that `repa sample` reads. Of a training run, the latest EMA weights are
    taken. The file describes its network, so it loads without other settings.
    """
    with Loading():
        from repa.checkpoints.export import export_weights
        from repa.registry import file_sha256

    stored = {"half": half, "bf16": bf16, "projectors": projectors}
    with setting_errors_as_options():
        path = export_weights(source, out, **stored, overwrite=overwrite)
    result = {"file": str(path), "size": path.stat().st_size, "sha256": file_sha256(path)}
    if as_json:
        print_json(result)
    else:
        print_table(["export", ""], [(key, str(value)) for key, value in result.items()])
