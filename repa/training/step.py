"""One optimizer step: both losses, clipped gradient, AdamW, moving average."""

import math

import torch
from torch import Tensor

from repa.errors import NonFiniteError
from repa.training.batch import NoisyBatch
from repa.training.losses import alignment_loss, velocity_loss
from repa.training.run.state import TrainState
from repa.training.settings import TrainConfig
from samplers import INTERPOLANTS, Interpolant


def train_step(config: TrainConfig, state: TrainState, batch: NoisyBatch) -> dict[str, float]:
    """Take one optimizer step in place and return its losses and gradient norm.

    Raises:
        NonFiniteError: The loss or its gradient is not finite; the weights are as before the step,
            and no gradient stays behind.
    """
    interpolant = INTERPOLANTS[config.path_type]
    with torch.autocast(batch.data.device.type, torch.bfloat16, enabled=config.precision == "bf16"):
        velocity, alignment = losses_of(state.model, batch, interpolant)
    loss = velocity + config.alignment_weight * alignment
    values = {"loss": loss.item(), "velocity": velocity.item(), "alignment": alignment.item()}
    _check_finite(values["loss"], "loss", state.step)
    for group in state.optimizer.param_groups:
        group["lr"] = config.learning_rate_at(state.step)
    try:
        loss.backward()
        parameters = [p for p in state.model.parameters() if p.grad is not None]
        norm = torch.nn.utils.clip_grad_norm_(parameters, config.max_grad_norm)
        values["gradient_norm"] = norm.item()
        _check_finite(values["gradient_norm"], "gradient's norm", state.step)
        state.optimizer.step()
    finally:
        state.optimizer.zero_grad(set_to_none=True)
    state.update_ema(config.ema_decay)
    state.step += 1
    return values


def losses_of(
    model: torch.nn.Module, batch: NoisyBatch, interpolant: Interpolant
) -> tuple[Tensor, Tensor]:
    """Return the mean velocity loss and the alignment loss of a batch, 0 without features."""
    x = interpolant.interpolate(batch.data, batch.noise, batch.times)
    if batch.target_features:
        predicted, features = model(x, batch.times, batch.labels, return_features=True)
        alignment = alignment_loss(features, batch.target_features)
    else:
        predicted, alignment = model(x, batch.times, batch.labels), x.new_zeros(())
    per_image = velocity_loss(predicted.float(), batch.data, batch.noise, batch.times, interpolant)
    return per_image.mean(), alignment


def _check_finite(value: float, name: str, step: int) -> None:
    if not math.isfinite(value):
        raise NonFiniteError(f"the {name} is {value} at step {step + 1}")
