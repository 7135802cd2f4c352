"""Results to stdout, as a table or JSON; progress and diagnostics to stderr."""

import errno
import json
import os
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from repa.errors import OtherProcessError, RepaError, SettingError
from repa_base.launcher import leave_error, tells_errors

if TYPE_CHECKING:
    from repa_base.processes import Processes
    from repa_cli.showing.bars import Bar, Lines

_MANY = 1_000_000
"""Numbers of a bar above this are shortened: 3.2G."""


def print_error(message: str) -> None:
    """Print one line on stderr, whatever line breaks the message holds."""
    typer.echo(f"repa: error: {' '.join(message.split())}", err=True)


def tell_error(message: str, *, consequence: bool = False) -> None:
    """Tell an error once: by a line, or where a launcher of several processes looks for it.

    Our own launcher prints it for all. torchrun shows in its report what the others than the first
    met; without it every process prints its own. A `consequence` is that of another process's end.
    """
    if not leave_error(message, consequence=consequence) or tells_errors():
        print_error(message)


def error_text(error: Exception) -> str:
    """Return what is printed of an error that a user can mend."""
    if isinstance(error, OSError) and error.strerror:
        where = error.filename
        if where is None and error.errno in (errno.ENOSPC, errno.EDQUOT):
            where = "an output could not be written"
        return f"{error.strerror}." if where is None else f"{where}: {error.strerror}."
    return str(error) or type(error).__name__


def print_note(message: str) -> None:
    """Print a diagnostic on stderr, above the bars that are there."""
    if (bars := sys.modules.get("repa_cli.showing.bars")) is None:
        typer.echo(f"repa: {message}", err=True)
        return
    with bars.Bar.external_write_mode(file=sys.stderr):
        typer.echo(f"repa: {message}", err=True)


def print_warning(message: str) -> None:
    """Print on stderr what may make a result other than it looks."""
    print_note(f"warning: {message}")


def print_json(value: object) -> None:
    """Print a value as JSON on stdout; floats keep every digit."""
    typer.echo(json.dumps(value, indent=2))


def print_table(headings: Sequence[str], rows: Iterable[Sequence[str]], *, left: int = 1) -> None:
    """Print a table on stdout, the `left` first columns to the left, numbers to the right."""
    rows = [tuple(headings), *(tuple(row) for row in rows)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(headings))]
    for number, row in enumerate(rows):
        cells = [cell.ljust(width) for cell, width in zip(row[:left], widths, strict=False)]
        cells += [cell.rjust(width) for cell, width in zip(row[left:], widths[left:], strict=True)]
        typer.echo("  ".join(cells).rstrip())
        if number == 0:
            typer.echo("  ".join("-" * width for width in widths))


def progress_bar(
    total: int | None,
    unit: str,
    description: str,
    /,
    *,
    shown: bool = True,
    **options: Any,  # noqa: ANN401
) -> "Bar | Lines":
    """Return a bar on stderr with rate and time left, or lines where stderr is no terminal.

    Args:
        total: What there is to do, if it is known.
        unit: What is counted, in the plural.
        description: What is done.
        shown: Whether anything is shown.
        options: Other ones of tqdm, for the bar; the unit B is bytes.
    """
    from repa_cli.showing.bars import Bar, Lines

    if shown and not sys.stderr.isatty():
        return Lines(total, unit, description, write=print_note)
    options = {"unit_scale": (total or 0) > _MANY, "smoothing": 0.05, **options}
    unit = f" {unit}" if unit and unit != "B" else unit
    named = {"desc": description, "unit": unit, "dynamic_ncols": True}
    return Bar(total=total, file=sys.stderr, disable=not shown, **{**named, **options})


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
        from repa_base.locks import NoLocksWarning

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
            leave_error(error_text(error), consequence=isinstance(error, OtherProcessError))
            raise typer.Exit(1) from error
