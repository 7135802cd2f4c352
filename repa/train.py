"""The training loop: velocity loss plus alignment loss, AdamW, EMA, checkpoints, previews, resume.

One loop for every data set. All random draws of step k are keyed by (seed, k) and made for the
whole batch, so a run that was killed and resumed ends with the same weights. A run is a folder:

    config.json                settings
    log.jsonl                  losses, one line every `log_every` steps
    checkpoints/step-0001000/  see `repa.train_state`
    previews/step-0001000.png  samples from the EMA weights
    target_features.safetensors  the encoder's features of all images, computed once
"""

import json
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from repa.config import TrainConfig
from repa.contact_sheet import contact_sheet, save_png
from repa.data import TrainingData, open_training_data
from repa.errors import OutputExistsError, RepaError
from repa.loss import alignment_loss, sample_times, velocity_loss
from repa.target_features import TargetFeatures
from repa.train_state import TrainState, latest_checkpoint, model_settings
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
        RepaError: The loss is not finite; nothing of that step is saved.
    """
    reporting = reporting or Reporting()
    _prepare_folder(config, out, resume)
    data = open_training_data(config.data, config.image_size)
    targets = TargetFeatures.open(config.encoder, data, out, device, reporting.on_note)
    settings = model_settings(
        config,
        input_size=data.input_size,
        in_channels=data.in_channels,
        num_classes=data.num_classes,
        target_dims=targets.dims,
    )
    _check_tokens(settings, targets)
    state = TrainState.create(config, settings, device)
    checkpoints = out / "checkpoints"
    latest = latest_checkpoint(checkpoints)
    if latest:
        state.load(latest)
        reporting.on_note(f"resuming from step {state.step} of {config.num_steps}.")
    description = {
        "format": 1,
        "model": settings,
        "path_type": config.path_type,
        "dataset": data.name,
        "autoencoder": data.autoencoder,
    }
    log = Log(out / "log.jsonl", state.step)
    with _signals() as stop:
        while state.step < config.num_steps:
            batch = make_batch(config, data, targets, state.step, device)
            losses = train_step(config, state, batch)
            reporting.on_step(state.step, losses)
            last = state.step == config.num_steps or stop.is_set()
            if last or state.step % reporting.log_every == 0:
                log.write(state.step, losses)
            if last or state.step % reporting.checkpoint_every == 0:
                latest = state.save(checkpoints, config, description)
            if state.step % reporting.preview_every == 0 or state.step == config.num_steps:
                sheet = preview(config, state, device, reporting.preview_cfg_scale)
                save_png(sheet, out / "previews" / f"step-{state.step:07d}.png")
            if stop.is_set() and state.step < config.num_steps:
                raise Interrupted(f"stopped after step {state.step}, which is saved")
    if latest is None:
        raise RepaError(f"{out}: no step was trained.")
    return latest


def make_batch(
    config: TrainConfig,
    data: TrainingData,
    targets: TargetFeatures,
    step: int,
    device: torch.device | str,
) -> Batch:
    """Gather images, labels and random draws of the step after `step` steps."""
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
        RepaError: The loss is not finite; the weights are as before the step.
    """
    interpolant = INTERPOLANTS[config.path_type]
    with _autocast(config, batch.data.device):
        velocity, alignment = losses_of(state.model, batch, interpolant)
    loss = velocity + config.alignment_weight * alignment
    values = {"loss": loss.item(), "velocity": velocity.item(), "alignment": alignment.item()}
    if not np.isfinite(values["loss"]):
        raise RepaError(
            f"the loss is {values['loss']} at step {state.step + 1}; resume from the last "
            "checkpoint with a lower --learning-rate or with --precision fp32."
        )
    for group in state.optimizer.param_groups:
        group["lr"] = config.learning_rate_at(state.step)
    loss.backward()
    parameters = [p for p in state.model.parameters() if p.grad is not None]
    norm = torch.nn.utils.clip_grad_norm_(parameters, config.max_grad_norm)
    state.optimizer.step()
    state.optimizer.zero_grad(set_to_none=True)
    state.update_ema(config.ema_decay)
    state.step += 1
    return {**values, "gradient_norm": norm.item()}


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
) -> Any:  # noqa: ANN401
    """Sample a contact sheet from the EMA weights, ten images of up to ten classes, by Heun."""
    model = state.ema
    columns = [model.num_classes * i // 10 for i in range(10)]
    labels = torch.tensor(columns * 10, device=device)
    shape = (model.in_channels, model.input_size, model.input_size)
    noise = initial_noise(config.seed, range(len(labels)), shape).to(device)
    velocity = classifier_free_velocity(model, labels, model.null_label, cfg_scale)
    pixels = sample_ode(velocity, noise, num_steps=25, guidance_interval=(0.0, 0.7))
    images = ((pixels + 1) * 127.5).clamp(0, 255).byte().permute(0, 2, 3, 1).cpu().numpy()
    return contact_sheet(images, labels.tolist())


class Log:
    """A file of JSON lines, one an entry; entries after the step resumed from are dropped."""

    def __init__(self, path: Path, step: int) -> None:
        self._path = path
        self._since, self._step = time.monotonic(), step
        kept = [line for line in self._lines() if json.loads(line)["step"] <= step]
        path.write_text("".join(kept))

    def _lines(self) -> Iterator[str]:
        """All complete lines: a killed run can leave half of one."""
        if self._path.exists():
            lines = self._path.read_text().splitlines(keepends=True)
            yield from (line for line in lines if line.endswith("\n"))

    def write(self, step: int, losses: dict[str, float]) -> None:
        """Add an entry with the rate since the entry before."""
        now = time.monotonic()
        rate = (step - self._step) / max(now - self._since, 1e-9)
        self._since, self._step = now, step
        entry = {"step": step, **losses, "steps_per_second": round(rate, 3)}
        with self._path.open("a") as file:
            file.write(json.dumps(entry) + "\n")


def _prepare_folder(config: TrainConfig, out: Path, resume: bool) -> None:
    path = out / "config.json"
    if path.exists():
        if not resume:
            raise OutputExistsError(f"{out} holds a run already: add --resume, or another --out.")
        stored = json.loads(path.read_text())
        # A longer run is another run only where the end decides the learning rate before it.
        free = () if config.decay_steps else ("num_steps",)
        other = [k for k, v in asdict(config).items() if stored.get(k) != v and k not in free]
        if other:
            raise OutputExistsError(
                f"{out} was started with other settings ({', '.join(other)}): use another --out."
            )
    elif out.exists() and any(out.iterdir()):
        raise OutputExistsError(f"{out} is not empty and holds no run: use another --out.")
    out.mkdir(parents=True, exist_ok=True)
    path.write_text(config.to_json())


def _check_tokens(settings: dict[str, Any], targets: TargetFeatures) -> None:
    tokens = (settings["input_size"] // settings["patch_size"]) ** 2
    if targets.dims and targets.num_tokens != tokens:
        raise RepaError(
            f"the encoder gives {targets.num_tokens} features an image and {tokens} tokens are to "
            "be aligned with them: choose another image size or patch size."
        )


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
