"""`repa cache`: show or clear the cached features."""

import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from repa_cli.options import Json
from repa_cli.output import print_json, print_table
from repa_cli.running.start import Loading

if TYPE_CHECKING:
    from metrics import CacheEntry


def cache(
    clear: Annotated[
        bool, typer.Option("--clear", help="Remove the cached features, and nothing else.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Show the features that `repa fid` and `repa stats` keep, so as to measure no image twice.

    They are in the folder features of $REPA_CACHE, or of ~/.cache/repa. Before new ones would take
    them beyond $REPA_CACHE_LIMIT (20GB; 0 keeps none), those that have not been used for the
    longest time are removed. Downloads are not counted, and never removed.
    """
    with Loading():
        from repa.evaluation import feature_cache

    features = feature_cache()
    entries = features.clear() if clear else features.entries()
    total = sum(entry.num_bytes for entry in entries)
    if as_json:
        plain = [asdict(entry) | {"path": str(entry.path)} for entry in entries]
        sizes = {"num_bytes": total, "limit_bytes": features.limit}
        print_json({"removed" if clear else "entries": plain, **sizes})
        return
    if not clear and entries:
        headings = ("images of", "images", "network", "size", "age", "last used")
        print_table(headings, map(_row, entries))
        typer.echo()
    where = f"removed from {features.folder}"
    if not clear:
        where = f"of at most {_size(features.limit or 0)}, in {features.folder}"
    typer.echo(f"{len(entries)} entries, {_size(total)}, {where}")


def _row(entry: "CacheEntry") -> tuple[str, ...]:
    return (
        "(not usable)" if entry.source is None else entry.source,
        "" if entry.source is None else str(entry.count),
        entry.network,
        _size(entry.num_bytes),
        _age(time.time() - entry.made),
        _age(time.time() - entry.used),
    )


def _size(num_bytes: int) -> str:
    return f"{num_bytes / 1e9:.2f} GB" if num_bytes >= 1e9 else f"{num_bytes / 1e6:.1f} MB"


def _age(seconds: float) -> str:
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds // length:.0f} {unit}"
    return f"{max(seconds, 0):.0f} s"
