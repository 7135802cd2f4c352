"""REPA: its releases, a bare state dict, and what its trainer saves, also with its older names.

The velocity is predicted in our direction of time. Files before the names were settled call the
blocks after the alignment depth "decoder_blocks" and count them from 0.

Source:
    REPA train.py, generate.py and utils.py (load_legacy_checkpoints) at 67f7145.
"""

from repa.checkpoints.architecture import Converted, converted
from repa.checkpoints.contents import Contents
from repa.checkpoints.hints import Hints
from repa.tensor_file import Tensors

_LEGACY = "decoder_blocks."

TOLD_BY = "assumed: nothing in the file is of another dialect"


def recognise(contents: Contents) -> bool:
    """Whether there are tensors at all: what nothing else recognises is read as REPA's."""
    return bool(contents.tensors)


fits = recognise


def convert(contents: Contents, hints: Hints) -> Converted:
    """Return the settings that are stated, or else inferred, and the tensors in today's names."""
    return converted(with_settled_names(contents.tensors), contents, hints)


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
