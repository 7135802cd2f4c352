"""DDPM's ancestral sampling, respaced, with learned variances: how DiT is sampled as published.

Times are DDPM's own, whole numbers from 999 (noise) to 0, of which some are visited. The state is
float64 whatever the network's dtype. The random numbers are the caller's.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor

from samplers.guidance import GuidanceInterval
from samplers.interpolant import DiscreteInterpolant
from samplers.names import DDPM_TIMES
from samplers.sde import NormalFn, checked_normals
from samplers.velocity import ModelFn, TimeFn

OutputFn = Callable[[Tensor, Tensor, bool], Tensor]
"""output(x, k, guided): noise and variance channels (batch, 2 C, ...) at times k (batch,)."""


@dataclass(frozen=True)
class _Schedule:
    """Of the visited times, rising: their numbers, and in float64 what a step needs at each."""

    times: list[int]
    signal: Tensor
    before: Tensor
    log_beta: Tensor
    log_posterior: Tensor


def respaced_times(num_steps: int) -> list[int]:
    """Return the times that `num_steps` visit, rising, equally spaced from 0 to 999.

    Raises:
        ValueError: num_steps is not from 2 to 1000.

    Source:
        DiT diffusion/respace.py at ed81ce2, space_timesteps for one section.
    """
    if not 2 <= num_steps <= DDPM_TIMES:
        raise ValueError(f"num_steps must be from 2 to {DDPM_TIMES} in DDPM, got {num_steps}.")
    stride = (DDPM_TIMES - 1) / (num_steps - 1)
    at, times = 0.0, []
    for _ in range(num_steps):
        times.append(round(at))
        at += stride
    return times


@torch.no_grad()
def sample_ddpm(
    output: OutputFn,
    noise: Float[Tensor, "batch *dims"],
    *,
    num_steps: int,
    guidance_interval: tuple[float, float] = (0.0, 1.0),
    normal: NormalFn,
    on_time: TimeFn | None = None,
) -> Float64[Tensor, "batch *dims"]:
    """Turn noise into data by DDPM; the last step adds no noise.

    Args:
        output: A network's predicted noise and, beside it, where between the smallest and the
            largest variance of a step its logarithm lies, from -1 to 1.
        noise: Standard normal, in the network's dtype.
        num_steps: Visited times of 1000, one evaluation each.
        guidance_interval: Closed, in t = (k + 1) / 1000; the published protocol has all times.
        normal: Called once for each step but the last, 0, 1, ... in turn.
        on_time: Told t of every evaluation, before it.

    Returns:
        The state at the end, shaped like `noise`.

    Raises:
        ValueError: As `respaced_times`, or normals have a shape other than the noise's.

    Source:
        DiT diffusion/gaussian_diffusion.py at ed81ce2, p_sample_loop with clip_denoised False.
    """
    interval = GuidanceInterval(*guidance_interval)
    schedule = _schedule(respaced_times(num_steps))
    x = noise.to(torch.float64)
    for step in range(num_steps):
        index = num_steps - 1 - step
        t = (schedule.times[index] + 1) / DDPM_TIMES
        if on_time is not None:
            on_time(t)
        times = torch.full((len(x),), schedule.times[index], device=x.device)
        found = output(x.to(noise.dtype), times, t in interval).to(torch.float64)
        mean, log_variance = _posterior(x, *found.chunk(2, dim=1), schedule, index)
        x = mean
        if not index:
            break
        x = mean + (log_variance / 2).exp() * checked_normals(normal(step), x)
    return x


def _schedule(times: Sequence[int]) -> _Schedule:
    signal = (-DiscreteInterpolant().betas()).log1p().cumsum(0).exp()[list(times)]
    before = torch.cat([torch.ones(1, dtype=torch.float64), signal[:-1]])
    beta = 1 - signal / before
    posterior = beta * (1 - before) / (1 - signal)
    # The first is 0, as nothing is before it: the second stands in for it.
    log_posterior = torch.cat([posterior[1:2], posterior[1:]]).log()
    return _Schedule(list(times), signal, before, beta.log(), log_posterior)


def _posterior(
    x: Tensor, noise: Tensor, where: Tensor, schedule: _Schedule, index: int
) -> tuple[Tensor, Tensor]:
    """Return mean and log variance of the state a step before, given the predictions."""
    signal, before = schedule.signal[index].item(), schedule.before[index].item()
    log_beta, log_least = schedule.log_beta[index].item(), schedule.log_posterior[index].item()
    beta = 1 - signal / before
    data = (x - (1 - signal) ** 0.5 * noise) / signal**0.5
    of_data, of_x = beta * before**0.5, (1 - before) * (1 - beta) ** 0.5
    share = (where + 1) / 2
    mean = (of_data * data + of_x * x) / (1 - signal)
    return mean, share * log_beta + (1 - share) * log_least


def classifier_free_output(
    network: ModelFn,
    labels: Int64[Tensor, " batch"],
    null_label: int,
    cfg_scale: float,
    *,
    guided_channels: int | None = None,
) -> OutputFn:
    """Guide a network's noise, its leading `guided_channels`, away from that of no label.

    The other channels, and all of the variance, are those of the labels. Arguments are as of
    `samplers.classifier_free_velocity`.

    Raises:
        ValueError: The scale is below 1 or not finite.

    Source:
        DiT models.py at ed81ce2, forward_with_cfg.
    """
    if not 1 <= cfg_scale < float("inf"):
        raise ValueError(f"cfg_scale must be finite and at least 1, got {cfg_scale}.")
    both_labels = torch.cat([labels, torch.full_like(labels, null_label)])

    def output(x: Tensor, k: Tensor, guided: bool) -> Tensor:
        if not guided or cfg_scale == 1:
            return network(x, k, labels)
        both = network(torch.cat([x, x]), torch.cat([k, k]), both_labels).to(torch.float64)
        followed, left = both.chunk(2)
        count = guided_channels or followed.shape[1] // 2
        turned = left[:, :count] + cfg_scale * (followed[:, :count] - left[:, :count])
        return torch.cat([turned, followed[:, count:]], dim=1)

    return output
