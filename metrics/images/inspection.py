"""What passes by on the way to the network is looked at: repeated images, one colour, value range.

Looking costs no reading of its own: `InspectedImages` looks over the shoulder of whoever reads.
What the findings mean for the numbers is `metrics.report.lint`'s to say.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Int64, UInt8

from metrics.images.source import Batches, ImageBatch, ImagesOfSource
from repa_base.progress import Steps

_DIGEST_BYTES = 16


@dataclass(frozen=True)
class ImageFindings:
    """What the pixels of a set of images tell.

    Attributes:
        count: Images seen.
        num_duplicates: How many of them equal an earlier one in every pixel.
        first_duplicate: Index of the first such image and of the one that it equals.
        num_constant: How many have one colour throughout.
        first_constant: Index of the first of these.
        value_range: Least and greatest value of all images, within 0 and 255.
    """

    count: int
    num_duplicates: int
    first_duplicate: tuple[int, int] | None
    num_constant: int
    first_constant: int | None
    value_range: tuple[int, int]

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "ImageFindings":
        """Take back what `to_dict` gave, also after JSON has made lists of the tuples."""
        plain: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value for key, value in values.items()
        }
        return cls(**plain)


class ImageInspector:
    """Looks at images as they pass by, in any order; a digest of 16 bytes an image is kept.

    Instances can be pickled, so that processes can send theirs and `merge` them. Images that pass
    twice count once.
    """

    def __init__(self) -> None:
        self._digests: dict[int, bytes] = {}
        self._constant: set[int] = set()
        self._low, self._high = 255, 0

    def update(self, images: ImageBatch, start: int) -> None:
        """Look at images `start`, `start` + 1, ... of the set."""
        lows = images.min(axis=(1, 2))
        highs = images.max(axis=(1, 2))
        self._low = min(self._low, int(lows.min()))
        self._high = max(self._high, int(highs.max()))
        constant = np.flatnonzero((lows == highs).all(axis=1))
        self._constant.update(int(index) + start for index in constant)
        for index, image in enumerate(images, start):
            digest = hashlib.blake2b(str(image.shape).encode(), digest_size=_DIGEST_BYTES)
            digest.update(np.ascontiguousarray(image).data)
            self._digests[index] = digest.digest()

    def merge(self, other: "ImageInspector") -> None:
        """Add the images that `other` has seen."""
        self._digests |= other._digests
        self._constant |= other._constant
        self._low, self._high = min(self._low, other._low), max(self._high, other._high)

    def digests(self) -> UInt8[np.ndarray, "seen 16"]:
        """Return a digest of each image that passed, in order; equal images have equal ones."""
        joined = b"".join(self._digests[index] for index in sorted(self._digests))
        return np.frombuffer(joined, np.uint8).reshape(-1, _DIGEST_BYTES)

    def finish(self) -> ImageFindings | None:
        """Return what was found, or None if no image passed."""
        if not self._digests:
            return None
        first_seen: dict[bytes, int] = {}
        repeats = []
        for index in sorted(self._digests):
            earlier = first_seen.setdefault(self._digests[index], index)
            if earlier != index:
                repeats.append((index, earlier))
        return ImageFindings(
            count=len(self._digests),
            num_duplicates=len(repeats),
            first_duplicate=repeats[0] if repeats else None,
            num_constant=len(self._constant),
            first_constant=min(self._constant, default=None),
            value_range=(self._low, self._high),
        )


def count_shared(
    digests: UInt8[np.ndarray, "images 16"], others: UInt8[np.ndarray, "others 16"]
) -> int:
    """Count the images that equal one of the others in every pixel, by `ImageInspector.digests`."""
    ours, theirs = (
        np.ascontiguousarray(each).view(f"S{_DIGEST_BYTES}").ravel() for each in (digests, others)
    )
    return int(np.isin(ours, theirs).sum())


@dataclass(frozen=True)
class InspectedImages(ImagesOfSource):
    """A source whose images are looked at as they are read, by the thread that reads them."""

    inspector: ImageInspector = field(default_factory=ImageInspector)

    @property
    def count(self) -> int:
        """The source's."""
        return self.images.count

    @property
    def labels(self) -> Int64[np.ndarray, " count"] | None:
        """The source's."""
        return self.images.labels

    def batches(self, batch_size: int, start: int = 0, stop: int | None = None) -> Batches:
        """Yield images `start` to `stop`."""
        for batch in self.images.batches(batch_size, start, stop):
            self.inspector.update(batch, start)
            start += len(batch)
            yield batch

    def sha256(self, progress: Steps | None = None) -> str:
        """Return the source's hash."""
        return self.images.sha256(progress)
