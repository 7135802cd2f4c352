"""DiT: predicts the noise of DDPM's path at whole times from 0 to 999, and variances beside it.

Source:
    DiT models.py, diffusion/__init__.py and sample.py at ed81ce2.
"""

from dataclasses import replace

from repa.checkpoints.architecture import Converted, converted
from repa.checkpoints.contents import Contents
from repa.checkpoints.dialects import sit
from repa.checkpoints.hints import Hints
from repa.models.prediction import Prediction
from samplers.names import DDPM_TIMES

TOLD_BY = "its trainer's arguments (image_size, and none of SiT's)"


def recognise(contents: Contents) -> bool:
    """Whether it is plain and the arguments are those of DiT's trainer."""
    args = contents.args.keys()
    return fits(contents) and "image_size" in args and not {"path_type", "prediction"} & args


def fits(contents: Contents) -> bool:
    """Whether it is plain, with twice as many channels out as in; SiT has the same tensors."""
    return sit.fits(contents) and sit.has_both_halves(contents.tensors)


def convert(contents: Contents, hints: Hints) -> Converted:
    """Return the network as it is, with what its output means."""
    tensors = contents.tensors
    channels = tensors["x_embedder.proj.weight"].shape[1]
    found = converted(
        tensors,
        contents,
        hints,
        path_type="ddpm",
        prediction=Prediction("noise", channels=channels, num_times=DDPM_TIMES),
        guided_channels=sit.GUIDED_CHANNELS,
        **sit.decoder_of(contents.args),
    )
    model = {**found.settings.model, "out_channels": 2 * channels}
    return replace(found, settings=replace(found.settings, model=model))
