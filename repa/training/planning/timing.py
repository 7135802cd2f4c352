"""How long parts of a run take on this machine, from short measurements at this moment."""

from dataclasses import dataclass, replace

import numpy as np
import torch

from repa.data import TrainingData
from repa.training.batch import Batches
from repa.training.run.state import TrainState
from repa.training.settings import TrainConfig
from repa.training.step import step_network, train_step
from repa.training.targets import CHUNK_IMAGES, EncoderTargets, JoinedTargets, TargetSource
from repa_base.device import ENOUGH, FEWEST, MOST, SLOW, fastest
from repa_base.processes import Processes

_IMAGES = 8  # at once, if a share has them: one alone says nothing of what each costs


@dataclass(frozen=True)
class Timing:
    """How long parts of a run take on this machine, in seconds.

    Attributes:
        step: A step on the images that are at once in memory, which are read already, with the
            features that encoders make in every step.
        reading: Reading those images; it may be done ahead of the steps.
        features: Making the features of all images once, where they are kept.
        measured_images: Images at once that were measured; of more it is extrapolated.
        measured_steps: Steps on them that were measured, of which the fastest counts.
        encoded_images: Images whose features were made at once to measure that; 0 without encoders.
    """

    step: float
    reading: float
    features: float
    measured_images: int
    measured_steps: int
    encoded_images: int = 0


def measured_timing(
    config: TrainConfig,
    state: TrainState,
    data: TrainingData,
    targets: TargetSource,
    device: torch.device | str,
    share: int,
    room: int,
    taken: int = 0,
) -> Timing:
    """Measure a step on one image, then on as many as fit into seconds and into `room`.

    It is the step after `taken` steps, compiled and recomputed as in the run; without the alignment
    loss it takes no features, and none are made.
    """
    network = step_network(state.model, config, Processes())

    def step(count: int) -> tuple[float, int]:
        own = replace(config, batch_size=count, accumulate=1)
        batch = Batches(own, data, targets, device)(taken)
        if config.compile:  # which takes a minute at the first step of each size
            train_step(own, state, [batch], network=network)
        return fastest(lambda: train_step(own, state, [batch], network=network), device)

    one, steps = step(1)
    wanted = 2 if one > SLOW else max(_IMAGES, round(ENOUGH / max(one, 1e-6)))
    count, many = max(1, min(share, room, wanted)), one
    if count > 1:
        many, steps = step(count)
    if count < share:
        each = (many - one) / (count - 1) if count > 1 else one
        many += max(0.0, each) * (share - count)
    sources = targets.sources if isinstance(targets, JoinedTargets) else [targets]
    sources = sources if config.is_aligned(taken) else []
    encoders = [source for source in sources if isinstance(source, EncoderTargets)]
    others = JoinedTargets([s for s in sources if not isinstance(s, EncoderTargets)])
    reading = _reading(replace(config, batch_size=count), data, others, device, taken)
    once, always, encoded = 0.0, 0.0, 0
    for source in encoders:
        seconds, encoded = _encoding(source, device)
        if source.suitable_keeping == "nowhere":
            always += seconds * share
        else:
            once += seconds * data.count
    return Timing(many + always, reading * share / count, once, count, steps, encoded)


def _reading(
    config: TrainConfig,
    data: TrainingData,
    targets: TargetSource,
    device: torch.device | str,
    taken: int,
) -> float:
    """Return how long a batch takes, each time another one, without the work of encoders."""
    batches = Batches(config, data, targets, device)
    numbers = iter(range(taken + 1, taken + 2 + MOST))
    return fastest(lambda: batches.reader(next(numbers)), device)[0]


def _encoding(source: EncoderTargets, device: torch.device | str) -> tuple[float, int]:
    """Return how long an encoder takes for an image of many at once, and of how many."""
    one, _ = fastest(lambda: source.of(np.arange(1)), device)
    wanted = round(ENOUGH / max(FEWEST * one, 1e-6))
    count = max(1, min(CHUNK_IMAGES, source.data.count, wanted))
    many, _ = fastest(lambda: source.of(np.arange(count)), device) if count > 1 else (one, 1)
    return many / count, count
