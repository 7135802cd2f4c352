"""The app, the registration of its commands, and the one place where errors become text.

Importing this file, or any command, does not import torch: `repa --help` must answer at once.
"""

import functools
import os
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Annotated, Any, NoReturn

import typer

from repa.errors import OtherProcessError, RepaError, UnknownNameError
from repa_base.errors import is_out_of_memory
from repa_cli import cache, fid, grid, plot, sample, stats, train
from repa_cli.checkpoints import export, inspect, models
from repa_cli.data_sets import data, prepare
from repa_cli.options import Command
from repa_cli.output import error_text, setting_errors_as_options, shown_warnings, tell_error
from repa_cli.running.start import INTERRUPTED, Unbegun
from repa_cli.showing.downloads import shown_downloads

_unbegun = Unbegun()
_GRACE = 10  # seconds
_NO_MEMORY = "out of memory: end what else is in it, or compute on a device that has more."


def _begun(command: Callable[..., Any]) -> Callable[..., Any]:
    """Return a command that ends the time before it began, and whose Ctrl-C reaches `main`.

    A setting that is refused is an error of its option.
    """

    @functools.wraps(command)
    def run(*arguments: Any, **options: Any) -> Any:  # noqa: ANN401
        _unbegun.end()
        try:
            with setting_errors_as_options():
                return command(*arguments, **options)
        except KeyboardInterrupt:
            raise typer.Abort from None  # Typer would make a silent exit of it

    return run


app = typer.Typer(
    name="repa",
    help="Train, sample and evaluate SiT with representation alignment (REPA).",
    no_args_is_help=True,
    add_completion=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for command in (
    sample.sample,
    fid.fid,
    stats.stats,
    grid.grid,
    cache.cache,
    prepare.prepare,
    data.data,
    train.train,
    plot.plot,
    export.export,
    inspect.inspect,
    models.models,
    models.download,
):
    app.command(cls=Command)(_begun(command))


def _print_version(value: bool) -> None:
    if value:
        from importlib.metadata import version

        typer.echo(f"repa-toolkit {version('repa-toolkit')}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool,
        typer.Option(
            "--version", help="Print the version.", callback=_print_version, is_eager=True
        ),
    ] = False,
) -> None:
    """Train, sample and evaluate SiT with representation alignment (REPA)."""


def main(arguments: list[str] | None = None) -> None:
    """Run the command; what a user can mend becomes one line on stderr and exit code 1 or 2.

    Exit code 2 is for what was typed, 1 for what was found (a file, a download, a full disk), 130
    for an interrupt. Anything else is a bug of ours and keeps its traceback.
    """
    _refuse_empty(sys.argv[1:] if arguments is None else arguments)
    # A picture that is too large is refused in our own words.
    warnings.filterwarnings("ignore", "Image size .* exceeds limit")
    try:
        with _unbegun, shown_downloads(), shown_warnings():
            code: Any = app(arguments, standalone_mode=False, obj=arguments)
    except typer.TyperException as error:
        show = getattr(error, "format_message", error.__str__)
        if type(error).__name__ == "NoArgsIsHelpError":
            typer.echo(show())
            sys.exit(2)
        _fail(show(), code=2)
    except (typer.Abort, KeyboardInterrupt):
        _fail("interrupted.", code=INTERRUPTED)
    except BrokenPipeError:
        # The reader of our output (`head`, say) has left: that is no error of ours.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except (RepaError, OSError) as error:
        code = 2 if isinstance(error, UnknownNameError) else 1
        _fail(error_text(error), code, consequence=isinstance(error, OtherProcessError))
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        _fail(_NO_MEMORY, code=1)
    else:
        _end(code if isinstance(code, int) else 0)


def _refuse_empty(arguments: Sequence[str]) -> None:
    """Refuse an empty value, which a forgotten variable of a script gives: a path would be here."""
    for before, value in pairwise(["", *arguments]):
        option = before if before.startswith("-") else "an argument"
        if value.startswith("--") and value.endswith("="):
            option, value = value[:-1], ""
        if not value:
            _fail(f"Invalid value for {option}: is empty.", code=2)


def _fail(message: str, code: int, *, consequence: bool = False) -> None:
    tell_error(message, consequence=consequence)
    if consequence and "TORCHELASTIC_ERROR_FILE" in os.environ:
        # A launcher ends all at the first end, which is to be that of the cause, with its message.
        time.sleep(_GRACE)
    _end(code)


def _end(code: int) -> NoReturn:
    """End the process; one of several at once, as what torch tears down may abort it."""
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        sys.exit(code)
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(code)
