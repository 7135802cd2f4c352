"""One optimizer step: both losses, clipped gradient, AdamW, moving average.

The device is not waited for: what a step measures is a tensor there, and a step whose loss or
gradient is not finite is left out there, weights and averages being as before it.
"""

import math
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from repa.errors import RepaError
from repa.models.sit import SiT
from repa.training.batch import NoisyBatch, Share
from repa.training.losses import alignment_loss, velocity_loss
from repa.training.run.state import TrainState
from repa.training.settings import TrainConfig
from repa_base.device import compiler_errors_as
from repa_base.processes import Processes, ended_in_words, is_lost_connection
from samplers import INTERPOLANTS, Interpolant

MEASURED = ("loss", "velocity", "alignment", "gradient_norm")
"""What a step measures, in this order; of the whole batch, whoever computes which part of it."""


def step_network(model: SiT, config: TrainConfig, processes: Processes) -> nn.Module:
    """Return the model as it is called in a step, and as its gradients are shared.

    Its parameters are the model's own. Every process calls this, its model having the same weights.
    """
    model.recomputed = config.recompute
    if config.compile:
        model.compile_blocks()
    if processes.size == 1:
        return model
    # Unless it looks for unused parameters it changes the order of its sums after the first step,
    # so that a run resumed would not be the same; and some are unused once there is no alignment.
    with ended_in_words():
        return DistributedDataParallel(model, find_unused_parameters=True)


def train_step(
    config: TrainConfig,
    state: TrainState,
    parts: Iterable[NoisyBatch],
    *,
    network: nn.Module | None = None,
    processes: Processes | None = None,
) -> Tensor:
    """Take one optimizer step in place, on parts of a batch that are of equal size.

    Args:
        config: Settings of the run, whose `accumulate` is the number of parts.
        state: What is stepped.
        parts: This process's parts of the batch, one after another.
        network: See `step_network`; the state's model if it is not given.
        processes: Those that take the step together, each with parts of its own.

    Returns:
        What `MEASURED` names, float32 (4,), on the device. If any of it is not finite the step
        counts and changes nothing else.

    Raises:
        RepaError: The network cannot be compiled on this machine.
        OtherProcessError: Another process has ended.
    """
    processes = processes or Processes()
    try:
        with _in_words():
            losses = _backward(config, network or state.model, parts)
        velocity, alignment = processes.mean_(losses)
        parameters = [p for p in state.model.parameters() if p.grad is not None]
        norm = nn.utils.clip_grad_norm_(parameters, config.max_grad_norm)
        loss = velocity + config.alignment_weight * alignment
        measured = torch.stack([loss, velocity, alignment, norm])
        rate = config.learning_rate_at(state.step)
        state.update(rate, config.ema_decay, applied=measured.isfinite().all())
    finally:
        state.optimizer.zero_grad(set_to_none=True)
    return measured


def read_measured(measured: Iterable[Tensor]) -> list[dict[str, float]]:
    """Return what steps measured, by name; the device is waited for, once."""
    rows = torch.stack(list(measured)).tolist()
    return [dict(zip(MEASURED, row, strict=True)) for row in rows]


def is_finite(measured: dict[str, float]) -> bool:
    """Whether a step that measured this was taken, and not left out."""
    return all(map(math.isfinite, measured.values()))


def losses_of(
    network: nn.Module, batch: NoisyBatch, interpolant: Interpolant
) -> tuple[Tensor, Tensor]:
    """Return the mean velocity loss and the alignment loss of a batch, 0 without features."""
    x = interpolant.interpolate(batch.data, batch.noise, batch.times)
    if batch.target_features:
        predicted, features = network(x, batch.times, batch.labels, return_features=True)
        alignment = alignment_loss(features, batch.target_features)
    else:
        predicted, alignment = network(x, batch.times, batch.labels), x.new_zeros(())
    per_image = velocity_loss(predicted.float(), batch.data, batch.noise, batch.times, interpolant)
    return per_image.mean(), alignment


def _backward(config: TrainConfig, network: nn.Module, parts: Iterable[NoisyBatch]) -> Tensor:
    """Add the gradients of all parts; return the means of both losses (2,)."""
    interpolant, found = INTERPOLANTS[config.path_type], []
    for number, batch in enumerate(parts, start=1):
        device = batch.data.device.type
        with _sharing(network, last=number == config.accumulate):
            with torch.autocast(device, torch.bfloat16, enabled=config.precision == "bf16"):
                velocity, alignment = losses_of(network, batch, interpolant)
            loss = velocity + config.alignment_weight * alignment
            (loss / config.accumulate).backward()
        found.append(torch.stack([velocity, alignment]).detach())
    return torch.stack(found).mean(0)


def _sharing(network: nn.Module, *, last: bool) -> AbstractContextManager[None]:
    """Let processes share their gradients once a step, with those of the last part."""
    if last or not isinstance(network, DistributedDataParallel):
        return nullcontext()
    return network.no_sync()


SMALLER = "a smaller --model or --preset"
"""What lets a step need less memory where no setting does that a run may change."""


def less_memory(config: TrainConfig, share: Share) -> str:
    """Return what of a run's settings would let a step need less memory, all that can be taken.

    It is empty if none would.
    """
    ways = []
    if share.more_parts is not None:
        ways.append(f"--accumulate {share.more_parts} (same batch, in more parts)")
    if not config.recompute:
        ways.append("--recompute")
    if config.precision == "fp32":
        ways.append("--precision bf16")
    if share.more_parts is not None:
        ways.append("more processes, each on a GPU or machine of its own")
    return ", or ".join(ways)


@contextmanager
def _in_words() -> Iterator[None]:
    """Say of what ends a step, and is no bug, what it means."""
    try:
        with compiler_errors_as(RepaError):
            yield
    except RuntimeError as error:
        if not is_lost_connection(error):
            raise
        with ended_in_words():
            raise
