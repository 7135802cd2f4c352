"""Dialects: the forms in which people publish checkpoints, one file each.

`DIALECTS` lists them by name in the order in which they are tried, `convert` finds the one that a
file speaks, or takes the one that is said. Another dialect is another file and another line.
"""

from dataclasses import replace
from typing import Protocol

from repa.checkpoints.architecture import Converted
from repa.checkpoints.contents import Contents, unwrap
from repa.checkpoints.dialects import (
    dit,
    haste,
    internal_guidance,
    irepa,
    ours,
    repa,
    repa_e,
    self_flow,
    sit,
    sra,
)
from repa.checkpoints.dialects.refused import refusal
from repa.checkpoints.hints import AS_SAID, ASSUMED, Hints
from repa.errors import UntoldError, suggestion
from repa.tensor_file import Extra, Tensors

__all__ = ["DIALECTS", "Dialect", "convert"]


class Dialect(Protocol):
    """What a dialect's file defines."""

    @property
    def TOLD_BY(self) -> str:  # noqa: N802
        """What `recognise` goes by, in a few words."""
        ...

    def recognise(self, contents: Contents) -> bool:
        """Whether a file speaks this dialect, or one that stands later in the list."""
        ...

    def fits(self, contents: Contents) -> bool:
        """Whether a file may speak it, so that it does if a person says so."""
        ...

    def convert(self, contents: Contents, hints: Hints) -> Converted:
        """Return what a file that fits holds, and the state dict of that network.

        For an odd file anything that `convert` below names may be raised.
        """
        ...


DIALECTS: dict[str, Dialect] = {
    "ours": ours,
    "self-flow": self_flow,
    "internal-guidance": internal_guidance,
    "repa-e": repa_e,
    "sra": sra,
    "irepa": irepa,
    "haste": haste,
    "sit": sit,
    "dit": dit,
    "repa": repa,
}


def convert(tensors: Tensors, extra: Extra, hints: Hints) -> tuple[str, Converted]:
    """Return the dialect's name and what it makes of a file.

    Raises:
        ValueError: No dialect recognises it, several do, the one that is said does not fit, it is
            of a known network that is not supported, or it is odd.
        TypeError, AttributeError, LookupError, ArithmeticError: It is odd.
    """
    contents = unwrap(tensors, extra)
    if reason := refusal(contents.tensors):
        raise ValueError(reason)
    name, by = _dialect_of(contents, hints)
    found = DIALECTS[name].convert(contents, hints)
    told = {"dialect": by, **found.told}
    if by == AS_SAID:
        told["dialect"] = _said_against(contents, name)
    return name, replace(found, told=told)


def _dialect_of(contents: Contents, hints: Hints) -> tuple[str, str]:
    """Return the dialect's name, and what tells it."""
    said = hints.dialect
    if said and not hints.giving_way:
        return _said(contents, said, hints), AS_SAID
    name = _recognised(contents)
    told = not DIALECTS[name].TOLD_BY.startswith(ASSUMED)
    if said in DIALECTS and not told and DIALECTS[said].fits(contents):
        return said, AS_SAID
    name = _found(contents, hints)
    return name, DIALECTS[name].TOLD_BY


def _said(contents: Contents, name: str, hints: Hints) -> str:
    if name not in DIALECTS:
        raise ValueError(f"cannot be read: unknown dialect {name!r}{suggestion(name, DIALECTS)}")
    if name != "ours" and ours.recognise(contents):  # whose tensors are turned already
        raise ValueError("has a description that says what it is: leave out --dialect")
    if not DIALECTS[name].fits(contents):
        found = _found(contents, hints)
        raise ValueError(f"does not speak the dialect {name}: its tensors are those of {found}")
    return name


def _said_against(contents: Contents, name: str) -> str:
    """Say that a person told the dialect, and what speaks for another one."""
    found = _recognised(contents)
    if found in (name, "repa"):  # which is what is left
        return AS_SAID
    return f"{ASSUMED}it is {name}'s, as said, although its arguments are those of {found}"


def _recognised(contents: Contents) -> str:
    return next(name for name, dialect in DIALECTS.items() if dialect.recognise(contents))


def _found(contents: Contents, hints: Hints) -> str:
    name = _recognised(contents)
    if name == "repa" and irepa.is_told_by(hints.latents, contents):
        return "irepa"
    if name == "repa" and sit.fits(contents) and sit.has_both_halves(contents.tensors):
        what = "which the same tensors may be: SiT predicts a velocity and DiT noise"
        raise UntoldError(f"may speak the dialect sit or dit, {what}. Say --dialect sit or dit")
    return name
