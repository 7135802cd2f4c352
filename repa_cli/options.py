"""Options of the commands: those that several have, and those that are made of settings."""

import functools
import inspect
import os
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import MISSING
from pathlib import Path
from typing import Annotated, Any, get_args

import typer
from typer.core import TyperCommand

from metrics.settings import Resize
from repa.errors import suggestion
from repa.registry import entry_names
from repa_base.launcher import OURS
from repa_base.settings import LARGEST, Rule, flag_of, rules
from repa_cli.output import setting_errors_as_options

_NETWORKS = tuple(entry_names("networks"))


class Command(TyperCommand):
    """A command whose whole numbers are at most what 64 bits hold."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:  # noqa: ANN401
        """Read what was typed, and refuse a larger number as mistyped."""
        rest = super().parse_args(ctx, args)
        for parameter in self.params:
            found = ctx.params.get(parameter.name)
            for value in found if isinstance(found, list | tuple) else [found]:
                if isinstance(value, int) and abs(value) > LARGEST:
                    reason = f"{value} is beyond 2**63 - 1."
                    raise typer.BadParameter(reason, ctx, parameter)  # pyright: ignore
        return rest


def choice(kind: str, known: Iterable[str]) -> Callable[[str], str]:
    """Return a parser that accepts the known names and otherwise suggests the closest one."""
    known = tuple(known)

    def parse(value: str) -> str:
        if value not in known:
            raise typer.BadParameter(f"unknown {kind} {value!r}{suggestion(value, known)}")
        return value

    return parse


def setting_options(
    settings: type,
    *,
    parsers: Mapping[str, Callable[[str], Any]] | None = None,
    defaults: bool = True,
    other_defaults: Mapping[str, Mapping[str, Any]] | None = None,
    first: tuple[str, ...] = (),
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Add an option to a command for every setting of a dataclass that has a rule.

    The command takes them as keyword arguments of the settings' names, those that were typed and no
    others. What the settings refuse is an error of their option, with exit code 2. In the help they
    stand before the command's own `device`.

    Args:
        settings: A dataclass of `repa_base.settings.setting` fields.
        parsers: Text to value, for settings of other types than numbers, names and switches.
        defaults: Whether the help shows the defaults.
        other_defaults: Of some settings, the defaults in other cases, by the name of the case.
        first: Settings whose options come first.
    """
    names = [*first, *(name for name in rules(settings) if name not in first)]

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        signature = inspect.signature(command)
        own = [p for p in signature.parameters.values() if p.kind is not p.VAR_KEYWORD]
        place = [p.name for p in own].index("device")
        others = {
            name: (other_defaults or {}).get(name, {}) if defaults else None for name in names
        }
        options = {n: _option(settings, n, (parsers or {}).get(n), others[n]) for n in names}
        keyword = inspect.Parameter.KEYWORD_ONLY
        made = [inspect.Parameter(n, keyword, default=None, annotation=options[n]) for n in names]

        @functools.wraps(command)
        def run(**values: Any) -> Any:  # noqa: ANN401
            given = {k: v for k, v in values.items() if v is not None or k not in names}
            with setting_errors_as_options({name: flag_of(settings, name) for name in names}):
                return command(**given)

        own = [p.replace(kind=keyword) for p in own]
        parameters = [*own[:place], *made, *own[place:]]
        run.__signature__ = signature.replace(parameters=parameters)  # pyright: ignore
        run.__annotations__ = {p.name: p.annotation for p in parameters}
        return run

    return decorate


def _option(
    settings: type,
    name: str,
    parser: Callable[[str], Any] | None,
    others: Mapping[str, Any] | None,
) -> Any:  # noqa: ANN401
    """Return the annotation of a setting's option; it is None where nothing is typed.

    The help shows no default if `others`, the defaults in other cases, is None.
    """
    declared, rule = rules(settings)[name]
    flag, kind = flag_of(settings, name), declared.type
    details: dict[str, Any] = {"help": _help(declared.default, rule, others), "show_default": False}
    if rule.choices and parser is None:
        parser = choice(name, rule.choices)
    if kind is bool:
        # What is off unless it is typed needs no word to turn it off.
        flag = (
            flag if others is not None and declared.default is False else f"{flag}/--no-{flag[2:]}"
        )
    elif kind in (int, float):
        details |= {"min": rule.low, "max": rule.high, "metavar": rule.value}
    else:
        kind = Path if kind is Path and parser is None else str
        details |= {"parser": parser, "metavar": rule.value or (parser and "NAME")}
        details["autocompletion"] = _beginnings(rule.choices)
    return Annotated[kind | None, typer.Option(flag, **details)]  # pyright: ignore


def _beginnings(known: Iterable[str]) -> Callable[[str], list[str]]:
    """Return what gives a shell the known names that begin as is typed."""
    return lambda incomplete: [name for name in known if name.startswith(incomplete)]


def _help(default: object, rule: Rule, others: Mapping[str, Any] | None) -> str:
    if rule.above is not None:
        return f"{rule.help}  [x>{rule.above:g}]"
    unsaid = default is False or default in (MISSING, None, "", ()) or "[default" in rule.help
    if others is None or unsaid:
        return rule.help
    shown = [_default(default), *(f"{case}: {_default(value)}" for case, value in others.items())]
    return f"{rule.help}  [default: {'; '.join(shown)}]"


def _default(value: object) -> str:
    if isinstance(value, tuple):
        return ",".join(f"{part:g}" for part in value)
    if isinstance(value, bool):
        return "on" if value else "off"
    return str(value)


def is_given(context: typer.Context, name: str) -> bool:
    """Whether a parameter was typed, rather than left at its default."""
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


def refuse_without(context: typer.Context, needed: str, *names: str) -> None:
    """Refuse options that were typed where they have no effect, for want of the needed one."""
    for name in names:
        if is_given(context, name):
            reason = f"has no effect without {needed}"
            raise typer.BadParameter(reason, param_hint="--" + name.replace("_", "-"))


def _device(value: str) -> str:
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", value):
        raise typer.BadParameter(f"unknown device {value!r}: use auto, cpu, cuda or cuda:1")
    return value


def _launched(context: typer.Context, count: int | None) -> None:
    """Run the whole command in several processes instead, unless this is one of them."""
    started = "TORCHELASTIC_RUN_ID" in os.environ
    if count is None or (started and OURS in os.environ):
        return
    if started:
        raise typer.BadParameter("torchrun has started the processes already: leave it out.")
    from repa_cli.running.launch import launch

    typed = context.obj  # what `main` was given
    raise typer.Exit(launch(count, sys.argv[1:] if typed is None else typed))


ProcessCount = Annotated[
    int | None,
    typer.Option(
        "--processes",
        min=1,
        max=1024,
        metavar="N",
        help="Processes on this machine that share the work, one a GPU; an error is one message. "
        "On several machines: torchrun ... -m -- repa_cli ...",
        callback=_launched,
        show_default=False,
    ),
]
Device = Annotated[
    str,
    typer.Option(
        "--device",
        help="Where to compute: auto (a GPU when there is one), cpu, cuda, cuda:1.",
        metavar="NAME",
        parser=_device,
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON on stdout instead of a table.")]
Overwrite = Annotated[
    bool, typer.Option("--overwrite", help="Replace an existing output made by other settings.")
]
Replace = Annotated[bool, typer.Option("--overwrite", help="Replace an existing output.")]
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
HeldOutNetwork = Annotated[
    str | None,
    typer.Option(
        "--features",
        metavar="NAME",
        help="Metric network of the reference that is made of held-out images: "
        f"{', '.join(_NETWORKS)}.  [default: inception]",
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
    Resize,
    typer.Option(
        "--resize",
        metavar="NAME",
        help="default: the network's own; clean: clean-fid's, for inception's FID-clean.",
        parser=choice("resize", get_args(Resize)),
    ),
]
MetricBatchSize = Annotated[int, typer.Option("--batch-size", min=1, help="Images at once.")]
Compiled = Annotated[
    bool, typer.Option("--compile", help="Compile the network: faster after half a minute.")
]
NoCache = Annotated[
    bool, typer.Option("--no-cache", help="Measure all images anew, and keep no features.")
]
