"""Names of classes: those of the registry's data sets, and which class a name means.

ImageNet's are read from the files of the package timm, without importing it.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from textwrap import shorten

from repa.errors import RepaError
from repa.registry.entries import fetch, find_entry, load_registry

_LISTED = 5  # classes that a message lists before it says how many more there are
_LONGEST = 60  # letters of a name or a meaning in a message


@dataclass(frozen=True)
class ClassName:
    """What a class is called: one or more words for the same, and perhaps what they mean."""

    words: tuple[str, ...]
    meaning: str = ""


def class_names_of_dataset(name: object) -> tuple[ClassName, ...]:
    """Return the names of a registered data set's classes, by label; none of any other name.

    Raises:
        MissingPackageError: The package that holds them is not installed.
    """
    datasets = load_registry()["datasets"]
    known = (
        datasets[name].get("class_names") if isinstance(name, str) and name in datasets else None
    )
    return () if known is None else _names_in_package(known)


@cache
def _names_in_package(name: str) -> tuple[ClassName, ...]:
    entry, order = find_entry("class_names", name), fetch("class_names", name)
    words, meanings = (
        dict(line.split("\t", 1) for line in _lines(order.with_name(entry[kind])))
        for kind in ("words", "meanings")
    )
    return tuple(
        ClassName(tuple(words[synset].split(", ")), meanings[synset]) for synset in _lines(order)
    )


def _lines(path: Path) -> list[str]:
    return path.read_text("utf-8").splitlines()


def class_called(name: str, classes: Sequence[ClassName]) -> int:
    """Return the label of the class that a name means: one spelt like it, or else alike.

    Alike are names but for capitals, and for spaces, hyphens and underscores between words. A part
    of a name, even of one class alone, is no name.

    Raises:
        RepaError: It means no class, or several; the message lists them, or what is close.
    """
    spelt = {label for label, each in enumerate(classes) if name in each.words}
    alike = _alike(name)
    found = spelt or {k for k, each in enumerate(classes) if alike in map(_alike, each.words)}
    if len(found) == 1:
        return found.pop()
    shown = name[:_LONGEST]
    if found:
        listed = _listed(sorted(found), classes, meaning=True)
        raise RepaError(f"{shown!r} is the name of several classes: {listed}; give a number.")
    parts = [
        k for k, each in enumerate(classes) if any(_within(alike, word) for word in each.words)
    ]
    if alike and parts:
        raise RepaError(f"no class is called {shown!r}, but {_listed(parts, classes)}; give one.")
    close = get_close_matches(alike, _by_word(classes), n=3)
    near = list(dict.fromkeys(_by_word(classes)[word] for word in close))
    hint = f"; did you mean {_listed(near, classes)}?" if near else "."
    raise RepaError(f"no class is called {shown!r}{hint}")


def _by_word(classes: Sequence[ClassName]) -> dict[str, int]:
    return {_alike(word): label for label, each in enumerate(classes) for word in each.words}


def _alike(name: str) -> str:
    return " ".join(re.split(r"[\s_-]+", name.casefold())).strip()


def _within(part: str, word: str) -> bool:
    return f" {part} " in f" {_alike(word)} "


def _listed(labels: Iterable[int], classes: Sequence[ClassName], *, meaning: bool = False) -> str:
    labels = list(labels)
    texts = []
    for label in labels[:_LISTED]:
        each = classes[label]
        said = shorten(each.meaning, _LONGEST, placeholder=" ...") if meaning else ""
        what = f" ({said})" if said else ""
        texts.append(f"{label} {each.words[0][:_LONGEST]}{what}")
    more = f" and {len(labels) - _LISTED} more" if len(labels) > _LISTED else ""
    return ", ".join(texts) + more
