"""SRA: REPA's network with one head for its own features, which samples do without.

Its form that separates attention by a token's time does as the plain one where all tokens have the
same time, as in sampling. The form with twice as many channels out as in is DiT's network.

Source:
    SRA SiT-SRA/models/sit.py, SiT-SRA_DTS_AS/models/sit.py and DiT-SRA/models.py at
    1723f85 (vvvvvjdy/SRA).
"""

from dataclasses import replace

from repa.checkpoints.architecture import Converted, converted
from repa.checkpoints.contents import Contents
from repa.checkpoints.dialects import dit, sit
from repa.checkpoints.hints import Hints

_HEAD = "ap_head."

TOLD_BY = "a head for its own features (ap_head), or its trainer's arguments"


def recognise(contents: Contents) -> bool:
    """Whether there is a head for its own features, or the arguments are those of its trainer."""
    headed = any(name.startswith(_HEAD) for name in contents.tensors)
    return headed or ("attention_separation" in contents.args and sit.fits(contents))


def fits(contents: Contents) -> bool:
    """Whether it has that head, or is plain, as it is without one; then DiT's is not told."""
    return recognise(contents) or (sit.fits(contents) and not dit.fits(contents))


def convert(contents: Contents, hints: Hints) -> Converted:
    """Return the network without that head."""
    tensors = {n: t for n, t in contents.tensors.items() if not n.startswith(_HEAD)}
    if sit.has_both_halves(tensors):
        return dit.convert(replace(contents, tensors=tensors), hints)
    return converted(tensors, contents, hints)
