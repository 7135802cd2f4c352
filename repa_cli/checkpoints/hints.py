"""Options that say of a checkpoint what its file does not tell; see `load_model`."""

from typing import Annotated, get_args

import typer

from repa.checkpoints.names import DialectName
from repa.registry import entry_names
from repa_cli.options import choice

_DIALECTS = get_args(DialectName)

Source = Annotated[
    str,
    typer.Argument(
        help="Checkpoint: registered name (a file of that name is written ./NAME), file, or "
        "folder of a run.",
        show_default=False,
    ),
]
Dialect = Annotated[
    str | None,
    typer.Option(
        "--dialect",
        help=f"Whose form the file has, where it does not tell: {', '.join(_DIALECTS)}.",
        metavar="NAME",
        parser=choice("dialect", _DIALECTS),
        show_default=False,
    ),
]
NumHeads = Annotated[
    int | None,
    typer.Option(
        "--num-heads",
        min=1,
        help="Attention heads, of a file that does not tell them.",
        show_default=False,
    ),
]
EncoderDepth = Annotated[
    int | None,
    typer.Option(
        "--encoder-depth",
        min=1,
        help="Block after which a file's features or middle head are.",
        show_default=False,
    ),
]
Latents = Annotated[
    str | None,
    typer.Option(
        "--latents",
        help="Latent space, of a file that does not tell it: an autoencoder's name, or statistics, "
        f"the name ({', '.join(entry_names('latents'))}) or a file of them.",
        metavar="NAME|FILE",
        show_default=False,
    ),
]
