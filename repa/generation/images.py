"""Images of indices: a loaded checkpoint and a protocol to uint8 images, without any file.

Image i depends on the seed and on i, not on the other images: for the noise and the labels exactly,
for the pixels to within one grey level, because a network rounds differently in batches of another
size (and the images of a batch share the steps of an adaptive solver). Where the random numbers are
the reference's it depends on all of the protocol, see `repa.generation.draws`.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any
from typing import Protocol as Interface

import numpy as np
import torch
from torch import Tensor

from repa.autoencoders.autoencoder import Autoencoder, load_autoencoder
from repa.autoencoders.pixels import images_from_pixels
from repa.checkpoints.settings import CheckpointSettings
from repa.errors import RepaError, SettingError
from repa.generation.draws import Draws, draw_batches, own_draws
from repa.generation.finite import Batch, Watch
from repa.generation.guiding import check_guide, guided_by
from repa.generation.integration import num_increments, solver_of
from repa.generation.settings import Protocol
from repa.generation.solvers import ASKING_AT_DATA
from repa.models import SiT
from repa_base.device import compiler_errors_as, float32_precision, out_of_memory_in_words
from repa_base.progress import Steps
from samplers import (
    PATHS,
    ModelFn,
    VelocityFn,
    classifier_free_output,
    internally_guided,
    sample_ddpm,
)
from samplers.names import DDPM_TIMES

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


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
    guide: GenerativeModel | None = None,
    progress: Steps | None = None,
) -> Iterator[SampledImages]:
    """Yield the images of some indices in their order, `protocol.batch_size` at a time.

    With `protocol.rng` "reference" those of a batch of its processes are yielded together, batches
    in the order in which a process makes them, and what it drew before is drawn on the way.

    Args:
        model: From `repa.checkpoints.load_model`.
        indices: Which images, each in [0, 2**48); 0 to N - 1 are those of `repa sample --num N`.
        protocol: How they are made; None is the published protocol.
        autoencoder: Decodes latents; None loads that of the model's latent space, if it has one.
        guide: On the model's device, what it is guided away from; None is itself without a class.
        progress: Called with the images made, a batch in work counted by its time gone by, and
            with how many there are to make.

    Raises:
        SettingError: The protocol, the autoencoder or the guide does not suit the model.
        NonFiniteError: An image is NaN or infinite; the message names step, time and likely cause.
        RepaError: The autoencoder cannot be loaded, see `repa.autoencoders.load_autoencoder`, or
            the network cannot be compiled on this machine.
        NoMemoryError: A batch does not fit into the memory.
    """
    protocol = protocol or Protocol()
    device = next(model.model.parameters()).device
    check_protocol(protocol, model.settings, None if guide is None else guide.settings)
    model = as_asked(model, protocol)
    guide = None if guide is None else as_asked(guide, protocol)
    space = model.settings.latent_space
    if autoencoder is None and not space.is_pixels:
        if space.autoencoder is None:
            raise SettingError("autoencoder", "the model makes latents: name what decodes them.")
        autoencoder = load_autoencoder(space.autoencoder, device)
    tell, done = progress or (lambda done, total: None), 0
    network = model.model
    if autoencoder is not None:
        check_decoder(autoencoder, network.in_channels)
    shape = (network.in_channels, network.input_size, network.input_size)
    drawn = draw_batches(
        indices,
        protocol,
        shape,
        network.num_classes,
        device,
        num_increments=lambda: num_increments(protocol),
        on_skipped=lambda: tell(done, len(indices)),
    )
    for draws in drawn:
        size = len(draws.indices)

        def on_time(t: float, done: int = done, size: int = size) -> None:
            tell(done + size * (1 - t), len(indices))

        images = _batch(model, guide, autoencoder, draws, device, protocol, on_time)
        labels = draws.labels[_rows(draws)].cpu().numpy()
        yield SampledImages(draws.indices, images.cpu().numpy(), labels)
        done += size
        tell(done, len(indices))


def _batch(
    model: GenerativeModel,
    guide: GenerativeModel | None,
    autoencoder: Autoencoder | None,
    draws: Draws,
    device: torch.device,
    protocol: Protocol,
    on_time: Callable[[float], None],
) -> Tensor:
    """Return the images uint8 (B, H, W, 3) of a batch that are wanted, on the device."""

    def networks() -> dict[str, Any]:
        found = {"the checkpoint": model.model}
        found |= {} if guide is None else {"the guide": guide.model}
        return found if autoencoder is None else {**found, "the autoencoder": autoencoder.network}

    watch, rows = Watch(), _rows(draws)
    batch = Batch(watch, draws.indices, draws.rows, protocol, networks)
    with (
        torch.no_grad(),
        float32_precision(tf32=protocol.tf32),
        memory_for(len(draws.labels), protocol),
    ):
        try:
            with compiler_errors_as(RepaError):
                x = _sample(model, guide, draws, device, protocol, on_time, watch).float()
        except ValueError as error:
            if protocol.adaptive:
                raise batch.gave_up() from error
            raise
        space = model.settings.latent_space
        pixels = (autoencoder.decode(x, space) if autoencoder else x)[rows]
        images = images_from_pixels(pixels, protocol.quantizer)
        finite = torch.isfinite(pixels).flatten(1).all(1).tolist()  # the device is read once
    if False in finite:
        raise batch.error(finite.index(False), x[rows] if autoencoder else None)
    return images


def memory_for(size: int, protocol: Protocol) -> AbstractContextManager[None]:
    """Say of a batch of this size that does not fit into the memory what is to be tried."""
    less = "try a device with more of it."
    if size > 1:
        less = f"try repa sample --batch-size {size // 2}."
    elif protocol.precision == "fp32":
        less = "try repa sample --precision bf16."
    return out_of_memory_in_words(f"for {size} images at once: {less}")


def _rows(draws: Draws) -> list[int] | slice:
    """Return in which rows of a batch the images are that are wanted."""
    return slice(None) if draws.rows is None else draws.rows


@dataclass(frozen=True)
class InMemory:
    """A network with its settings as a `GenerativeModel`, where there is no checkpoint's file."""

    model: SiT
    settings: CheckpointSettings

    @property
    def velocity_model(self) -> ModelFn:
        """What the network stands for: model(x, t, labels) is the velocity."""
        path = PATHS[self.settings.path_type]
        return self.settings.prediction.velocity_model(self.model, path)


def as_asked(model: GenerativeModel, protocol: Protocol) -> GenerativeModel:
    """Return the model in the protocol's precision and compiled if it asks so, itself or a copy."""
    network = model.model
    if protocol.precision != "fp32":
        check_precision(protocol, next(network.parameters()).device)
        network = network.narrowed(DTYPES[protocol.precision])
    if protocol.compile:
        network = network.compiled()
    return model if network is model.model else InMemory(network, model.settings)


def check_precision(protocol: Protocol, device: torch.device) -> None:
    """Raise SettingError unless a network can compute so on a device."""
    if protocol.precision == "fp16" and device.type == "cpu":
        raise SettingError("precision", "fp16 needs a GPU: use bf16 or fp32 on a CPU.")


def check_protocol(
    protocol: Protocol, settings: CheckpointSettings, guide: CheckpointSettings | None = None
) -> None:
    """Raise SettingError unless a checkpoint of these settings can be sampled by the protocol.

    `guide` are the settings of the checkpoint that it is guided away from, if there is one.
    """
    if guide is not None:
        check_guide(settings, guide)
        if protocol.solver == "ddpm":
            raise SettingError("guide", "a guide guides velocities: leave out ddpm, or the guide.")
        if protocol.cfg_scale == 1:
            raise SettingError(
                "guide", "the guide changes nothing where cfg_scale is 1: give --cfg."
            )
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
        if not 2 <= protocol.num_steps <= DDPM_TIMES:
            rule = f"from 2 to {DDPM_TIMES} for ddpm, which has that many times"
            raise SettingError("num_steps", f"num_steps must be {rule}.")
    elif protocol.solver == "sa" and settings.path_type != "linear":
        reason = f"sa is for networks of the linear path; this one's is {settings.path_type}"
        raise SettingError("solver", f"{reason}: use dpm++sde.")
    elif settings.prediction.target == "noise" and settings.path_type != "ddpm":
        reason = "the network predicts noise, from which no velocity follows at t = 1"
        raise SettingError("solver", f"{reason}, where all solvers begin.")
    elif settings.prediction.target != "velocity" and protocol.solver in ASKING_AT_DATA:
        reason = f"the network predicts {settings.prediction.target}, whose velocity is infinite"
        raise SettingError("solver", f"{reason} at t = 0, where {protocol.solver} ends: use heun.")


def check_decoder(autoencoder: Autoencoder, num_channels: int) -> None:
    """Raise SettingError unless an autoencoder's latents have a model's number of channels.

    Its network is not built. Raises CheckpointFormatError if its files do not tell.
    """
    has = autoencoder.latent_channels
    if has != num_channels:
        reason = f"{autoencoder.name} decodes {has} channels, and the model makes {num_channels}"
        raise SettingError("autoencoder", f"{reason}: name the one that it was trained with.")


def states_of(
    model: GenerativeModel,
    indices: Sequence[int],
    protocol: Protocol,
    on_time: Callable[[float], None] = lambda t: None,
) -> Tensor:
    """Return what is decoded for some images, float32 (B, C, H, W): the states x at t = 0.

    Arguments as of `images_of`, but the random numbers are each image's own; `on_time` is told the
    time at every step, from 1 down to 0.
    """
    check_protocol(protocol, model.settings)
    network = model.model
    device = next(network.parameters()).device
    shape = (network.in_channels, network.input_size, network.input_size)
    draws = own_draws(indices, protocol, shape, network.num_classes)
    with torch.no_grad(), float32_precision(tf32=protocol.tf32):
        return _sample(model, None, draws, device, protocol, on_time, Watch()).float()


def _sample(
    model: GenerativeModel,
    guide: GenerativeModel | None,
    draws: Draws,
    device: torch.device,
    protocol: Protocol,
    on_time: Callable[[float], None],
    watch: Watch,
) -> Tensor:
    """Return the states (B, C, H, W) of a batch at t = 0, whose evaluations are watched."""
    on_time, normal, noise = watch.timed(on_time), draws.normal, draws.noise.to(device)
    velocity = watch.watched(velocity_of(model, guide, draws.labels.to(device), protocol))
    if protocol.solver == "ddpm":
        steps, interval = protocol.num_steps, protocol.guidance_interval
        options = {"num_steps": steps, "guidance_interval": interval, "on_time": on_time}
        return sample_ddpm(velocity, noise, normal=normal, **options)
    solve = solver_of(protocol, PATHS[model.settings.path_type], normal)
    return solve(velocity, noise, on_time=on_time)


def velocity_of(
    model: GenerativeModel, guide: GenerativeModel | None, labels: Tensor, protocol: Protocol
) -> VelocityFn:
    """Return the guided velocity of images of these labels, or the output that ddpm asks for."""
    network, null, scale = model.model, model.model.null_label, protocol.cfg_scale
    guided = model.settings.guided_channels
    if protocol.solver == "ddpm":
        return classifier_free_output(network, labels, null, scale, guided_channels=guided)
    asked = model.velocity_model
    if protocol.internal_scale != 1:
        internal = protocol.internal_scale, protocol.internal_interval
        asked = internally_guided(network.velocities, *internal)
    other = None if guide is None else guide.velocity_model
    return guided_by(protocol, asked, labels, null, guide=other, guided_channels=guided)
