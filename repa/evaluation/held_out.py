"""References of held-out images: found again on this machine, by their hash alone.

Checkpoints and samples say what their reference is, see `repa.data.held_out.HeldOutReference`, and
not where, since they travel. Where each lies is remembered in the cache folder, one small file a
hash, when it is made and when its data are trained on.
"""

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from metrics import ImageSource, InputError
from repa.data.held_out import HELD_OUT, HeldOutReference, held_out_memory
from repa.errors import DataError
from repa.registry import cache_dir
from repa_base.checksums import file_sha256

_SHOWN = 12  # digits of a hash
_MAX_PATH_BYTES = 4096


def stated_reference(samples: ImageSource) -> HeldOutReference | None:
    """Return the reference that a manifest names, or None if it names none.

    Raises:
        InputError: What it names is no reference.
    """
    stated = (samples.manifest or {}).get("reference")
    if stated is None:
        return None
    try:
        return HeldOutReference.from_mapping(stated)
    except ValueError as error:
        raise InputError(f"{samples.name}: its manifest is damaged: {error}.") from error


def find_held_out(reference: HeldOutReference, samples: str) -> Path:
    """Find the file of a reference, told by its hash.

    It is looked for where it was made, beside the samples, and among the references of the cache
    folder.

    Args:
        reference: What is looked for.
        samples: Path of the samples, or what they are called.

    Raises:
        DataError: It is not there; the message names it, and what has taken its place, if anything.
    """
    others = []
    for path in dict.fromkeys(_places(reference, Path(samples))):
        with suppress(OSError):
            if file_sha256(path) == reference.sha256:
                return path
            others.append(path)
    what = f"{reference.file} of {reference.name} (SHA-256 {reference.sha256[:_SHOWN]}...)"
    for path in others:
        if path.name == reference.file:
            reason = f"{path} is another than {what}, which {samples} names"
            raise DataError(
                f"{reason}: the data was prepared anew; name a reference by --ref PATH."
            )
    raise DataError(
        f"{samples} names the reference {what}, which is not found on this machine: name where it "
        "is by --ref PATH."
    )


def _places(reference: HeldOutReference, samples: Path) -> Iterator[Path]:
    with suppress(OSError, UnicodeDecodeError, ValueError):
        with held_out_memory(reference.sha256).open("rb") as file:
            remembered = Path(file.read(_MAX_PATH_BYTES).decode())
        if remembered.is_file():
            yield remembered
    for folder in (samples.parent, cache_dir() / "references"):
        with suppress(OSError):
            yield from sorted(path for path in folder.glob(f"{HELD_OUT}*.npz") if path.is_file())
