"""Velocity loss on images that training never sees, and on as many that it does.

Times, noise and the draw of latents are the same every time and in every run: times evenly spread
over the distribution that is trained on, each for another image. So the loss moves with the weights
alone, and runs of other seeds compare. The network that memorises gets better on what it is trained
on and worse on the rest.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from repa.autoencoders.autoencoder import Autoencoder
from repa.data import HeldOutImages, TrainingData, held_out_images
from repa.data.samples.held_out_data import spread
from repa.errors import SettingError
from repa.training.losses import times_from_draws, velocity_loss
from repa.training.run.state import TrainState
from repa.training.settings import TrainConfig
from repa.training.watching.curves import HELD_OUT, TRAINED_ON
from samplers import INTERPOLANTS, Stream, initial_noise, keyed_generator

NUM_IMAGES = 512
"""Of each kind, at most."""

_CHUNK = 64
_SEED = 0  # not the run's
_LATENTS, _TIMES = 0, 1  # indices of the stream


@dataclass(frozen=True)
class FixedBatch:
    """Clean inputs (N, C, H, W) with labels (N,), times (N,) and noise, on the CPU."""

    data: Tensor
    labels: Tensor
    times: Tensor
    noise: Tensor


@dataclass(frozen=True)
class Validation:
    """The loss of a run's state on both batches, which are of equal size."""

    config: TrainConfig
    held_out: FixedBatch
    trained_on: FixedBatch

    def __call__(
        self, state: TrainState, is_stopped: Callable[[], bool]
    ) -> Mapping[str, float] | None:
        """Return the losses of the weights as they are, and of their average on held-out images.

        None if the run shall end meanwhile.
        """
        asked = {
            HELD_OUT: (state.model, self.held_out),
            f"{HELD_OUT}_average": (state.ema, self.held_out),
            TRAINED_ON: (state.model, self.trained_on),
        }
        found = {}
        for name, (model, batch) in asked.items():
            if is_stopped():
                return None
            found[name] = self.loss(model, batch)
        return found

    @torch.no_grad()
    def loss(self, model: nn.Module, batch: FixedBatch) -> float:
        """Return a network's mean velocity loss on a batch; labels are not dropped."""
        interpolant = INTERPOLANTS[self.config.path_type]
        device = next(model.parameters()).device
        enabled, found = self.config.precision == "bf16", []
        for start in range(0, len(batch.labels), _CHUNK):
            rows = slice(start, start + _CHUNK)
            parts = (batch.data, batch.noise, batch.times, batch.labels)
            data, noise, times, labels = (part[rows].to(device) for part in parts)
            with torch.autocast(device.type, torch.bfloat16, enabled=enabled):
                predicted = model(interpolant.interpolate(data, noise, times), times, labels)
            found.append(velocity_loss(predicted.float(), data, noise, times, interpolant))
        return torch.cat(found).double().mean().item()


def open_validation(
    config: TrainConfig, data: TrainingData, autoencoder: Autoencoder | None
) -> Validation:
    """Read the images of a validation, and encode them where the data are latents.

    Raises:
        SettingError: No images were held out, or nothing encodes them.
        DataError: They are damaged.
    """
    held_out = held_out_of(data)
    space = data.latent_space
    if autoencoder is None and not space.is_pixels:
        reason = f"needs the autoencoder of the latents ({space.autoencoder or 'unnamed'})"
        raise SettingError("validate_every", f"{reason} on this machine.")
    inputs = held_out.inputs(space, autoencoder, _generator(_LATENTS))
    return Validation(
        config,
        _with_draws(config, inputs, held_out.labels),
        _with_draws(config, *_trained_on(data, len(held_out.labels))),
    )


def held_out_of(data: TrainingData) -> HeldOutImages:
    """Read images that were held out of data, at most `NUM_IMAGES`.

    Raises:
        SettingError: There are none.
        DataError: They are damaged.
    """
    held_out = held_out_images(data, NUM_IMAGES)
    if held_out is None:
        remedy = "prepare the data with repa prepare --held-out 0.1, say, or leave it out"
        raise SettingError(
            "validate_every", f"needs held-out images, and {data.name} has none: {remedy}."
        )
    return held_out


def _trained_on(data: TrainingData, count: int) -> tuple[Tensor, Tensor]:
    """Return inputs and labels of images that are trained on, at even distances."""
    batch = data.batch(spread(data.count, count), lambda row: _generator(_LATENTS, 1 + row))
    return batch.inputs, batch.labels


def _with_draws(config: TrainConfig, data: Tensor, labels: Tensor) -> FixedBatch:
    """Add noise, and times that are spread evenly over their distribution, in a fixed order."""
    count = len(labels)
    order = torch.from_numpy(_generator(_TIMES).permutation(count))
    draws = (order.double() + 0.5) / count
    if config.weighting == "lognormal":
        draws = torch.special.ndtri(draws)
    times = times_from_draws(draws.float(), weighting=config.weighting, path_type=config.path_type)
    noise = initial_noise(_SEED, range(count), data.shape[1:])
    return FixedBatch(data, labels, times, noise)


def _generator(index: int, step: int = 0) -> np.random.Generator:
    return keyed_generator(_SEED, Stream.VALIDATION, index, step)
