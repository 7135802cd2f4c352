"""How long images take on this machine, from a few evaluations of the networks that will make them.

A network's time on n rows is taken to be a part for each evaluation and a part for each row.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch

from repa.generation.images import GenerativeModel, as_asked, velocity_of
from repa.generation.job import Job
from repa_base.device import fastest, float32_precision, seconds_of

_SLOW = 1.0  # seconds of work that is not repeated once it is warm, nor done on more rows
_HOPELESS = 30.0  # seconds of work that is done once


@dataclass(frozen=True)
class Line:
    """Seconds of some work by its rows, and how many rows were measured at most."""

    fixed: float
    each: float
    measured_rows: int

    def seconds(self, rows: int) -> float:
        """Return how long the work takes on so many rows."""
        return self.fixed + rows * self.each


@dataclass(frozen=True)
class Timing:
    """How long parts of sampling take in one process of this machine.

    Attributes:
        network: An evaluation of the network.
        guide: One of the checkpoint that it is guided away from; None without one.
        decoder: Latents to pixels; None for pixels.
        weight_bytes: Of all these, in memory as they compute.
    """

    network: Line
    guide: Line | None
    decoder: Line | None
    weight_bytes: int

    def evaluation(self, images: int, *, guided: bool) -> float:
        """Return how long an evaluation of some images takes, guided or not."""
        if not guided:
            return self.network.seconds(images)
        if self.guide is None:
            return self.network.seconds(2 * images)
        return self.network.seconds(images) + self.guide.seconds(images)

    def batch(self, images: int, evaluations: tuple[int, int]) -> float:
        """Return how long some images take from noise to pixels."""
        plain, guided = (
            count * self.evaluation(images, guided=guided)
            for count, guided in zip(evaluations, (False, True), strict=True)
        )
        return plain + guided + (self.decoder.seconds(images) if self.decoder else 0.0)


def timing_of(job: Job, images: int) -> Timing:
    """Measure the networks, uncompiled, of a run whose batches have so many images, in seconds.

    Rows are added until an evaluation takes about a second; what a larger batch takes follows from
    the time of one row and of those.

    Raises:
        RepaError: A network cannot be loaded.
    """
    config, device = job.config, job.device
    networks: list[Any] = []

    def line(checkpoint: GenerativeModel, rows: int, internal_scale: float) -> Line:
        asked = replace(config, internal_scale=internal_scale)
        model = as_asked(checkpoint, replace(config, compile=False))  # which takes longer
        networks.append(model.model)
        network = model.model
        side, channels = network.input_size, network.in_channels

        def work(count: int) -> Callable[[], object]:
            labels = torch.zeros(count, dtype=torch.int64, device=device)
            velocity = velocity_of(model, None, labels, asked)
            x = torch.randn(count, channels, side, side, device=device)
            t = torch.full((count,), 500 if config.solver == "ddpm" else 0.5, device=device)
            return lambda: velocity(x, t, False)

        return _line(work, rows, device)

    with torch.no_grad(), float32_precision(tf32=config.tf32):
        doubled = config.cfg_scale != 1 and job.guide is None
        rows = 2 * images if doubled else images
        network = line(job.checkpoint, rows, config.internal_scale)
        guide = None if job.guide is None else line(job.guide, images, 1.0)
        decoder = None
        if job.autoencoder is not None:
            networks.append(job.autoencoder.network)
            decoder = _decoder(job, images)
    weights = [tensor for each in networks for tensor in each.state_dict().values()]
    return Timing(network, guide, decoder, sum(tensor.nbytes for tensor in weights))


def _decoder(job: Job, images: int) -> Line:
    model, device = job.checkpoint.settings.model, job.device
    shape = (model["in_channels"], model["input_size"], model["input_size"])

    def work(count: int) -> Callable[[], object]:
        x, space = torch.randn(count, *shape, device=device), job.checkpoint.settings.latent_space
        return lambda: job.autoencoder and job.autoencoder.decode(x, space)

    return _line(work, images, device)


def _line(work: Callable[[int], Callable[[], object]], most: int, device: torch.device) -> Line:
    """Measure some work on one row, and on as many as take about a second, at most `most`."""
    first = seconds_of(work(1), device)  # which has to get ready, and may fetch its weights
    if first > _HOPELESS:
        return Line(0.0, first, 1)
    one = _warm(work(1), first, device)
    count = max(1, min(most, round(_SLOW / max(one, 1e-6))))
    if count == 1:
        return Line(0.0, one, 1)
    many = _warm(work(count), one * count, device)
    each = max(0.0, (many - one) / (count - 1))
    return Line(many - count * each, each, count)


def _warm(work: Callable[[], object], expected: float, device: torch.device) -> float:
    """Return the seconds of work that takes about as long as expected: the fewer, the surer."""
    return fastest(work, device)[0] if expected < _SLOW / 2 else seconds_of(work, device)
