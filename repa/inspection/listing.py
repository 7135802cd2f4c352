"""The registry as a list, and one entry of it fetched. Does not import torch."""

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from repa.autoencoders.hub import WEIGHTS, autoencoder_folder, cached_autoencoder
from repa.errors import DownloadError, MissingPackageError, UnknownNameError
from repa.registry import (
    Entry,
    Pins,
    cache_dir,
    cached_path,
    fetch,
    find_entry,
    is_packaged,
    load_registry,
    packaged_path,
)

MODELS = ("checkpoints", "autoencoders", "latents")
"""Sections that images are made by."""
SECTIONS = (*MODELS, "networks", "references", "samples", "encoders")
"""Sections of what can be fetched, in the order in which a name is looked for."""
_KINDS = {
    "checkpoints": "checkpoint",
    "autoencoders": "autoencoder",
    "latents": "statistics of latents",
    "networks": "network that measures",
    "references": "reference statistics",
    "samples": "published images",
    "encoders": "encoder",
}


@dataclass(frozen=True, kw_only=True)
class ListedEntry:
    """An entry of the registry as a person wants to see it; None is what is not known.

    `size` is in bytes. `path` is where its file or folder is on this machine, None if it is not;
    `by` says how it comes: "download", "package" or "built in", or "hand" if its own address is not
    known. `published` has the rows of papers and READMEs about it by name, the lowest FID first.
    """

    name: str
    section: str
    what: str
    by: str
    size: int | None
    path: Path | None
    licence: str | None
    address: str | None
    sha256: str | None
    pinned: str | None
    published: Mapping[str, Mapping[str, Any]]
    source: str


def list_entries(sections: Iterable[str] = MODELS) -> list[ListedEntry]:
    """Return what is registered in some sections, of `SECTIONS`; nothing is fetched.

    Raises:
        UnknownNameError: No such section.
        ChecksumError: The file of pins is damaged, see `repa.registry.pins`.
    """
    listed = []
    for section in sections:
        if section not in SECTIONS:
            raise UnknownNameError("section", section, SECTIONS)
        listed += [_listed(section, name) for name in load_registry()[section]]
    return listed


def find_section(name: str) -> str:
    """Return the section of a name: the first of `SECTIONS` that has it.

    Raises:
        UnknownNameError: None has it; the message holds the closest name.
    """
    for section in SECTIONS:
        if name in load_registry()[section]:
            return section
    known = {known for section in SECTIONS for known in load_registry()[section]}
    models = {known for section in MODELS for known in load_registry()[section]}
    raise UnknownNameError("name", name, difflib.get_close_matches(name, known, 5, 0.5) or models)


def download_entry(name: str) -> ListedEntry:
    """Fetch the file or folder of a registered name, unless it is on this machine; return it.

    A file is whole, checked and pinned, see `repa.registry.fetch`; one that broke off is gone on
    with. `repa_base.downloads.reporting_downloads` shows how far it is.

    Raises:
        UnknownNameError: No such name; the message holds the closest one.
        DownloadError, MissingPackageError, ChecksumError: As `repa.registry.fetch`.
    """
    section = find_section(name)
    if section == "autoencoders":
        autoencoder_folder(name)
    elif "builtin" not in find_entry(section, name):
        fetch(section, name)
    return _listed(section, name)


def _listed(section: str, name: str) -> ListedEntry:
    entry = find_entry(section, name)
    path, pin = _path(section, name, entry), Pins(cache_dir()).find(section, name)
    rows = load_registry()["published"].items()
    published = {
        n: row for n, row in rows if section == "checkpoints" and row["checkpoint"] == name
    }
    return ListedEntry(
        name=name,
        section=section,
        what=entry.get("what") or _what(section, entry),
        by=_by(entry),
        size=entry.get("size") or _size(path) or (pin or {}).get("size"),
        path=path,
        licence=entry.get("licence"),
        address=entry.get("url") or entry.get("page"),
        sha256=entry.get("sha256"),
        pinned=pin["sha256"] if pin else None,
        published=dict(sorted(published.items(), key=lambda item: item[1]["metrics"]["fid"])),
        source=entry["source"],
    )


def _what(section: str, entry: Entry) -> str:
    return f"{_KINDS[section]} {entry['timm']}" if "timm" in entry else _KINDS[section]


def _by(entry: Entry) -> str:
    if "builtin" in entry:
        return "built in"
    if is_packaged(entry):
        return "package"
    return "download" if entry.get("url") else "hand"


def _path(section: str, name: str, entry: Entry) -> Path | None:
    """Return where an entry's file is on this machine; what is there is not checked."""
    if section == "autoencoders":
        return cached_autoencoder(name)
    if is_packaged(entry):
        try:
            return packaged_path(name, entry)
        except (DownloadError, MissingPackageError):
            return None
    if not entry.get("file"):
        return None
    path = cached_path(section, entry)
    return path if path.exists() else None


def _size(path: Path | None) -> int | None:
    if path is None:
        return None
    file = path / WEIGHTS if path.is_dir() else path
    return file.stat().st_size if file.exists() else None
