"""What a data set holds, for a person: counts, sizes, latents, and images for a sheet."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from metrics.images.source import Batches
from repa.autoencoders.autoencoder import Autoencoder
from repa.autoencoders.latent_space import LatentSpace
from repa.data.digits import load_digits
from repa.data.headers import read_headers
from repa.data.image_set import ImageSet
from repa.data.prepared_set import PreparedSet, is_prepared, is_unfinished, open_prepared
from repa.data.reference_folder import is_reference_folder
from repa.data.sources import open_source
from repa.errors import DataError
from repa_base.progress import Steps

DIGITS, _DIGITS_SIZE = "digits", 32
_MOST_ROWS, _BATCH = 2048, 64
_FAR_MEAN, _STD_RANGE = 2.5, (0.25, 3.0)
"""Beyond what right latents have: those of ImageNet by Stable Diffusion's autoencoder, scaled, have
means of -0.4 to 1.1 and standard deviations of 0.6 to 0.9 (EDM2's training/encoders.py, raw_mean
and raw_std times 0.18215); with the scale left out or applied twice, 3 to 5, or 0.1."""


@dataclass(frozen=True)
class SetImages:
    """Images of a data set as a `metrics.ImageSource`, read one at a time."""

    name: str
    count: int
    shape: tuple[int, int, int] | None
    labels: np.ndarray | None
    class_names: tuple[str, ...]
    read: Callable[[int], np.ndarray]
    manifest: None = None

    def batches(self, batch_size: int, start: int = 0, stop: int | None = None) -> Batches:
        """Yield images `start` to `stop`, one a batch where they may differ in size."""
        for index in range(start, self.count if stop is None else stop):
            yield self.read(index)[None]

    def sha256(self, progress: Steps | None = None) -> str:
        """Raise TypeError: nothing is measured of them."""
        raise TypeError("images to look at are not measured.")


def open_set(path: str | Path) -> PreparedSet | ImageSet | str:
    """Open a prepared set, a folder or zip of pictures, or `digits`, which stands for itself.

    Raises:
        DataError: It is damaged or unfinished, or holds no pictures.
        FileNotFoundError: There is nothing.
    """
    if path == DIGITS:
        return DIGITS
    path = Path(path)
    if is_prepared(path) or is_unfinished(path) or is_reference_folder(path):
        return open_prepared(path)
    return open_source(path)


def overview(data: PreparedSet | ImageSet | str, progress: Steps | None = None) -> dict[str, Any]:
    """Describe a set as plain values for JSON, with `warnings` in words.

    Of latents, mean and standard deviation by channel are those of a model's x: of 2,048 images at
    even distances at most, by the law of total variance, without a draw. `progress` counts images.

    Raises:
        DataError: A part of it is damaged, or pictures of a folder or zip cannot be used.
    """
    if isinstance(data, PreparedSet):
        return _of_prepared(data, progress)
    if isinstance(data, ImageSet):
        found = {"name": data.name, "kind": data.kind, "images": data.count}
        headers = read_headers(data, progress)
        return (
            found
            | _classes(data.labels, data.num_classes, data.class_names)
            | {
                "sizes": _extremes(headers.sizes),
                "converted": dict(headers.converted),
                "other_files": dict(data.not_taken),
                "warnings": [],
            }
        )
    labels = load_digits("train", 8)[1]
    found = {"name": DIGITS, "kind": "built in", "images": len(labels)}
    held_out = {"count": len(load_digits("heldout", 8)[1]), "reference": "digits-heldout"}
    return found | _classes(labels, 10, ()) | {"held_out": held_out, "warnings": []}


def images_to_show(
    data: PreparedSet | ImageSet | str, autoencoder: Autoencoder | None = None
) -> SetImages:
    """Return the images of a set; with an autoencoder, the means of its moments, decoded.

    Raises:
        DataError: It holds no moments to decode.
    """
    if isinstance(data, PreparedSet):
        side, read = data.image_size, lambda index: data.images([index])[0]
        if autoencoder is not None:
            space = _space_of(data)
            read = lambda index: _decoded(data, index, space, autoencoder)  # noqa: E731
        labels = data.labels if data.num_classes > 1 else None
        shape = (side, side, 3)
        return SetImages(data.folder.name, data.count, shape, labels, data.class_names, read)
    if autoencoder is not None:
        raise DataError("only a prepared set holds moments to decode.")
    if isinstance(data, ImageSet):
        read = lambda index: data.picture(index).pixels  # noqa: E731
        return SetImages(data.name, data.count, None, data.labels, data.class_names, read)
    images, labels = load_digits("train", _DIGITS_SIZE)
    return SetImages(DIGITS, len(images), images.shape[1:], labels, (), images.__getitem__)


def _of_prepared(data: PreparedSet, progress: Steps | None) -> dict[str, Any]:
    manifest, warnings = data.manifest, []
    latents = None
    if data.latent_space is not None:
        latents = _latents(data, data.latent_space, progress)
        if not latents.pop("near"):
            warnings.append(
                "the latents are far from mean 0 and standard deviation 1: of another autoencoder "
                "than their scale is for, or not as [mean, std]"
            )
    found = {"name": data.folder.resolve().name, "kind": "prepared set", "images": data.count}
    return (
        found
        | _classes(data.labels, data.num_classes, data.class_names)
        | {
            "image_size": data.image_size,
            "source": manifest.get("source"),
            "sizes": manifest.get("sizes"),
            "converted": manifest.get("converted"),
            "skipped": len(manifest.get("skipped") or ()),
            "latents": latents,
            "encoders": {name: list(shape) for name, shape in data.feature_shapes.items()},
            "flip": data.flip,
            "held_out": manifest.get("held_out"),
            "identity": data.identity,
            "warnings": warnings,
        }
    )


def _classes(labels: np.ndarray | None, num_classes: int, names: tuple[str, ...]) -> dict[str, Any]:
    if labels is None or num_classes == 1:
        return {"classes": 1, "images_by_class": None}
    counts = np.bincount(labels, minlength=num_classes)
    named = {names[i] if i < len(names) else str(i): int(n) for i, n in enumerate(counts)}
    return {"classes": num_classes, "images_by_class": named}


def _extremes(sizes: np.ndarray) -> dict[str, Any]:
    height, width = sizes.T
    extremes = {k: [int(s.min()), int(s.max())] for k, s in (("width", width), ("height", height))}
    return extremes | {"cut": int(np.count_nonzero(width != height))}


def _latents(data: PreparedSet, space: LatentSpace, progress: Steps | None) -> dict[str, Any]:
    rows = np.unique(np.linspace(0, data.count - 1, min(data.count, _MOST_ROWS)).astype(int))
    sums, seen = [], 0
    for start in range(0, len(rows), _BATCH):
        chosen = rows[start : start + _BATCH]
        mean, deviation = np.split(data.moments(chosen).astype(np.float64), 2, axis=1)
        squares = mean**2 + deviation**2
        sums.append([part.mean((2, 3)).sum(0) for part in (mean, squares)])
        seen += len(chosen)
        if progress is not None:
            progress(seen, len(rows))
    first, second = np.sum(sums, axis=0) / len(rows)
    points = torch.from_numpy(np.stack([first, np.zeros_like(first), np.ones_like(first)]))
    mean, zero, one = (space.from_autoencoder(p[:, None, None]).flatten().numpy() for p in points)
    std = np.abs(one - zero) * np.sqrt(np.maximum(second - first**2, 0))
    low, high = _STD_RANGE
    near = bool((np.abs(mean) < _FAR_MEAN).all() and ((std > low) & (std < high)).all())
    about = {"autoencoder": space.autoencoder, "shape": list(data.moments_shape or ())}
    values = {"mean": mean.tolist(), "std": std.tolist(), "measured": len(rows)}
    return about | values | {"near": near}


def _space_of(data: PreparedSet) -> LatentSpace:
    if data.latent_space is None:
        raise DataError(f"{data.folder} holds no latents to decode: prepare it with --autoencoder.")
    return data.latent_space


def _decoded(
    data: PreparedSet, index: int, space: LatentSpace, autoencoder: Autoencoder
) -> np.ndarray:
    mean = torch.from_numpy(data.moments([index])).chunk(2, dim=1)[0]
    x = space.from_autoencoder(mean).to(autoencoder.device)
    pixels = autoencoder.decode(x, space)[0].clamp(-1, 1)
    return (127.5 * pixels + 127.5).round().byte().permute(1, 2, 0).cpu().numpy()
