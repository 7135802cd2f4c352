"""Internal Guidance: REPA's network with a second head in its middle, by which it may be guided.

The block that the head stands after is in no tensor and no argument.

Source:
    Internal-Guidance SiT/models/sit.py and SiT/train.py at d048cc3 (CVL-UESTC).
"""

from dataclasses import replace

from repa.checkpoints.architecture import Converted, converted
from repa.checkpoints.contents import Contents
from repa.checkpoints.hints import ASSUMED, Hints

_HEAD = "final_layer_xr."

TOLD_BY = "a second head (final_layer_xr)"


def recognise(contents: Contents) -> bool:
    """Whether there is a second head."""
    return any(name.startswith(_HEAD) for name in contents.tensors)


fits = recognise


def convert(contents: Contents, hints: Hints) -> Converted:
    """Return the network with both heads."""
    told = hints.encoder_depth or contents.args.get("encoder_depth") or hints.stated
    found = converted(contents.tensors, contents, hints)
    settings = found.settings
    depth = settings.model["encoder_depth"]
    model = {**settings.model, "internal_head": True}
    taken = f"its middle head after block {depth}, as its code's default (else --encoder-depth)"
    by = found.told if told else {**found.told, "encoder_depth": ASSUMED + taken}
    return replace(found, settings=replace(settings, model=model), told=by)
