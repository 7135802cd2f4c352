"""A prepared set on disk, read a row at a time: images, moments and features of any images of it.

What a set holds its manifest says, prepared.json, which is written last: a folder without it is no
prepared set. Every row is compared with its checksum whenever it is read.
"""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from repa.autoencoders.latent_space import LatentSpace
from repa.data.row_files import (
    ANEW,
    HELD_OUT,
    IMAGES,
    ImageZip,
    Layout,
    features_key,
    moments_key,
    read_labels,
    read_rows,
)
from repa.errors import DataError, first_line, suggestion
from repa_base.checksums import parse_json, unsealed

MANIFEST, CHECKSUMS = "prepared.json", "checksums.npz"
"""Files of a prepared set."""

PROGRESS, INSPECTION = "prepare.progress", "prepare.inspection"
"""Files that only an unfinished one has."""

FORMAT = 1
Indices = Iterable[int] | np.ndarray


class Rows(Protocol):
    """What reads the rows of a set, by the key of their file: `images`, `moments`, ..."""

    def __call__(self, key: str, indices: Indices) -> np.ndarray:
        """Return rows."""
        ...


@dataclass(frozen=True)
class PreparedSet:
    """Images of one size with their labels, and what was computed of them beforehand.

    It may be used by several threads and processes; nothing is held open.

    Attributes:
        folder: Where it is.
        manifest: What prepared.json says, as plain values.
        count: Number of images, N.
        num_classes: Number of classes; 1 where there are none.
        image_size: Side of the images in pixels.
        class_names: By label; empty where classes have numbers alone, or there are none.
        labels: int64 (N,), zeros where there are no classes.
        latent_space: Of the moments; None without them.
        moments_shape: Of an image's moments, (2 C, h, w); None without them.
        feature_shapes: Number of tokens and width of an image's features, by encoder.
        flip: Whether moments and features of the mirrored images are there.
        identity: A hash of all that is in it.
    """

    folder: Path
    manifest: Mapping[str, Any]
    count: int
    num_classes: int
    image_size: int
    class_names: tuple[str, ...]
    labels: np.ndarray
    latent_space: LatentSpace | None
    moments_shape: tuple[int, int, int] | None
    feature_shapes: Mapping[str, tuple[int, int]]
    flip: bool
    identity: str
    rows: Rows

    @property
    def encoders(self) -> tuple[str, ...]:
        """The encoders whose features are there."""
        return tuple(self.feature_shapes)

    @property
    def encoder_weights(self) -> dict[str, str | None]:
        """SHA-256 of the weights that made an encoder's features; None where it is not known."""
        told = {each["name"]: each.get("sha256") for each in self.manifest.get("encoders") or ()}
        return {name: told.get(name) for name in self.encoders}

    def images(self, indices: Indices) -> np.ndarray:
        """Return images uint8 (B, H, W, 3).

        Raises:
            DataError: An image is not as it was written, here and in the other two.
        """
        return self.rows(IMAGES, indices)

    def moments(self, indices: Indices, *, flipped: bool = False) -> np.ndarray:
        """Return moments float32 (B, 2 C, h, w), mean and then standard deviation, of images.

        Raises:
            DataError: There are none, or none of the mirrored images.
        """
        if self.moments_shape is None:
            raise DataError(f"{self.folder} holds no latents: prepare it with --autoencoder.")
        self._check_flip(flipped)
        return self.rows(moments_key(flipped=flipped), indices)

    def features(self, encoder: str, indices: Indices, *, flipped: bool = False) -> np.ndarray:
        """Return an encoder's features float16 (B, tokens, D) of images.

        Raises:
            DataError: There are none of this encoder, or none of the mirrored images.
        """
        if encoder not in self.feature_shapes:
            hint = suggestion(encoder, self.feature_shapes)
            raise DataError(f"{self.folder} holds no features of {encoder!r}{hint}.")
        self._check_flip(flipped)
        return self.rows(features_key(encoder, flipped=flipped), indices)

    def _check_flip(self, flipped: bool) -> None:
        if flipped and not self.flip:
            raise DataError(f"{self.folder} holds nothing of mirrored images: prepare with --flip.")


def is_prepared(folder: Path) -> bool:
    """Whether a folder is a prepared set by its manifest, finished, whatever else it lacks."""
    return (folder / MANIFEST).is_file()


def is_unfinished(folder: Path) -> bool:
    """Whether a folder is a set whose preparation was interrupted."""
    begun = any((folder / name).exists() for name in (PROGRESS, INSPECTION))
    return begun and not is_prepared(folder)


def open_prepared(folder: Path) -> PreparedSet:
    """Open a set that `repa prepare` has made, or the reference's own, in place.

    Raises:
        DataError: It is neither, unfinished, damaged, cut short, or of another version; the message
            is one line that names the file.
    """
    from repa.data.reference_folder import is_reference_folder, open_reference_folder

    if is_prepared(folder):
        return _open(folder)
    if is_unfinished(folder):
        raise DataError(f"{folder} is not finished: repeat the command that prepares it.")
    if not is_reference_folder(folder):
        lack = f"no {MANIFEST} in it" if folder.is_dir() else "no such folder"
        raise DataError(f"{folder} is no prepared set ({lack}): make one with repa prepare.")
    return open_reference_folder(folder)


def read_manifest(folder: Path) -> dict[str, Any]:
    """Return the manifest of a prepared set.

    Raises:
        DataError: There is none, it is damaged, or of another version.
    """
    path = folder / MANIFEST
    try:
        manifest = unsealed(parse_json(path.read_text("utf-8")))
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}.") from error
    except ValueError as error:
        raise DataError(f"{path} is damaged ({first_line(error)}); {ANEW}.") from error
    if manifest.get("format") != FORMAT:
        found = manifest.get("format")
        raise DataError(f"{path} is of format {found!r}; this version reads {FORMAT}: {ANEW}.")
    return manifest


@dataclass(frozen=True)
class StoredRows:
    """The rows of a set that `repa prepare` has made."""

    folder: Path
    layout: Layout
    checksums: Mapping[str, np.ndarray]

    def __call__(self, key: str, indices: Indices) -> np.ndarray:
        """Return rows, checked.

        Raises:
            DataError: A row is not as it was written.
            IndexError: There is no such row.
        """
        file = self.layout.all_files[key]
        places = [int(index) for index in indices]
        if places and not 0 <= min(places) <= max(places) < file.count:
            raise IndexError(f"rows must be in [0, {file.count}), got {min(places)} or more.")
        return read_rows(self.folder, file, places, self.checksums[key])


def _open(folder: Path) -> PreparedSet:
    manifest = read_manifest(folder)
    try:
        latents, encoders = manifest["autoencoder"], manifest["encoders"]
        space = latents and LatentSpace(**latents["latent_space"])
        layout = Layout(
            image_size=_whole(manifest, "image_size"),
            count=_whole(manifest, "count"),
            labels=None,
            held_out=(manifest["held_out"] or {}).get("count", 0),
            moments_shape=tuple(latents["moments_shape"]) if latents else None,
            features={each["name"]: (each["tokens"], each["dim"]) for each in encoders},
            flip=manifest["flip"],
        )
        about = (
            _whole(manifest, "num_classes"),
            tuple(manifest["class_names"]),
            manifest["identity"],
        )
        sizes = {name: file["size"] for name, file in manifest["files"].items()}
        digest = manifest["labels"]
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise DataError(f"{folder / MANIFEST} lacks something: {error!r}; {ANEW}.") from error
    _check_sizes(folder, sizes)
    checksums = _read_checksums(folder, layout)
    labels = _read_labels(folder, layout, digest)
    num_classes, class_names, identity = about
    return PreparedSet(
        folder=folder,
        manifest=manifest,
        count=layout.count,
        num_classes=num_classes,
        image_size=layout.image_size,
        class_names=class_names,
        labels=labels,
        latent_space=space,
        moments_shape=layout.moments_shape,
        feature_shapes=dict(layout.features),
        flip=layout.flip,
        identity=identity,
        rows=StoredRows(folder, layout, checksums),
    )


def _whole(manifest: Mapping[str, Any], name: str) -> int:
    if type(value := manifest[name]) is not int or value < 1:
        raise ValueError(f"{name} is {value!r}")
    return value


def held_out_labels(prepared: PreparedSet) -> np.ndarray:
    """Return the labels int64 (M,) of the images held out of a set; zeros without classes.

    Raises:
        DataError: They are damaged, or label none of the classes.
    """
    count = (prepared.manifest.get("held_out") or {}).get("count", 0)
    if prepared.manifest.get("labels") is None:
        return np.zeros(count, np.int64)
    labels = read_labels(prepared.folder, ImageZip(HELD_OUT, prepared.image_size, count, None))
    if len(labels) and not 0 <= labels.min() <= labels.max() < prepared.num_classes:
        raise DataError(
            f"{prepared.folder}: labels of held-out images are none of its classes; {ANEW}."
        )
    return labels


def labels_digest(labels: np.ndarray | None) -> str | None:
    """Return the hash of labels, None for none."""
    return None if labels is None else hashlib.sha256(labels.astype("<i8").tobytes()).hexdigest()


def _check_sizes(folder: Path, sizes: Mapping[str, int]) -> None:
    for name, size in sizes.items():
        path = folder / name
        if not path.is_file():
            raise DataError(f"{path} is missing: {ANEW}.")
        if (found := path.stat().st_size) != size:
            cut = "is cut short" if found < size else "is too long"
            raise DataError(f"{path} {cut}: {found:,} bytes, not {size:,}; {ANEW}.")


def _read_checksums(folder: Path, layout: Layout) -> dict[str, np.ndarray]:
    path = folder / CHECKSUMS
    try:
        # numpy leaves a file that it cannot read open, if it has opened it
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
            found = {key: file[key] for key in layout.all_files}
    except Exception as error:  # a damaged zip fails in many ways
        raise DataError(f"{path} is damaged ({first_line(error)}); {ANEW}.") from error
    for key, file in layout.all_files.items():
        if found[key].shape != (file.count,) or found[key].dtype != np.uint32:
            found_not = f"those of {key} are not {file.count} numbers"
            raise DataError(f"{path} is damaged ({found_not}); {ANEW}.")
    return found


def _read_labels(folder: Path, layout: Layout, digest: str | None) -> np.ndarray:
    if digest is None:
        return np.zeros(layout.count, np.int64)
    labels = read_labels(folder, layout.files[IMAGES])
    if labels_digest(labels) != digest:
        path = folder / layout.files[IMAGES].name
        raise DataError(f"{path}: its labels are not those of {MANIFEST}; {ANEW}.")
    return labels
