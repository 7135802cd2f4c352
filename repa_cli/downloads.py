"""Downloads on stderr: a bar on a terminal, else one line for each file."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tqdm import tqdm

from repa_base.downloads import reporting_downloads
from repa_cli.output import print_note


@contextmanager
def shown_downloads() -> Iterator[None]:
    """Show every download of the block: bytes, rate and time left, or its file and address."""
    bars: dict[str, tqdm[Any]] = {}

    def show(name: str, url: str, done: int, total: int | None) -> None:
        if name not in bars:
            bars[name] = _bar(name, done, total)
            if bars[name].disable:
                print_note(f"downloading {name} from {url}")
        bars[name].update(done - bars[name].n)
        if done == total:
            bars[name].close()

    try:
        with reporting_downloads(show):
            yield
    finally:
        for bar in bars.values():
            bar.close()


def _bar(name: str, done: int, total: int | None) -> "tqdm[Any]":
    return tqdm(
        total=total,
        initial=done,
        unit="B",
        unit_scale=True,
        desc=name,
        file=sys.stderr,
        disable=not sys.stderr.isatty(),
        dynamic_ncols=True,
    )
