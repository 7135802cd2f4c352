"""What REPA's trainer saves: {"ema": state dict, "args": its arguments, ...}."""

import argparse

from repa.checkpoints.contents import Extra, Tensors, is_state_dict
from repa.checkpoints.dialects.repa import settings_from_tensors
from repa.checkpoints.settings import CheckpointSettings, settings_from_description


def recognise(tensors: Tensors, extra: Extra) -> bool:
    """Whether there is a moving average."""
    return is_state_dict(extra.get("ema"))


def convert(
    tensors: Tensors, extra: Extra, stated: Extra | None
) -> tuple[CheckpointSettings, Tensors]:
    """Return the settings that are stated, or else inferred, and the moving average."""
    average = extra["ema"]
    if stated is not None:
        return settings_from_description(stated, average), average
    args = extra.get("args")
    if isinstance(args, argparse.Namespace):
        args = vars(args)
    return settings_from_tensors(average, args if isinstance(args, dict) else {}), average
