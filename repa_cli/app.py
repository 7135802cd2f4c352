"""The app, the registration of its commands, and the one place where errors become text.

Importing this file, or any command, does not import torch: `repa --help` must answer at once.
"""

import errno
import os
import sys
import warnings
from typing import Annotated, Any

import typer

from repa.errors import RepaError, UnknownNameError
from repa_cli import cache, export, fid, sample, stats, train
from repa_cli.output import print_error, shown_warnings
from repa_cli.showing.downloads import shown_downloads

app = typer.Typer(
    name="repa",
    help="Train, sample and evaluate SiT with representation alignment (REPA).",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for command in (sample.sample, fid.fid, stats.stats, cache.cache, train.train, export.export):
    app.command()(command)


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
    # A picture that is too large is refused in our own words.
    warnings.filterwarnings("ignore", "Image size .* exceeds limit")
    try:
        with shown_downloads(), shown_warnings():
            code: Any = app(arguments, standalone_mode=False)
    except typer.TyperException as error:
        show = getattr(error, "format_message", error.__str__)
        if type(error).__name__ == "NoArgsIsHelpError":
            typer.echo(show())
            sys.exit(2)
        _fail(show(), code=2)
    except (typer.Abort, KeyboardInterrupt):
        _fail("interrupted.", code=130)
    except BrokenPipeError:
        # The reader of our output (`head`, say) has left: that is no error of ours.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except (RepaError, OSError) as error:
        _fail(_text(error), code=2 if isinstance(error, UnknownNameError) else 1)
    else:
        sys.exit(code if isinstance(code, int) else 0)


def _text(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        where = error.filename
        if where is None and error.errno in (errno.ENOSPC, errno.EDQUOT):
            where = "an output could not be written"
        return f"{error.strerror}." if where is None else f"{where}: {error.strerror}."
    return str(error) or type(error).__name__


def _fail(message: str, code: int) -> None:
    print_error(message)
    sys.exit(code)
