"""`repa export`: a checkpoint as one small file for sampling."""

from pathlib import Path
from typing import Annotated

import typer

from repa_cli.checkpoints import hints
from repa_cli.options import Json, Overwrite, choice
from repa_cli.output import print_json, print_note, print_table, setting_errors_as_options
from repa_cli.running.start import Loading


def export(
    source: hints.Source,
    out: Annotated[
        Path,
        typer.Argument(help="File to write, ending in .safetensors, or in .pt for REPA's form."),
    ],
    to: Annotated[
        str,
        typer.Option(
            help="Whose form: ours, or repa, which its generate.py loads (with its optimizer it "
            "does not go on).",
            metavar="ours|repa",
            parser=choice("form", ("ours", "repa")),
        ),
    ] = "ours",
    half: Annotated[bool, typer.Option("--half", help="Store float16: half the size.")] = False,
    bf16: Annotated[
        bool,
        typer.Option("--bf16", help="Store bfloat16: half the size, for weights beyond 65504."),
    ] = False,
    projectors: Annotated[
        bool, typer.Option("--projectors", help="Keep the projectors, which only training needs.")
    ] = False,
    dialect: hints.Dialect = None,
    num_heads: hints.NumHeads = None,
    encoder_depth: hints.EncoderDepth = None,
    latents: hints.Latents = None,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Write a checkpoint as one safetensors file for sampling.

    Reads every dialect that `repa sample` reads. Of a training run, the latest EMA weights are
    taken. The file describes its network, so it loads without other settings, and a network of
    another dialect is turned into the toolkit's convention, and is sampled as its authors do.
    """
    stored = {"half": half, "bf16": bf16, "projectors": projectors}
    if to == "repa" and (typed := [name for name, value in stored.items() if value]):
        raise typer.BadParameter("has no effect with --to repa", param_hint=f"--{typed[0]}")
    with Loading():
        from repa.checkpoints.export import export_weights
        from repa.checkpoints.repa_form import export_to_repa
        from repa.registry import file_sha256

    said = {"dialect": dialect, "num_heads": num_heads}
    said |= {"encoder_depth": encoder_depth, "latents": latents}
    result = {}
    with setting_errors_as_options({"out": "OUT"}):
        if to == "repa":
            written = export_to_repa(source, out, overwrite=overwrite, **said)
            for note in written.notes:
                print_note(f"{out}: {note}.")
            path, result = written.path, {"command": written.command}
        else:
            options = {**stored, "overwrite": overwrite, **said}
            path = export_weights(source, out, on_note=print_note, **options)
    result = {"file": str(path), "size": path.stat().st_size, "sha256": file_sha256(path)} | result
    if as_json:
        print_json(result)
    else:
        print_table(["export", ""], [(key, str(value)) for key, value in result.items()])
