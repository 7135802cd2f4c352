"""Downloads on stderr: a bar on a terminal, else lines."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from repa_base.downloads import reporting_downloads
from repa_cli.output import print_note, progress_bar

if TYPE_CHECKING:
    from repa_cli.showing.bars import Bar, Lines


@contextmanager
def shown_downloads() -> Iterator[None]:
    """Show every download of the block: bytes, rate and time left, or its file and address."""
    bars: dict[str, Bar | Lines] = {}

    def show(name: str, url: str, done: int, total: int | None) -> None:
        if name not in bars:
            if not sys.stderr.isatty():
                print_note(f"downloading {name} from {url}")
            bars[name] = progress_bar(total, "B", name, unit_scale=True, smoothing=0.3)
            bars[name].begin(done, total)
        bars[name].update(done - bars[name].n)
        if done == total:
            bars[name].close()

    try:
        with reporting_downloads(show):
            yield
    finally:
        for bar in bars.values():
            bar.close()
