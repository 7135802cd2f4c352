"""REPA: its releases, a bare state dict, and what its trainer saves, also with its older names.

The velocity is predicted in our direction of time. Files before the names were settled call the
blocks after the alignment depth "decoder_blocks" and count them from 0.

Source:
    REPA train.py, generate.py and utils.py (load_legacy_checkpoints) at 67f7145.
"""

from repa.checkpoints.architecture import Converted, converted
from repa.checkpoints.contents import Contents
from repa.checkpoints.dialects import dit
from repa.checkpoints.hints import ASSUMED, Hints
from repa.tensor_file import Tensors

_LEGACY = "decoder_blocks."

_ARGUMENT = "legacy"
_LIKE = (
    "it may be SiT's with as many channels out as in (--dialect sit), SRA's or iREPA's (--latents)"
)

TOLD_BY = f"{ASSUMED}it is REPA's, as nothing in it is of another dialect"


def recognise(contents: Contents) -> bool:
    """Whether there are tensors at all: what nothing else recognises is read as REPA's."""
    return bool(contents.tensors)


def fits(contents: Contents) -> bool:
    """Whether there are tensors, and not twice as many channels out as in."""
    return recognise(contents) and not dit.fits(contents)


def convert(contents: Contents, hints: Hints) -> Converted:
    """Return the settings that are stated, or else inferred, and the tensors in today's names."""
    told = {"dialect": _told_by(contents)}
    return converted(with_settled_names(contents.tensors), contents, hints, told=told)


def _told_by(contents: Contents) -> str:
    """Say what tells that it is REPA's, or what else it may be."""
    if _ARGUMENT in contents.args:
        return f"its trainer's arguments ({_ARGUMENT})"
    if any(name.startswith(_LEGACY) for name in contents.tensors):
        return f"its older names ({_LEGACY[:-1]})"
    if any(name.startswith("projectors.") for name in contents.tensors):
        return f"{ASSUMED}it is REPA's; an older file of iREPA looks alike and needs --latents"
    return f"{ASSUMED}it is REPA's; as it has no projectors, {_LIKE}"


def with_settled_names(tensors: Tensors) -> Tensors:
    """Count older files' "decoder_blocks" on from their "blocks"."""
    if not any(name.startswith(_LEGACY) for name in tensors):
        return tensors
    first = len({name.split(".")[1] for name in tensors if name.startswith("blocks.")})

    def settled(name: str) -> str:
        if not name.startswith(_LEGACY):
            return name
        number, _, rest = name.removeprefix(_LEGACY).partition(".")
        return f"blocks.{first + int(number)}.{rest}"

    return {settled(name): tensor for name, tensor in tensors.items()}
