"""Option types that more than one command uses."""

import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Annotated

import typer

from repa.errors import suggestion
from repa.registry import entry_names

_NETWORKS = tuple(entry_names("networks"))


def choice(kind: str, known: Iterable[str]) -> Callable[[str], str]:
    """Return a parser that accepts the known names and otherwise suggests the closest one."""
    known = tuple(known)

    def parse(value: str) -> str:
        if value not in known:
            raise typer.BadParameter(f"unknown {kind} {value!r}{suggestion(value, known)}")
        return value

    return parse


def is_given(context: typer.Context, name: str) -> bool:
    """Whether a parameter was typed, rather than left at its default."""
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


def _device(value: str) -> str:
    if not re.fullmatch(r"auto|cpu|mps|cuda(:\d+)?", value):
        raise typer.BadParameter(f"unknown device {value!r}: use auto, cpu, cuda, cuda:1 or mps")
    return value


Device = Annotated[
    str,
    typer.Option(
        "--device",
        help="Where to compute: auto (a GPU when there is one), cpu, cuda, cuda:1, mps.",
        metavar="NAME",
        parser=_device,
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON on stdout instead of a table.")]
Overwrite = Annotated[
    bool, typer.Option("--overwrite", help="Replace an existing output made by other settings.")
]
MetricNetworkName = Annotated[
    str | None,
    typer.Option(
        "--features",
        metavar="NAME",
        help=f"Metric network: {', '.join(_NETWORKS)}.  [default: the data's or the reference's, "
        "or else inception]",
        parser=choice("network", _NETWORKS),
    ),
]
MetricWeights = Annotated[
    Path | None,
    typer.Option(
        "--weights",
        help="Weights of the metric network.  [default: downloaded once]",
        exists=True,
        dir_okay=False,
    ),
]
MetricResize = Annotated[
    str,
    typer.Option(
        "--resize",
        metavar="NAME",
        help="default: the network's own; clean: clean-fid's, for inception's FID-clean.",
        parser=choice("resize", ("default", "clean")),
    ),
]
MetricBatchSize = Annotated[int, typer.Option("--batch-size", min=1, help="Images at once.")]
Compiled = Annotated[
    bool, typer.Option("--compile", help="Compile the network: faster after half a minute.")
]
NoCache = Annotated[
    bool, typer.Option("--no-cache", help="Measure all images anew, and keep no features.")
]
