"""What our trainer and export write: safetensors with a JSON description under the key "repa"."""

import json
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from repa.checkpoints.settings import FORMATS, CheckpointSettings, settings_from_description


def recognise(tensors: Mapping[str, Tensor], extra: Mapping[str, Any]) -> bool:
    """Whether there is a description."""
    return isinstance(extra.get("repa"), str)


def convert(
    tensors: Mapping[str, Tensor], extra: Mapping[str, Any], stated: Mapping[str, Any] | None
) -> tuple[CheckpointSettings, Mapping[str, Tensor]]:
    """Return the settings that are stated, or else described, and the tensors as they are.

    Raises:
        ValueError: The description is unreadable, of a later format, or wrong.
    """
    try:
        description = json.loads(extra["repa"])
        if description["format"] not in FORMATS:
            raise ValueError(f"format {description['format']!r} is newer than this toolkit")
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"its description is unreadable: {error}") from error
    return settings_from_description(description if stated is None else stated, tensors), tensors
