"""What our trainer and export write: safetensors with a JSON description under the key "repa"."""

import json

from repa.checkpoints.contents import Extra, Tensors
from repa.checkpoints.settings import FORMATS, CheckpointSettings, settings_from_description


def recognise(tensors: Tensors, extra: Extra) -> bool:
    """Whether there is a description."""
    return isinstance(extra.get("repa"), str)


def convert(
    tensors: Tensors, extra: Extra, stated: Extra | None
) -> tuple[CheckpointSettings, Tensors]:
    """Return the settings that are stated, or else described, and the tensors as they are."""
    try:
        description = json.loads(extra["repa"])
        if description["format"] not in FORMATS:
            raise ValueError(f"format {description['format']!r} is newer than this toolkit")
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise ValueError(f"its description is unreadable: {error}") from error
    return settings_from_description(description if stated is None else stated, tensors), tensors
