"""Predictions: what a network's output means, and the velocity that it stands for.

Elsewhere a network is asked for a velocity, at times from 0 (data) to 1 (noise). What was trained
to other conventions is turned here, once. The file knows no network.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

from torch import Tensor

from samplers import Interpolant, ModelFn

Target = Literal["velocity", "noise", "data"]

NetworkFn = Callable[[Tensor, Tensor, Tensor], Tensor]
"""network(x, t, labels): whatever it predicts, in its own direction of time."""


@dataclass(frozen=True)
class Prediction:
    """What a network predicts; the default is the toolkit's own convention; JSON as its `asdict`.

    Reversed time runs from 0 (noise) to 1 (data), and the velocity is the derivative in that time.
    The leading `channels` of the output are the prediction; None is all. With `num_times` a network
    counts times from 0 to num_times - 1, where k is t = (k + 1) / num_times; between them, and down
    to t = 0, it is asked at fractions from 0 on.

    Raises:
        ValueError: A value is of another type or range.
    """

    target: Target = "velocity"
    reversed_time: bool = False
    channels: int | None = None
    num_times: int | None = None

    def __post_init__(self) -> None:
        if self.target not in get_args(Target):
            raise ValueError(f"target is {self.target!r}, not velocity, noise or data")
        if not isinstance(self.reversed_time, bool):
            raise ValueError(f"reversed_time is {self.reversed_time!r}, not true or false")
        for name in ("channels", "num_times"):
            value = getattr(self, name)
            if value is not None and (type(value) is not int or value < 1):
                raise ValueError(f"{name} is {value!r}, not a whole number of at least 1")

    def velocity_model(self, network: NetworkFn, interpolant: Interpolant) -> ModelFn:
        """Return the velocity that a network's output stands for.

        The velocity of a predicted noise has a pole where alpha is 0 and that of predicted data
        one where sigma is 0: on the linear path it is NaN or infinite at t = 1 and at t = 0, on
        the cosine path useless from rounding there, and close to them errors of the network grow
        by 1 / alpha and 1 / sigma. A sampler begins at t = 1, so for noise its times must begin
        below; no sampler but a torchdiffeq method asks at t = 0.

        The interpolant is the path that the network was trained on, in the toolkit's direction of
        time. What is returned is shaped like x, in the network's dtype; it is the network itself if
        that predicts a velocity of the toolkit's own convention.
        """
        if self == Prediction():
            return network

        def model(x: Tensor, t: Tensor, labels: Tensor) -> Tensor:
            time = 1 - t if self.reversed_time else t
            if self.num_times is not None:
                time = (self.num_times * time - 1).clamp(min=0)
            output = network(x, time, labels)[:, : self.channels]
            if self.target == "velocity":
                return -output if self.reversed_time else output
            at = interpolant.coefficients(t.reshape(-1, *[1] * (x.ndim - 1)))
            if self.target == "noise":
                data, noise = (x - at.sigma * output) / at.alpha, output
            else:
                data, noise = output, (x - at.alpha * output) / at.sigma
            return at.d_alpha * data + at.d_sigma * noise

        return model
