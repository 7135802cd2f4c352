"""`repa export`: a checkpoint as one small file for sampling."""

from pathlib import Path
from typing import Annotated, get_args

import typer

from repa.checkpoints.names import DialectName
from repa_cli.options import Json, Overwrite, choice
from repa_cli.output import print_json, print_table, setting_errors_as_options
from repa_cli.running.start import Loading

_DIALECTS = get_args(DialectName)


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
    dialect: Annotated[
        str | None,
        typer.Option(
            help=f"Whose form the file has, where it does not tell: {', '.join(_DIALECTS)}.",
            metavar="NAME",
            parser=choice("dialect", _DIALECTS),
            show_default=False,
        ),
    ] = None,
    num_heads: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Attention heads, of a file that does not tell them.",
            show_default=False,
        ),
    ] = None,
    encoder_depth: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Block after which a file's features or middle head are.",
            show_default=False,
        ),
    ] = None,
    latents: Annotated[
        str | None,
        typer.Option(
            help="Latent space, of a file that does not tell it: an autoencoder's name, or a file "
            "of statistics.",
            metavar="NAME|FILE",
            show_default=False,
        ),
    ] = None,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Write a checkpoint as one safetensors file for sampling.

    Reads every dialect that `repa sample` reads. Of a training run, the latest EMA weights are
    taken. The file describes its network, so it loads without other settings, and a network of
    another dialect is turned into the toolkit's convention.
    """
    with Loading():
        from repa.checkpoints.export import export_weights
        from repa.registry import file_sha256

    stored = {"half": half, "bf16": bf16, "projectors": projectors}
    with setting_errors_as_options():
        said = {"dialect": dialect, "num_heads": num_heads}
        said |= {"encoder_depth": encoder_depth, "latents": latents}
        path = export_weights(source, out, **stored, overwrite=overwrite, **said)
    result = {"file": str(path), "size": path.stat().st_size, "sha256": file_sha256(path)}
    if as_json:
        print_json(result)
    else:
        print_table(["export", ""], [(key, str(value)) for key, value in result.items()])
