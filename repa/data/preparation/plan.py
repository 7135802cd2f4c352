"""What a preparation will make, known when every file has been inspected: rows, files, manifest."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import PIL

from repa.data.held_out import amount_text, held_out_rows
from repa.data.image_set import ImageSet
from repa.data.preparation.encoding import Networks
from repa.data.preparation.inspection import (
    OTHER_COLOURS,
    TRANSPARENT,
    TURNED,
    Inspection,
)
from repa.data.preparation.settings import PrepareConfig
from repa.data.prepared_set import FORMAT, labels_digest
from repa.data.row_files import HELD_OUT, IMAGES, Layout, RowFile, rows_end
from repa.errors import DataError
from repa_base.device import environment, kernels_of
from repa_base.files import size_text

CROP = "center-crop-dhariwal"
"""The reference's name of ADM's crop."""

_RULE = "of each class its share, the smallest SHA-256 of a file's content first"
_PLACES = ("name", "autoencoder")  # where an autoencoder was found; its weights tell it apart
_MEANINGS = {
    TRANSPARENT: "transparent",
    OTHER_COLOURS: "other_colours",
    TURNED: "turned",
}


@dataclass(frozen=True)
class Plan:
    """Rows and files of a set, and all of its manifest that does not come of the rows.

    Rows count the images that are kept, in the order of the source, and then those held out.

    Attributes:
        source: Where the pictures come from.
        inspection: What was seen of them.
        places: int64, the file of every row.
        num_kept: Rows that are not held out.
        layout: The files.
        manifest: Plain values.
    """

    source: ImageSet = field(repr=False)
    inspection: Inspection = field(repr=False)
    places: np.ndarray = field(repr=False)
    num_kept: int
    layout: Layout
    manifest: Mapping[str, Any]

    @cached_property
    def identity(self) -> str:
        """A hash of everything that decides the rows, in hexadecimal."""
        return hashlib.sha256(json.dumps(self.manifest, sort_keys=True).encode()).hexdigest()

    @property
    def num_rows(self) -> int:
        """Number of images, those held out too."""
        return len(self.places)

    def keys(self, row: int) -> tuple[str, ...]:
        """Return the files that a row is written to."""
        return (HELD_OUT,) if row >= self.num_kept else tuple(self.layout.files)

    def place_in(self, key: str, row: int) -> int:
        """Return which of a file's rows a row is."""
        return row - self.num_kept if key == HELD_OUT else row

    def blocks(self) -> list[range]:
        """Return the rows that are encoded together."""
        size, kept, total = self.manifest["batch_size"], self.num_kept, self.num_rows
        ends = ((0, kept), (kept, total))
        return [
            range(s, min(s + size, end)) for first, end in ends for s in range(first, end, size)
        ]


def make_plan(
    config: PrepareConfig, source: ImageSet, inspection: Inspection, networks: Networks
) -> Plan:
    """Decide what is kept, what is held out, and where every row stands.

    Raises:
        DataError: No image of the source, or of a class, is left.
    """
    usable, labels = inspection.usable, source.labels
    if not len(usable):
        raise DataError(f"{source.name} holds no images that can be used.")
    known = np.zeros(source.count, np.int64) if labels is None else labels
    _check_classes(source, known[usable], "that can be used")
    chosen = np.zeros(len(usable), bool)
    if config.held_out is not None:
        hashes = [content.hex() for content in inspection.hashes(usable)]
        chosen = held_out_rows(hashes, known[usable], config.held_out)
    kept, held = usable[~chosen], usable[chosen]
    _check_classes(source, known[kept], "left, with those held out")
    layout = Layout(
        image_size=config.image_size,
        count=len(kept),
        labels=None if labels is None else labels[kept],
        held_out=len(held),
        held_out_labels=None if labels is None else labels[held],
        moments_shape=networks.moments_shape,
        features=networks.features,
        flip=config.flip,
    )
    manifest = {
        **settings_manifest(config, source, networks),
        "count": len(kept),
        "labels": labels_digest(layout.labels),
        "content": _content(source, inspection, np.concatenate([kept, held])),
        "skipped": [source.names[place] for place in _others(source, usable)],
        "converted": {
            name: inspection.num_flagged(usable, flag) for flag, name in _MEANINGS.items()
        },
        "sizes": _sizes(inspection.records[usable], config.image_size),
    }
    if manifest["held_out"]:
        manifest["held_out"]["count"] = len(held)
    places = np.concatenate([kept, held]).astype(np.int64)
    manifest = json.loads(json.dumps(manifest))  # as it is when it is read: no tuples
    return Plan(source, inspection, places, len(kept), layout, manifest)


def settings_manifest(
    config: PrepareConfig, source: ImageSet, networks: Networks
) -> dict[str, Any]:
    """Return what the manifest says that no file has to be read for, as plain values."""
    held_out = None
    if config.held_out is not None:
        held_out = {"rule": _RULE, "amount": amount_text(config.held_out)}
    manifest = {
        "format": FORMAT,
        "source": {"name": source.name, "kind": source.kind},
        "image_size": config.image_size,
        "crop": CROP,
        "held_out": held_out,
        "num_classes": source.num_classes,
        "class_names": list(source.class_names),
        **networks.described(),
        "batch_size": config.batch_size,
        "versions": versions(networks),
    }
    return json.loads(json.dumps(manifest))  # as it is when it is read: no tuples


def identity_of(manifest: Mapping[str, Any]) -> str:
    """Return a hash of all that is in a set, but not of where its autoencoder was found."""
    told = {**manifest, "autoencoder": without_place(manifest["autoencoder"])}
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()


def without_place(value: Any) -> Any:  # noqa: ANN401
    """Return what a manifest says of an autoencoder, but not by which name and path."""
    if not isinstance(value, dict):
        return value
    return {k: without_place(v) for k, v in value.items() if k not in _PLACES}


def described(layout: Layout) -> str:
    """Say how large a set is and what of it is large: 12.4 GB (images 2.1 GB, ...)."""
    files = layout.all_files
    parts = [f"{key} {size_text(rows_end(file))}" for key, file in files.items()]
    total = size_text(total_bytes(layout))
    return f"{total} ({', '.join(parts)})" if len(parts) > 1 else total


def total_bytes(layout: Layout) -> int:
    """Return the size of the files, all but the ends of zips."""
    return sum(map(file_bytes, layout.all_files.values()))


def file_bytes(file: RowFile) -> int:
    """Return the size of a file's rows, and about that of a zip's end."""
    return rows_end(file) + (140 * file.count if file.key in (IMAGES, HELD_OUT) else 0)


def notes_of(plan: Plan) -> list[str]:
    """Return what a person should know of what became of the pictures."""
    manifest, notes = plan.manifest, []
    told = {
        "transparent": "had transparency, which was dropped as in the reference",
        "other_colours": "were grey, of a palette or of inks, and became RGB",
        "turned": "ask by EXIF to be turned, and were taken as they are stored",
    }
    notes += [f"{n:,} pictures {told[k]}." for k, n in manifest["converted"].items() if n]
    if enlarged := manifest["sizes"]["enlarged"]:
        notes.append(f"{enlarged:,} pictures were smaller than the images, and were enlarged.")
    return notes


def versions(networks: Networks) -> dict[str, str]:
    """Return the versions of what the bytes may depend on, and whose arithmetic they are of."""
    found = {"pillow": PIL.__version__}
    if networks.autoencoder or networks.encoders:
        found |= {"torch": environment()["torch"], "kernels": kernels_of(networks.device)}
    return found


def _check_classes(source: ImageSet, labels: np.ndarray, words: str) -> None:
    """Refuse a class that has a folder and no image."""
    counts = np.bincount(labels, minlength=source.num_classes)
    if source.class_names and not counts.all():
        name = source.class_names[int(np.argmin(counts))]
        raise DataError(f"{source.name}: the class {name} has no images {words}.")


def _content(source: ImageSet, inspection: Inspection, places: np.ndarray) -> str:
    """Return a hash of the names and the content of the files, in their order."""
    digest = hashlib.sha256()
    for place, content in zip(places.tolist(), inspection.hashes(places), strict=True):
        name = source.names[place].encode("utf-8", "surrogateescape")
        digest.update(content + len(name).to_bytes(4, "little") + name)
    return digest.hexdigest()


def _others(source: ImageSet, usable: np.ndarray) -> Sequence[int]:
    return np.setdiff1d(np.arange(source.count), usable).tolist()


def _sizes(records: np.ndarray, image_size: int) -> dict[str, Any]:
    """Return the least and greatest sides, and how many pictures are enlarged or cut."""
    width, height = records["width"].astype(int), records["height"].astype(int)
    return {
        "width": [int(width.min()), int(width.max())],
        "height": [int(height.min()), int(height.max())],
        "enlarged": int(np.count_nonzero(np.minimum(width, height) < image_size)),
        "cut": int(np.count_nonzero(width != height)),
    }
