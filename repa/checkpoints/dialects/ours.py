"""What our trainer and export write: safetensors with a JSON description under the key "repa".

An export of a file that holds its own autoencoder has that as well, under another prefix.
"""

import json
from dataclasses import replace

from repa.autoencoders.ldm import PREFIX as AUTOENCODER_PREFIX
from repa.checkpoints.architecture import Converted, converted
from repa.checkpoints.contents import Contents
from repa.checkpoints.hints import Hints
from repa.checkpoints.settings import FORMATS, settings_from_description
from repa.tensor_file import Tensors

TOLD_BY = 'a description under the key "repa"'


def recognise(contents: Contents) -> bool:
    """Whether there is a description."""
    return isinstance(contents.extra.get("repa"), str)


fits = recognise


def convert(contents: Contents, hints: Hints) -> Converted:
    """Return the settings that are stated, or else described, and the tensors as they are."""
    try:
        description = json.loads(contents.extra["repa"])
        if description["format"] not in FORMATS:
            raise ValueError(f"format {description['format']!r} is newer than this toolkit")
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise ValueError(f"its description is unreadable: {error}") from error
    stated = description if hints.stated is None else hints.stated
    _check_heads(settings_from_description(stated, contents.tensors).model["num_heads"], hints)
    network, autoencoder = _parted(contents.tensors)
    found = converted(network, contents, replace(hints, stated=stated))
    return replace(found, autoencoder=autoencoder, told={"settings": "its description"})


def _parted(tensors: Tensors) -> tuple[Tensors, Tensors]:
    """Return the tensors of the network, and those of its own autoencoder, which few files have."""
    own = {n: tensor for n, tensor in tensors.items() if n.startswith(AUTOENCODER_PREFIX)}
    return {n: tensor for n, tensor in tensors.items() if n not in own}, own


def _check_heads(described: int, hints: Hints) -> None:
    if hints.num_heads not in (None, described) and not hints.giving_way:
        raise ValueError(f"its description says {described} heads, not {hints.num_heads}")
