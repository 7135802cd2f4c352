"""Images of indices: a loaded checkpoint and a protocol to uint8 images, without any file.

Image i depends on the seed and on i, not on the other images: for the noise and the labels exactly,
for the pixels to within one grey level, because a network rounds differently in batches of another
size (and the images of a batch share the steps of an adaptive solver).
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol as Interface

import numpy as np
import torch
from torch import Tensor

from repa.autoencoders.autoencoder import Autoencoder, load_autoencoder
from repa.autoencoders.pixels import images_from_pixels
from repa.checkpoints.settings import CheckpointSettings
from repa.errors import NonFiniteError, SettingError
from repa.generation.settings import Protocol
from repa.models import SiT
from repa_base.device import float32_precision
from repa_base.progress import Steps
from samplers import (
    PATHS,
    Interpolant,
    ModelFn,
    NormalFn,
    classifier_free_output,
    classifier_free_velocity,
    draw_labels,
    initial_noise,
    internally_guided,
    sample_ddpm,
    sample_ode,
    sample_sde,
    step_noise,
)

TOLERANCE = 1e-5  # of adaptive solvers, relative and absolute


class GenerativeModel(Interface):
    """What images are made by; `repa.checkpoints.load_model` returns one."""

    @property
    def model(self) -> SiT:
        """The network, in evaluation mode on its device."""
        ...

    @property
    def velocity_model(self) -> ModelFn:
        """What the network stands for: model(x, t, labels) is the velocity."""
        ...

    @property
    def settings(self) -> CheckpointSettings:
        """Its path and its latent space."""
        ...


@dataclass(frozen=True)
class SampledImages:
    """A batch: which images, the images uint8 (B, H, W, 3), the classes asked for int64 (B,)."""

    indices: Sequence[int]
    images: np.ndarray
    labels: np.ndarray


def images_of(
    model: GenerativeModel,
    indices: Sequence[int],
    protocol: Protocol | None = None,
    *,
    autoencoder: Autoencoder | None = None,
    progress: Steps | None = None,
) -> Iterator[SampledImages]:
    """Yield the images of some indices in their order, `protocol.batch_size` at a time.

    Args:
        model: From `repa.checkpoints.load_model`.
        indices: Which images, each in [0, 2**48); 0 to N - 1 are those of `repa sample --num N`.
        protocol: How they are made; None is the published protocol.
        autoencoder: Decodes latents; None loads that of the model's latent space, if it has one.
        progress: Called with the images made, a batch in work counted by its time gone by, and
            with how many there are to make.

    Raises:
        SettingError: The protocol or its autoencoder does not suit the model.
        NonFiniteError: An image is NaN or infinite.
        RepaError: The autoencoder cannot be loaded, see `repa.autoencoders.load_autoencoder`.
    """
    protocol = protocol or Protocol()
    device = next(model.model.parameters()).device
    check_protocol(protocol, model.settings)
    space = model.settings.latent_space
    if autoencoder is None and not space.is_pixels:
        if space.autoencoder is None:
            raise SettingError("autoencoder", "the model makes latents: name what decodes them.")
        autoencoder = load_autoencoder(space.autoencoder, device)
    tell = progress or (lambda done, total: None)
    for start in range(0, len(indices), protocol.batch_size):
        batch = indices[start : start + protocol.batch_size]

        def on_time(t: float, start: int = start, size: int = len(batch)) -> None:
            tell(start + size * (1 - t), len(indices))

        labels = labels_of(batch, protocol, model.model.num_classes)
        with torch.no_grad(), float32_precision(tf32=protocol.tf32):
            x = _sample(model, batch, labels.to(device), protocol, on_time).float()
            pixels = autoencoder.decode(x, space) if autoencoder else x
            images = images_from_pixels(pixels, protocol.quantizer)
            finite = torch.isfinite(pixels).flatten(1).all(1).tolist()  # the device is read once
        if False in finite:
            what = f"image {batch[finite.index(False)]} has NaN or infinite pixels"
            raise NonFiniteError(f"{what}: the network overflowed.")
        yield SampledImages(batch, images.cpu().numpy(), labels.numpy())
        tell(start + len(batch), len(indices))


def check_protocol(protocol: Protocol, settings: CheckpointSettings) -> None:
    """Raise SettingError unless a checkpoint of these settings can be sampled by the protocol."""
    labels, count = protocol.labels, settings.num_classes
    if not isinstance(labels, str) and max(labels) >= count:
        rule = f"none of the {count} classes, 0 to {count - 1}"
        raise SettingError("labels", f"label {max(labels)} is {rule}.")
    if protocol.internal_scale != 1 and not settings.model.get("internal_head"):
        reason = "the network has no middle head to be guided by"
        raise SettingError("internal_scale", f"{reason}: leave --ig at 1.")
    if protocol.solver == "ddpm":
        if settings.path_type != "ddpm" or settings.model.get("out_channels") is None:
            reason = "ddpm is for networks that predict noise and variances, as DiT's"
            raise SettingError("solver", f"{reason}; this one predicts the velocity.")
        if not 2 <= protocol.num_steps <= 1000:
            rule = "from 2 to 1000 for ddpm, which has that many times"
            raise SettingError("num_steps", f"num_steps must be {rule}.")
    elif settings.prediction.target == "noise" and settings.path_type != "ddpm":
        reason = "the network predicts noise, from which no velocity follows at t = 1"
        raise SettingError("solver", f"{reason}, where all solvers begin.")


def labels_of(indices: Sequence[int], protocol: Protocol, num_classes: int) -> Tensor:
    """Return the classes int64 (B,) of some images."""
    if protocol.labels == "random":
        return draw_labels(protocol.seed, indices, num_classes)
    cycle = range(num_classes) if protocol.labels == "balanced" else protocol.labels
    return torch.tensor([int(cycle[i % len(cycle)]) for i in indices])


def states_of(
    model: GenerativeModel,
    indices: Sequence[int],
    protocol: Protocol,
    on_time: Callable[[float], None] = lambda t: None,
) -> Tensor:
    """Return what is decoded for some images, float32 (B, C, H, W): the states x at t = 0.

    Arguments as of `images_of`; `on_time` is told the time at every step, from 1 down to 0.
    """
    check_protocol(protocol, model.settings)
    device = next(model.model.parameters()).device
    labels = labels_of(indices, protocol, model.model.num_classes)
    with torch.no_grad(), float32_precision(tf32=protocol.tf32):
        return _sample(model, indices, labels.to(device), protocol, on_time).float()


def _sample(
    model: GenerativeModel,
    indices: Sequence[int],
    labels: Tensor,
    protocol: Protocol,
    on_time: Callable[[float], None],
) -> Tensor:
    """Return the states (B, C, H, W) of some images at t = 0."""
    network, seed = model.model, protocol.seed
    shape = (network.in_channels, network.input_size, network.input_size)
    noise = initial_noise(seed, indices, shape).to(labels.device)
    null, scale = network.null_label, protocol.cfg_scale
    guided = model.settings.guided_channels
    normal = partial(step_noise, seed, indices, shape=shape)
    if protocol.solver == "ddpm":
        output = classifier_free_output(network, labels, null, scale, guided_channels=guided)
        steps, interval = protocol.num_steps, protocol.guidance_interval
        options = {"num_steps": steps, "guidance_interval": interval, "on_time": on_time}
        return sample_ddpm(output, noise, normal=normal, **options)
    asked = model.velocity_model
    if protocol.internal_scale != 1:
        internal = protocol.internal_scale, protocol.internal_interval
        asked = internally_guided(network.velocities, *internal)
    velocity = classifier_free_velocity(asked, labels, null, scale, guided_channels=guided)
    solve = solver_of(protocol, PATHS[model.settings.path_type], normal)
    return solve(velocity, noise, on_time=on_time)


def solver_of(protocol: Protocol, path: Interpolant, normal: NormalFn) -> Callable[..., Tensor]:
    """Return the protocol's solver: solve(velocity, noise, on_time=...) is the state at t = 0.

    The SDE takes its increments from `normal`, and `path` for its score.
    """
    steps = None if protocol.adaptive else protocol.num_steps
    shared = {"num_steps": steps, "guidance_interval": protocol.guidance_interval}
    if protocol.solver == "sde":
        return partial(sample_sde, interpolant=path, normal=normal, **shared)
    return partial(sample_ode, method=protocol.solver, rtol=TOLERANCE, atol=TOLERANCE, **shared)
