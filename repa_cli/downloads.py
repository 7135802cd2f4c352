"""Downloads on stderr: a bar on a terminal, else one line for each file."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tqdm import tqdm

from repa_base.downloads import reporting_downloads
from repa_cli.output import print_note, progress_bar


@contextmanager
def shown_downloads() -> Iterator[None]:
    """Show every download of the block: bytes, rate and time left, or its file and address."""
    bars: dict[str, tqdm[Any]] = {}

    def show(name: str, url: str, done: int, total: int | None) -> None:
        if name not in bars:
            own = {"unit": "B", "unit_scale": True, "smoothing": 0.3, "initial": done}
            bars[name] = progress_bar(total, "", name, **own)
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
