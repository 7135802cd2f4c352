"""Results to stdout, as a table or JSON; progress and diagnostics to stderr."""

import json
import os
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from tqdm import tqdm

from repa.errors import RepaError, SettingError
from repa_base.locks import NoLocksWarning

if TYPE_CHECKING:
    from repa_base.processes import Processes

_MANY = 1_000_000
"""Numbers of a bar above this are shortened: 3.2G."""


def print_error(message: str) -> None:
    """Print one line on stderr, whatever line breaks the message holds."""
    typer.echo(f"repa: error: {' '.join(message.split())}", err=True)


def print_note(message: str) -> None:
    """Print a diagnostic on stderr."""
    typer.echo(f"repa: {message}", err=True)


def print_warning(message: str) -> None:
    """Print on stderr what may make a result other than it looks."""
    print_note(f"warning: {message}")


def print_json(value: object) -> None:
    """Print a value as JSON on stdout; floats keep every digit."""
    typer.echo(json.dumps(value, indent=2))


def print_table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print a table on stdout, first column to the left, the others (numbers) to the right."""
    rows = [tuple(headings), *(tuple(row) for row in rows)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(headings))]
    for number, row in enumerate(rows):
        cells = [row[0].ljust(widths[0])]
        cells += [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        typer.echo("  ".join(cells).rstrip())
        if number == 0:
            typer.echo("  ".join("-" * width for width in widths))


def progress_bar(total: int | None, unit: str, description: str, /, **options: Any) -> "tqdm[Any]":  # noqa: ANN401
    """Return a tqdm bar on stderr with rate and time left; silent when stderr is no terminal.

    `options` are other ones of tqdm, such as the `delay` within which what is done leaves no bar.
    """
    options = {"unit_scale": (total or 0) > _MANY, "smoothing": 0.05, **options}
    unit, silent = f" {unit}" if unit else "", not sys.stderr.isatty()
    shown = {"unit": unit, "file": sys.stderr, "disable": silent, "dynamic_ncols": True}
    return tqdm(total=total, desc=description, **{**shown, **options})


def progress_bars() -> Callable[[str, float, int], None]:
    """Return a function that keeps one bar for each name; the name says what is counted."""
    bars = {}

    def show(name: str, done: float, total: int) -> None:
        if name not in bars:
            bars[name] = progress_bar(total, "", name, delay=1.0)
        bars[name].update(done - bars[name].n)
        if done == total:
            bars.pop(name).close()

    return show


@contextmanager
def shown_warnings() -> Iterator[None]:
    """Print the toolkit's own Python warnings like its other diagnostics, in one line."""

    def show(message: Warning | str, category: type[Warning], *place: Any) -> None:  # noqa: ANN401
        if issubclass(category, NoLocksWarning):
            print_warning(str(message))
        else:
            before(message, category, *place)

    before = warnings.showwarning
    warnings.showwarning = show  # pyright: ignore[reportAttributeAccessIssue]
    try:
        yield
    finally:
        warnings.showwarning = before


@contextmanager
def setting_errors_as_options(options: Mapping[str, str] | None = None) -> Iterator[None]:
    """Say of a setting that is refused which option it is: --FIELD, or what `options` names.

    An environment variable's, $FIELD, keeps its name.
    """
    try:
        yield
    except SettingError as error:
        usual = error.field if error.field[0] == "$" else "--" + error.field.replace("_", "-")
        option = (options or {}).get(error.field, usual)
        message = str(error).removeprefix(f"{error.field} ")
        raise typer.BadParameter(message, param_hint=option) from error


@contextmanager
def printing_at_first(world: "Processes") -> Iterator[None]:
    """Let only the first of several processes print, for work whose errors all of them meet."""
    if world.is_first:
        yield
        return
    with Path(os.devnull).open("w") as nowhere:
        try:
            with redirect_stdout(nowhere), redirect_stderr(nowhere):
                yield
        except (RepaError, OSError) as error:
            raise typer.Exit(1) from error
