"""Option types that more than one command uses."""

from collections.abc import Callable, Iterable
from typing import Annotated

import typer

from repa.errors import suggestion


def choice(kind: str, known: Iterable[str]) -> Callable[[str], str]:
    """Return a parser that accepts the known names and otherwise suggests the closest one."""
    known = tuple(known)

    def parse(value: str) -> str:
        if value not in known:
            raise typer.BadParameter(f"unknown {kind} {value!r}{suggestion(value, known)}")
        return value

    return parse


Device = Annotated[
    str,
    typer.Option(
        "--device",
        help="Where to compute: auto (a GPU when there is one), cpu, cuda, cuda:1, mps.",
        metavar="NAME",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON on stdout instead of a table.")]
Overwrite = Annotated[
    bool, typer.Option("--overwrite", help="Replace an existing output made by other settings.")
]
