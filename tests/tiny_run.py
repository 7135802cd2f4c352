"""Settings of a training run that takes less than a second."""

from repa.training.loop import Reporting
from repa.training.settings import preset

TINY = preset(
    "digits",
    model="SiT-Pico/8",
    image_size=16,
    encoder="none",
    encoder_depth=1,
    num_steps=6,
    batch_size=8,
    warmup_steps=0,
    decay_steps=0,
)
QUIET = Reporting(checkpoint_every=3, preview_every=100, log_every=1)
