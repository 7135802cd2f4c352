"""A training run that takes less than a second: settings, state, images, an encoder, a watch."""

import json

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from repa.data import PixelData
from repa.encoders import Encoder
from repa.training.batch import DRAWS
from repa.training.run.state import TrainState, model_settings
from repa.training.settings import Reporting, settings_of
from repa.training.step import read_measured, train_step

TINY = settings_of(
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
QUIET = Reporting(checkpoint_every=3, preview_every=0, log_every=1)


def tiny_state(config=TINY, target_dims=()):
    image = torch.zeros(1, config.image_size, config.image_size, 3, dtype=torch.uint8)
    data = PixelData("digits", image, torch.zeros(1, dtype=torch.int64), num_classes=10)
    settings = model_settings(config, data, list(target_dims))
    return TrainState.create(config, settings, "cpu")


def as_begun(config):
    """What config.json holds of a run that has these settings."""
    return json.dumps({**config.sections(), "draws": DRAWS})


def measured(config, state, batch):
    """What a step on a whole batch measures, by name."""
    (found,) = read_measured([train_step(config, state, [batch])])
    return found


def numbered_data(count=40):
    """Images of 16 by 16 pixels whose every red value is the image's own number."""
    images = torch.randint(0, 256, (count, 16, 16, 3), dtype=torch.uint8)
    images[..., 0] = torch.arange(count, dtype=torch.uint8)[:, None, None]
    return PixelData("digits", images, torch.arange(count) % 10, num_classes=10)


def numbers(features):
    """The images' numbers, from the features that the stand-in encoder gives them."""
    return features[:, 0, 0].round().long().tolist()


def stand_in_encoder(name="stand-in", device="cpu", *, precision="fp32"):
    """Its features are mean colours, so that they say which numbered image they are of."""

    def preprocess(images, grid_size):
        return F.adaptive_avg_pool2d(images.permute(0, 3, 1, 2).float(), grid_size)

    return Encoder(name, nn.Identity(), 3, range(1, 9), preprocess, precision)


class Unread(TorchDispatchMode):
    """Refuse to wait for the device, as a number of Python does."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        assert function is not torch.ops.aten._local_scalar_dense.default
        return function(*args, **(kwargs or {}))


def file_bytes(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}
