"""The registry, checkpoints.json: what has a name, where its file is, and how to get it.

Sections: checkpoints, autoencoders, latents (statistics of latents), encoders, networks (that
measure), references, samples (other people's published image files), datasets, published (rows of
papers). A file comes from our own
package, from an installed package, or by download into the cache folder. Does not import torch,
and does not know what the files hold.
"""

import functools
import json
import os
from importlib import resources
from pathlib import Path
from typing import Any

from repa.errors import ChecksumError, DownloadError, MissingPackageError, UnknownNameError
from repa.registry.pins import Pins
from repa_base.checksums import file_sha256
from repa_base.downloads import download

Entry = dict[str, Any]


@functools.cache
def load_registry() -> dict[str, Any]:
    """Read checkpoints.json: in the package `repa` of an installed wheel, else in the checkout."""
    package = own_file(".")
    path = package / "checkpoints.json"
    if not path.exists():
        path = package.parent / "checkpoints.json"
    return json.loads(path.read_text(encoding="utf-8"))


def own_file(relative: str) -> Path:
    """Return the path of a file that is part of the package `repa`."""
    return Path(str(resources.files("repa"))) / relative


def default_checkpoint() -> str:
    """Return the name of the checkpoint that is used when none is named."""
    return load_registry()["default_checkpoint"]


def entry_names(section: str) -> list[str]:
    """Return the names in a section such as "checkpoints"."""
    return list(load_registry()[section])


def find_entry(section: str, name: str) -> Entry:
    """Return an entry of the registry.

    Args:
        section: One of those that the head of this file lists.
        name: Name in that section.

    Raises:
        UnknownNameError: No such name; the message holds the closest one.
    """
    entries = load_registry()[section]
    if name not in entries:
        raise UnknownNameError(section.removesuffix("s"), name, entries)
    return entries[name]


def is_registered(section: str, name_or_path: str | Path) -> bool:
    """Whether a name or path, as a user typed it, means an entry of a section.

    It does if it is text that is spelt exactly like one, also where a file or folder has that name:
    that file is written ./NAME, or given as a Path, which is never a name. This is the one rule for
    everything that takes a name or a path.
    """
    return isinstance(name_or_path, str) and name_or_path in load_registry()[section]


def cache_dir() -> Path:
    """Return the folder of downloads: $REPA_CACHE, or ~/.cache/repa."""
    folder = os.environ.get("REPA_CACHE")
    return Path(folder).expanduser() if folder else Path.home() / ".cache" / "repa"


def cached_path(section: str, entry: Entry) -> Path:
    """Return where an entry's file lies, or would lie, in the cache folder."""
    return cache_dir() / section / entry["file"]


def fetch(section: str, name: str) -> Path:
    """Return the path of an entry's file, downloaded into the cache folder if need be.

    Safe with several processes: one downloads, the others wait. A file that was put into the cache
    by hand is used like a downloaded one; size and hash are checked wherever they are known. A
    download whose hash is not known is pinned, see `repa.registry.pins`.

    Args:
        section: As in `find_entry`.
        name: Name in that section.

    Raises:
        UnknownNameError: No such name.
        DownloadError: The entry has no file, or the download failed; the message names the file,
            the address and where to put it by hand.
        MissingPackageError: The package that holds the file is not installed.
        ChecksumError: The file is not the recorded one.
    """
    entry = find_entry(section, name)
    if is_packaged(entry):
        path = packaged_path(name, entry)
        check_file(path, entry=entry)
        return path
    if entry.get("file"):
        return _cached(section, name, entry)
    raise DownloadError(f"{section.removesuffix('s')} {name!r} has no file to fetch.")


def is_packaged(entry: Entry) -> bool:
    """Whether an entry's file comes with this package or another one, rather than by download."""
    return "package_file" in entry or "package" in entry


def packaged_path(name: str, entry: Entry) -> Path:
    """Return where an entry's file lies that comes with a package, without checking it.

    Raises:
        DownloadError: This package lacks it.
        MissingPackageError: The package that holds it is not installed, or lacks it.
    """
    if "package_file" not in entry:
        return _package_file(name, entry["package"], entry["file"])
    path = own_file(entry["package_file"])
    if not path.exists():
        raise DownloadError(f"{name!r} is part of the package, but {path} is missing: reinstall.")
    return path


def _cached(section: str, name: str, entry: Entry) -> Path:
    """Return the path of a file in the cache folder, downloaded if need be, and check it."""
    path, pins = cached_path(section, entry), Pins(cache_dir())

    def check(file: Path) -> None:
        check_file(file, entry=entry)
        pins.check(section, name, file)

    def check_and_pin(file: Path) -> None:
        check(file)
        if entry.get("sha256") is None:
            pins.add(section, name, file, entry["url"])

    if not path.exists():
        if not entry["url"]:
            raise DownloadError(
                f"{section.removesuffix('s')} {name!r} has no address of its own: find it at "
                f"{entry['page']} and put it at {path}"
            )
        download(entry["url"], path, check=check_and_pin)
    check(path)
    return path


def check_file(path: Path, *, entry: Entry) -> None:
    """Compare a file with the size, hash or beginning of a hash that an entry records, if any.

    Raises:
        ChecksumError: They differ.
    """
    size = path.stat().st_size
    if entry.get("size") not in (None, size):
        raise ChecksumError(
            f"{path}: has {size} bytes instead of {entry['size']}; remove it and try again."
        )
    expected = entry.get("sha256") or entry.get("sha256_prefix")
    if expected and not file_sha256(path).startswith(expected):
        raise ChecksumError(
            f"{path}: its SHA-256 is {file_sha256(path)}, the registry says {expected}; remove it "
            "and try again."
        )


def _package_file(name: str, package: str, relative: str) -> Path:
    from importlib import metadata

    try:
        path = Path(str(metadata.distribution(package).locate_file(relative)))
    except metadata.PackageNotFoundError:
        path = None
    if path is None or not path.exists():
        raise MissingPackageError(
            f"{name!r} comes with a package of its own: python -m pip install {package}"
        )
    return path
