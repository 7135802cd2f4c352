"""Images held out of training: which, by a fixed rule on their contents, and what is made of them.

Neither names nor the order of the files count, so that the same files are always divided alike.
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, fields
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from repa.errors import SettingError
from repa.registry import cache_dir
from repa_base.files import write_text

HELD_OUT = "held-out"
"""How the files of held-out images begin, in a prepared set."""

_FEWEST = 2  # the covariance of a reference needs two images
_COUNT, _SHARE = re.compile(r"[0-9]{1,18}"), re.compile(r"0?\.[0-9]{1,18}")
_SHA256, _LONGEST_NAME = re.compile(r"[0-9a-f]{64}"), 300


@dataclass(frozen=True)
class HeldOutReference:
    """What images of a model are judged by: statistics of the images that were held out.

    Checkpoints and the manifests of their samples hold it. It says what the file is, not where: the
    file moves, and they are copied to other machines.

    Attributes:
        name: The data set's.
        sha256: Of the file, as `repa stats` writes it.
        network: Name of the metric network whose features it holds.
    """

    name: str
    sha256: str
    network: str

    def __post_init__(self) -> None:
        for field, value in asdict(self).items():
            if not isinstance(value, str) or not 0 < len(value) <= _LONGEST_NAME:
                raise ValueError(f"the {field} of its reference is no name")
        if not _SHA256.fullmatch(self.sha256):
            raise ValueError("the sha256 of its reference is no SHA-256 in hexadecimal")

    @classmethod
    def from_mapping(cls, values: object) -> "HeldOutReference":
        """Read what `to_dict` returns, perhaps from a stranger's file.

        Raises:
            ValueError: A value is missing or wrong.
        """
        if not isinstance(values, Mapping):
            raise ValueError("its reference is no mapping")
        known: dict[str, Any] = {field.name: values.get(field.name) for field in fields(cls)}
        return cls(**known)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return asdict(self)

    @property
    def file(self) -> str:
        """The name that `repa prepare` gives the file."""
        return held_out_file(self.network)


def held_out_file(network: str) -> str:
    """Return the name of the reference of held-out images by a metric network."""
    return f"{HELD_OUT}-{network}.npz"


def remember_held_out(path: Path, sha256: str) -> None:
    """Remember where a reference lies; a cache folder that cannot be written remembers nothing."""
    with suppress(OSError):
        write_text(held_out_memory(sha256), str(path.absolute()))


def held_out_memory(sha256: str) -> Path:
    """Return the small file in the cache folder that tells where a reference lies."""
    return cache_dir() / HELD_OUT / sha256


def held_out_amount(text: str) -> int | Fraction:
    """Read what is to be held out: a share between 0 and 1, exactly as it is written, or a count.

    Raises:
        SettingError: It is neither.
    """
    if _COUNT.fullmatch(text) and int(text) >= _FEWEST:
        return int(text)
    if _SHARE.fullmatch(text) and Fraction(text) > 0:
        return Fraction(text)
    raise _error(f"must be a share between 0 and 1, or a count of at least {_FEWEST}, got {text!r}")


def held_out_rows(
    hashes: Sequence[str], labels: np.ndarray | None, amount: float | Fraction
) -> np.ndarray:
    """Choose the images to hold out: in every class its share of them, the smallest hashes first.

    A share is of all images, rounded to the nearest count, half up. A count is divided among the
    classes by their sizes, with the largest remainders rounded up, those of the first classes where
    remainders are equal, and no class gives up its last image. Files of one content, in one class
    or in several, stay together: they are passed over where they do not all fit, so that fewer than
    the count may be held out.

    Args:
        hashes: SHA-256 of each file's content, in hexadecimal.
        labels: Class of each, whole numbers (N,), or None for one class.
        amount: A share between 0 and 1, or a count of at least 2.

    Returns:
        Whether each is held out, bool (N,); the same for a file wherever it stands.

    Raises:
        SettingError: The amount is neither, or comes to too few images, or leaves a class without.
    """
    classes = _classes(len(hashes), labels)
    label_of = classes.tolist()
    sizes = _sizes(classes)
    room = _divided(_count(amount, sizes), sizes)
    together: dict[str, list[int]] = {}
    for row, content in enumerate(hashes):
        together.setdefault(content.lower(), []).append(row)
    chosen = np.zeros(len(hashes), bool)
    for content in sorted(together):
        wanted = Counter(label_of[row] for row in together[content])
        if all(room[label] >= size for label, size in wanted.items()):
            chosen[together[content]] = True
            for label, size in wanted.items():
                room[label] -= size
    if (found := int(chosen.sum())) < _FEWEST:
        reason = f"comes to {found} of {len(hashes)} images, since files of one content stay"
        raise _error(f"{amount_text(amount)} {reason} together; a reference needs {_FEWEST}")
    return chosen


def check_held_out(amount: float | Fraction, count: int, labels: np.ndarray | None) -> None:
    """Refuse an amount that `held_out_rows` would refuse of so many files, whatever they hold.

    Raises:
        SettingError: It comes to too few images, or leaves a class without.
    """
    _count(amount, _sizes(_classes(count, labels)))


def amount_text(amount: float | Fraction) -> str:
    """Return an amount as it is given: `0.1` or `500`."""
    return f"{amount}" if isinstance(amount, int) else f"{float(amount):g}"


def _classes(count: int, labels: np.ndarray | None) -> np.ndarray:
    """Return labels (N,), zeros for one class."""
    classes = np.zeros(count, np.int64) if labels is None else np.asarray(labels)
    if classes.shape != (count,):
        raise ValueError(f"There are {count} files, and labels {classes.shape}.")
    return classes


def _sizes(classes: np.ndarray) -> dict[int, int]:
    return dict(sorted(Counter(classes.tolist()).items()))


def _count(amount: float | Fraction, sizes: Mapping[int, int]) -> int:
    """Return how many images an amount comes to, or refuse it in words."""
    total, text = sum(sizes.values()), amount_text(amount)
    if isinstance(amount, int):
        count = amount
    elif 0 < amount < 1:
        # A float's shortest decimal is what was meant: 0.1, not the next binary number.
        share = amount if isinstance(amount, Fraction) else Fraction(repr(float(amount)))
        count = int(share * total + Fraction(1, 2))
    else:
        raise _error(f"must be a share between 0 and 1, or a count, got {text}")
    if count < _FEWEST:
        reason = f"comes to {count} of {total} images, and a reference needs {_FEWEST}"
        raise _error(f"{text} {reason}; hold out more")
    if count > (most := total - len(sizes)):
        classes = "1 class keeps" if len(sizes) == 1 else f"{len(sizes)} classes keep"
        reason = f"comes to {count} of {total} images; hold out at most {max(most, 0)}"
        raise _error(f"{text} {reason}, so that {classes} an image to train on")
    return count


def _divided(count: int, sizes: Mapping[int, int]) -> dict[int, int]:
    """Divide a count among classes by largest remainders; each keeps one image of its own."""
    total = sum(sizes.values())
    shares = {label: count * size // total for label, size in sizes.items()}
    order = sorted(sizes, key=lambda label: (-(count * sizes[label] % total), label))
    while left := count - sum(shares.values()):
        for label in [label for label in order if shares[label] < sizes[label] - 1][:left]:
            shares[label] += 1
    return shares


def _error(reason: str) -> SettingError:
    return SettingError("held_out", f"held_out {reason}.")
