"""References: what a name or a path means, and which entry of the registry a file's content is."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from metrics import ArrayImages, ImageSource, NoiseImages, Reference, open_reference
from metrics.report.lint import PUBLISHED_COUNT, LintWarning
from repa.data import load_digits
from repa.errors import ChecksumError, DataError, UnknownNameError
from repa.registry import (
    Entry,
    cached_path,
    check_file,
    entry_names,
    fetch,
    file_sha256,
    find_entry,
    is_registered,
    load_registry,
)

_BUILT_IN = {"digits": load_digits}
_LARGEST_BUILT_IN = 256
"""Pixels of a side: built-in data is made in the size of the images to judge, in memory."""


def reference_path(name: str) -> Path | None:
    """Return the file or folder that is meant, or None for a name in the registry.

    Raises:
        UnknownNameError: It is neither.
    """
    if is_registered("references", name):
        return None
    if not name or not Path(name).exists():
        raise UnknownNameError("reference, file or folder", name, entry_names("references"))
    return Path(name)


def open_named_reference(name: str, shape: tuple[int, int, int] | None) -> Reference:
    """Open a reference by its name in the registry, downloaded if need be, or by its path.

    Args:
        name: What `repa.registry.is_registered` takes for a name; else a path.
        shape: Height, width and 3 of the images to judge; built-in data sets are made in this size.

    Raises:
        UnknownNameError: There is no such file and no such name.
        DataError: The built-in data set cannot be made in this shape.
        InputError: The file is damaged or no reference.
    """
    path = reference_path(name)
    if path is not None:
        return open_reference(path)
    entry = find_entry("references", name)
    if "builtin" in entry:
        return Reference(name, _built_in_images(name, entry["builtin"], entry["split"], shape))
    return open_reference(fetch("references", name))


@dataclass(frozen=True)
class Provenance:
    """Which entry of the registry a reference is, by its content.

    Attributes:
        name: The entry's; where it is none, the path that was given.
        entry: What the registry says of it; empty where it is none.
        verified: Whether the file came by that name or has the bytes of the entry's file. Otherwise
            no hash of that is known, and the form alone is the same.
    """

    name: str
    entry: Entry = field(default_factory=dict)
    verified: bool = True

    @property
    def published_count(self) -> int | None:
        """How many images published numbers take; None for built-in data, which has none."""
        return None if "builtin" in self.entry else PUBLISHED_COUNT

    def lint(self, reference: Reference) -> list[LintWarning]:
        """Warn that nothing but its form says what a reference is."""
        if self.verified:
            return []
        count, side = self.entry["num_images"], self.entry["image_size"]
        return [
            LintWarning(
                "reference-unverified",
                f"{reference.name} has the form of {self.name} ({count} images of {side} x {side} "
                "beside statistics), and no hash of that file is known: unverified",
                "the numbers compare with published ones only if it is that file",
            )
        ]


def provenance(name: str, reference: Reference) -> Provenance:
    """Say which entry of the registry a reference is; the name of a file plays no part.

    Args:
        name: As for `open_named_reference`, which opened it.
        reference: The opened reference.
    """
    if is_registered("references", name):
        return Provenance(name, find_entry("references", name))
    entries: Mapping[str, Entry] = load_registry()["references"]
    files = {known: entry for known, entry in entries.items() if "file" in entry}
    same = {known: _same_content(entry, Path(name)) for known, entry in files.items()}
    for known, entry in files.items():
        if same[known]:
            return Provenance(known, entry)
    for known, entry in files.items():
        if same[known] is None and _same_form(entry, reference):
            return Provenance(known, entry, verified=False)
    return Provenance(name)


def baselines(
    reference: str, shape: tuple[int, int, int] | None, count: int
) -> dict[str, ImageSource]:
    """Return image sets that show what a metric's numbers mean.

    Args:
        reference: The reference's name; real training images are known for built-in data sets.
        shape: Height, width and 3 of the images to judge.
        count: How many images to judge there are; the sets are as large where they can be.

    Returns:
        `real`, training images, the best that can be hoped for, where they are known; and `noise`,
        uniform noise, the worst.

    Raises:
        DataError: The images to judge are of several sizes.
    """
    if shape is None:
        raise DataError("baselines need images of one size.")
    found: dict[str, ImageSource] = {}
    known = is_registered("references", reference)
    entry = find_entry("references", reference) if known else {}
    if "builtin" in entry:
        real = _built_in_images("training images", entry["builtin"], "train", shape)
        found["real"] = ArrayImages(real.images[:count], name=real.name)
    return found | {"noise": NoiseImages(count, shape)}


def _same_content(entry: Entry, path: Path) -> bool | None:
    """Whether a file has the bytes of an entry's, None where nothing here tells."""
    if not path.is_file():
        return False
    kept = cached_path("references", entry)
    if entry["sha256"] is None and not kept.is_file():
        return None
    try:
        check_file(path, entry=entry)
    except ChecksumError:
        return False
    if entry["sha256"] is not None or path.samefile(kept):
        return True
    same_size = path.stat().st_size == kept.stat().st_size
    return same_size and file_sha256(path) == file_sha256(kept)


def _same_form(entry: Entry, reference: Reference) -> bool:
    """Whether a reference is of ADM's form, with as many images of the size as an entry's."""
    statistics, images = reference.statistics, reference.images
    if statistics is None or images is None or entry.get("num_images") is None:
        return False
    adms = statistics.spatial is not None and statistics.network is None
    side = entry["image_size"]
    same = (images.count, images.shape) == (entry["num_images"], (side, side, 3))
    return adms and same and statistics.pool.count is None  # ADM's files do not say how many


def _built_in_images(
    name: str, dataset: str, split: str, shape: tuple[int, int, int] | None
) -> ArrayImages:
    if shape is None or shape[0] != shape[1] or shape[0] > _LARGEST_BUILT_IN:
        size = f"{shape[0]} x {shape[1]}" if shape else "several sizes"
        raise DataError(
            f"{name} compares with square images of one size, {_LARGEST_BUILT_IN} pixels at most, "
            f"not with {size}."
        )
    load: Callable[..., Any] = _BUILT_IN[dataset]
    images, labels = load(split, shape[0])
    return ArrayImages(images, name=name, labels=labels)
