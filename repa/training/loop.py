"""The training loop: velocity loss plus alignment loss, AdamW, EMA, checkpoints, previews, resume.

One loop for every data set. All random draws of step k are keyed by (seed, k) and made for the
whole batch, so a run that was killed and resumed ends with the same weights. A run is a folder:

    config.json                settings
    log.jsonl                  losses, one line every `log_every` steps
    checkpoints/step-0001000/  see `repa.training.state`
    previews/step-0001000.png  samples from the EMA weights
    target_features.safetensors  the encoder's features of all images, computed once
"""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from repa.autoencoders.latent_space import PIXELS, SD_LATENTS
from repa.autoencoders.pixels import images_from_pixels
from repa.checkpoints.settings import CheckpointSettings, describe
from repa.data import TrainingData, open_training_data
from repa.errors import RepaError
from repa.sheets.contact_sheet import contact_sheet, save_png
from repa.training.losses import alignment_loss, sample_times, velocity_loss
from repa.training.run_folder import Log, check_run_folder, locked, write_run_config
from repa.training.settings import TrainConfig
from repa.training.state import TrainState, build_model, latest_checkpoint, model_settings
from repa.training.targets import TargetFeatures
from samplers import (
    INTERPOLANTS,
    Interpolant,
    Stream,
    classifier_free_velocity,
    initial_noise,
    keyed_generator,
    sample_ode,
)

_ORDER, _DRAWS = 0, 1  # indices of the training stream


@dataclass(frozen=True, kw_only=True)
class Reporting:
    """What a run writes beside its weights; none of it changes them."""

    log_every: int = 50
    checkpoint_every: int = 1000
    preview_every: int = 1000
    preview_cfg_scale: float = 2.0
    on_step: Callable[[int, dict[str, float]], None] = field(default=lambda step, losses: None)
    on_note: Callable[[str], None] = field(default=lambda note: None)


class Interrupted(KeyboardInterrupt):
    """A signal ended the run after a complete step, whose checkpoint is saved."""


@dataclass(frozen=True)
class Batch:
    """All that one step consumes, on the device."""

    data: Tensor
    labels: Tensor
    noise: Tensor
    times: Tensor
    target_features: list[Tensor]


def train(
    config: TrainConfig,
    out: Path,
    *,
    resume: bool = False,
    device: torch.device | str = "cpu",
    reporting: Reporting | None = None,
) -> Path:
    """Train a SiT in the folder `out`, up to `config.num_steps` steps.

    Args:
        config: Settings of the run.
        out: Folder of the run; made if it is missing.
        resume: Go on from the folder's latest checkpoint, or start when it has none.
        device: Where to compute.
        reporting: What to write and how often.

    Returns:
        The last checkpoint's folder.

    Raises:
        OutputExistsError: `out` holds a run and `resume` is False, or a run of other settings.
        Interrupted: SIGINT or SIGTERM came; the step was completed and saved.
        RepaError: The settings make no network, or the loss is not finite (nothing of that step
            is saved).
    """
    reporting = reporting or Reporting()
    check_run_folder(config, out, resume=resume)
    check_model(config)
    with locked(out):
        data = open_training_data(config.data, config.image_size)
        targets = TargetFeatures.open(config.encoder, data, out, device, reporting.on_note)
        settings = _model_settings(config, data, targets)
        state = TrainState.create(config, settings, device)
        write_run_config(config, out)
        targets.save(out)
        latest = latest_checkpoint(out / "checkpoints")
        if latest:
            state.load(latest)
            reporting.on_note(f"resuming from step {state.step} of {config.num_steps}.")
        name = data.autoencoder
        what = CheckpointSettings(
            model=settings,
            path_type=config.path_type,
            dataset=data.name,
            latent_space=replace(SD_LATENTS, autoencoder=name) if name else PIXELS,
        )
        run = Run(config, out, data, targets, describe(what), torch.device(device), reporting)
        with _signals() as stop:
            latest = run.to_the_end(state, stop) or latest
    if latest is None:
        raise RepaError(f"{out}: no step was trained.")
    return latest


@dataclass(frozen=True)
class Run:
    """A run whose settings have been checked."""

    config: TrainConfig
    out: Path
    data: TrainingData
    targets: TargetFeatures
    description: dict[str, Any]
    device: torch.device
    reporting: Reporting

    def to_the_end(self, state: TrainState, stop: threading.Event) -> Path | None:
        """Take every step that is left; return the last checkpoint, if one was written."""
        log, latest = Log(self.out / "log.jsonl", state.step), None
        while state.step < self.config.num_steps:
            batch = make_batch(self.config, self.data, self.targets, state.step, self.device)
            losses = train_step(self.config, state, batch)
            self.reporting.on_step(state.step, losses)
            ended = state.step == self.config.num_steps
            last = ended or stop.is_set()
            if last or state.step % self.reporting.log_every == 0:
                log.write(state.step, losses)
            if last or state.step % self.reporting.checkpoint_every == 0:
                latest = state.save(self.out / "checkpoints", self.config, self.description)
            if ended or state.step % self.reporting.preview_every == 0:
                self.draw_preview(state)
            if last and not ended:
                raise Interrupted(f"stopped after step {state.step}, which is saved")
        return latest

    def draw_preview(self, state: TrainState) -> None:
        """Write a contact sheet; latents have none, they would have to be decoded first."""
        if self.data.autoencoder is None:
            sheet = preview(self.config, state, self.device, self.reporting.preview_cfg_scale)
            save_png(sheet, self.out / "previews" / f"step-{state.step:07d}.png")


def make_batch(
    config: TrainConfig,
    data: TrainingData,
    targets: TargetFeatures,
    step: int,
    device: torch.device | str,
) -> Batch:
    """Gather images, labels and random draws of the step after `step` steps.

    The draws are PyTorch's on the device, seeded by (seed, step). A CPU keeps 32 bits of that seed,
    so of millions of steps a few share their draws, for other images.
    """
    indices = batch_indices(config, data.count, step)
    inputs, labels = data.batch(indices)
    inputs, labels = inputs.to(device), labels.to(device)
    seed = int(keyed_generator(config.seed, Stream.TRAINING, _DRAWS, step).integers(2**63))
    generator = torch.Generator(device).manual_seed(seed)
    times = sample_times(
        len(labels),
        weighting=config.weighting,
        path_type=config.path_type,
        generator=generator,
    )
    noise = torch.randn(inputs.shape, generator=generator, device=device)
    uniform = torch.rand(len(labels), generator=generator, device=device)
    labels = torch.where(uniform < config.label_dropout, data.num_classes, labels)
    return Batch(inputs, labels, noise, times, targets(indices, device))


def batch_indices(config: TrainConfig, count: int, step: int) -> np.ndarray:
    """Return which images the step after `step` steps sees: every image once an epoch.

    Epochs are shuffled by (seed, epoch) and strung together; a batch may span two of them.
    """
    positions = np.arange(step * config.batch_size, (step + 1) * config.batch_size)
    epochs, places = np.divmod(positions, count)
    orders = {
        epoch: keyed_generator(config.seed, Stream.TRAINING, _ORDER, int(epoch)).permutation(count)
        for epoch in np.unique(epochs)
    }
    return np.array([orders[e][p] for e, p in zip(epochs, places, strict=True)])


def train_step(config: TrainConfig, state: TrainState, batch: Batch) -> dict[str, float]:
    """Take one optimizer step in place and return its losses and gradient norm.

    Raises:
        RepaError: The loss or its gradient is not finite; the weights are as before the step.
    """
    interpolant = INTERPOLANTS[config.path_type]
    with _autocast(config, batch.data.device):
        velocity, alignment = losses_of(state.model, batch, interpolant)
    loss = velocity + config.alignment_weight * alignment
    values = {"loss": loss.item(), "velocity": velocity.item(), "alignment": alignment.item()}
    _check_finite(values["loss"], "loss", state.step)
    for group in state.optimizer.param_groups:
        group["lr"] = config.learning_rate_at(state.step)
    loss.backward()
    parameters = [p for p in state.model.parameters() if p.grad is not None]
    norm = torch.nn.utils.clip_grad_norm_(parameters, config.max_grad_norm)
    values["gradient_norm"] = norm.item()
    _check_finite(values["gradient_norm"], "gradient's norm", state.step)
    state.optimizer.step()
    state.optimizer.zero_grad(set_to_none=True)
    state.update_ema(config.ema_decay)
    state.step += 1
    return values


def _check_finite(value: float, name: str, step: int) -> None:
    if not np.isfinite(value):
        raise RepaError(
            f"the {name} is {value} at step {step + 1}; resume from the last checkpoint with a "
            "lower --learning-rate or with --precision fp32."
        )


def losses_of(
    model: torch.nn.Module, batch: Batch, interpolant: Interpolant
) -> tuple[Tensor, Tensor]:
    """Return the mean velocity loss and the alignment loss (0 without an encoder) of a batch."""
    x = interpolant.interpolate(batch.data, batch.noise, batch.times)
    if batch.target_features:
        predicted, features = model(x, batch.times, batch.labels, return_features=True)
        alignment = alignment_loss(features, batch.target_features)
    else:
        predicted = model(x, batch.times, batch.labels)
        alignment = x.new_zeros(())
    per_image = velocity_loss(predicted.float(), batch.data, batch.noise, batch.times, interpolant)
    return per_image.mean(), alignment


def preview(
    config: TrainConfig, state: TrainState, device: torch.device | str, cfg_scale: float
) -> Image.Image:
    """Sample a contact sheet from the EMA weights, ten images of up to ten classes, by Heun."""
    model = state.ema
    columns = [model.num_classes * i // 10 for i in range(10)]
    labels = torch.tensor(columns * 10, device=device)
    shape = (model.in_channels, model.input_size, model.input_size)
    noise = initial_noise(config.seed, range(len(labels)), shape).to(device)
    velocity = classifier_free_velocity(model, labels, model.null_label, cfg_scale)
    pixels = sample_ode(velocity, noise, num_steps=25, guidance_interval=(0.0, 0.7))
    return contact_sheet(images_from_pixels(pixels).cpu().numpy(), labels.tolist())


def check_model(config: TrainConfig) -> None:
    """Check, before anything is read or written, that the settings make a network.

    Raises:
        UnknownNameError: No size has the model's name.
        RepaError: Image size, patch size or depth do not fit.
    """
    settings = model_settings(
        config, input_size=config.image_size, in_channels=3, num_classes=1, target_dims=[]
    )
    with torch.device("meta"):
        build_model(config, settings)


def _model_settings(
    config: TrainConfig, data: TrainingData, targets: TargetFeatures
) -> dict[str, Any]:
    settings = model_settings(
        config,
        input_size=data.input_size,
        in_channels=data.in_channels,
        num_classes=data.num_classes,
        target_dims=targets.dims,
    )
    tokens = (settings["input_size"] // settings["patch_size"]) ** 2
    if targets.dims and targets.num_tokens != tokens:
        raise RepaError(
            f"the encoder gives {targets.num_tokens} features an image and {tokens} tokens are to "
            "be aligned with them: choose another image size or patch size."
        )
    return settings


def _autocast(config: TrainConfig, device: torch.device) -> torch.autocast:
    return torch.autocast(
        device.type, dtype=torch.bfloat16, enabled=config.precision == "bf16", cache_enabled=True
    )


@contextmanager
def _signals() -> Iterator[threading.Event]:
    """Set an event on the first SIGINT or SIGTERM; a second one interrupts at once."""
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def handle(*_: object) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()

    before = {s: signal.signal(s, handle) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
