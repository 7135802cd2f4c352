"""`repa inspect`: what a checkpoint holds, and whether it makes images."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from repa_cli.checkpoints import hints
from repa_cli.options import Device, Json, refuse_without
from repa_cli.output import print_json, print_table, progress_bar
from repa_cli.running.start import Loading

if TYPE_CHECKING:
    from repa.inspection import Check, Inspection

_SHOWN = 4
"""Numbers of a list that are shown."""


def inspect(
    context: typer.Context,
    source: hints.Source,
    check: Annotated[
        bool,
        typer.Option(
            "--check",
            help="Also sample a small batch, and say whether it looks like images; exit code 1 if "
            "it does not, or cannot be told.",
        ),
    ] = False,
    autoencoder: Annotated[
        str | None,
        typer.Option(
            metavar="NAME|PATH",
            help="Decoder of latents, with --check.  [default: the checkpoint's]",
            show_default=False,
        ),
    ] = None,
    dialect: hints.Dialect = None,
    num_heads: hints.NumHeads = None,
    encoder_depth: hints.EncoderDepth = None,
    latents: hints.Latents = None,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Tell what a checkpoint holds, where that is from, and how it is sampled.

    What nothing in the file says is marked as assumed. Nothing in the file is executed.
    """
    if not check:
        refuse_without(context, "--check", "autoencoder", "device")
    with Loading():
        from repa.inspection import CHECKED_IMAGES, check_checkpoint, inspect_checkpoint, verdict
        from repa_base.device import resolve_device

    said = {"dialect": dialect, "num_heads": num_heads}
    said |= {"encoder_depth": encoder_depth, "latents": latents}
    found, checks = inspect_checkpoint(source, **said), []
    if check:
        with progress_bar(CHECKED_IMAGES, "images", "checking") as bar:
            tell = lambda done, _: bar.update(done - bar.n)  # noqa: E731
            options = {"autoencoder": autoencoder, "progress": tell, **said}
            checks = check_checkpoint(source, resolve_device(device), **options)
    passed: bool | None = verdict(checks) if check else True
    if as_json:
        made = {"checks": [asdict(each) for each in checks], "passed": passed} if check else {}
        print_json(found.to_dict() | made)
    else:
        print_table(("checkpoint", found.name, "where it is from"), _rows(found), left=3)
        if check:
            typer.echo()
            print_table(("check", "found", "expected", ""), map(_check_row, checks), left=4)
            words: dict[bool | None, str] = {
                True: "makes what looks like images",
                False: "does not make images",
                None: "could not be checked in full",
            }
            typer.echo(f"\n{found.name} {words[passed]}.")
    if not passed:
        raise typer.Exit(1)


def _rows(found: "Inspection") -> Iterator[tuple[str, str, str]]:
    yield "file", str(found.path), ""
    for fact in found.facts:
        yield from _fact_rows(fact.name, fact.value, fact.source or "")
    for part, count in found.parameters.items():
        yield f"parameters: {part}", f"{count:,}", ""
    for name, value in found.sampling.items():
        source = found.sampling_source if name == next(iter(found.sampling)) else ""
        yield f"sampled by: {name.replace('_', ' ')}", _text(value), source
    for name, value in found.arguments.items():
        yield f"argument: {name}", _text(value), ""


def _fact_rows(name: str, value: Any, source: str) -> Iterator[tuple[str, str, str]]:  # noqa: ANN401
    title = name.replace("_", " ")
    if not isinstance(value, Mapping):
        yield title, _text(value, " x " if name == "input" else ", "), source
        return
    for number, (part, each) in enumerate(value.items()):
        yield f"{title}: {part}", _text(each), "" if number else source


def _text(value: object, between: str = ", ") -> str:
    if isinstance(value, list | tuple):
        shown = [_text(each) for each in value[:_SHOWN]]
        more = len(value) - len(shown)
        return between.join([*shown, *([f"and {more} more"] if more else [])])
    if isinstance(value, float):
        return f"{value:.6g}"
    return "not known" if value is None else str(value)


def _check_row(check: "Check") -> tuple[str, str, str, str]:
    found = "" if check.found is None else f"{check.found:.3g}"
    result = {True: "passed", False: "FAILED", None: "not made"}[check.passed]
    return (
        check.name,
        found,
        check.expected,
        f"{result}: {check.advice}" if check.advice else result,
    )
