"""HASTE: REPA's network and names, told by its trainer's arguments; they make no difference here.

Source:
    HASTE models/sit.py and train.py at eb7b1f1.
"""

from repa.checkpoints.contents import Contents
from repa.checkpoints.dialects.repa import convert as convert
from repa.checkpoints.dialects.repa import fits as fits

TOLD_BY = "its trainer's arguments (attn_coeff, early_stop_point)"

_ARGUMENTS = {"attn_coeff", "early_stop_point"}


def recognise(contents: Contents) -> bool:
    """Whether the arguments are those of HASTE's trainer."""
    return contents.args.keys() >= _ARGUMENTS
