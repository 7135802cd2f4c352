"""When images stopped being numbers, and what the likely cause is.

Every evaluation leaves the largest values of its states and velocities, image by image, on the
device: nothing is read back before an image has turned out not to be finite.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from repa.errors import NonFiniteError, RepaError, SettingError
from repa.generation.settings import Protocol
from repa.generation.solvers import MULTISTEP, order_of
from samplers import VelocityFn
from samplers.names import ADAMS_METHODS

_GROWN = 1000.0
"""Far above what states and latents of images have, whose largest values are about 5."""

_ONE_EACH = ("sde", "ddpm", "euler", *MULTISTEP)
"""Solvers whose steps have one evaluation each, also those that an interval's ends have added."""


@dataclass
class Watch:
    """The evaluations of one batch; `watched` is asked in place of the velocity it is given."""

    times: list[float] = field(default_factory=list)
    _states: list[Tensor] = field(default_factory=list)
    _velocities: list[Tensor] = field(default_factory=list)

    def timed(self, on_time: Callable[[float], object]) -> Callable[[float], None]:
        """Return a function that is told the times of evaluations, and tells them on."""

        def told(t: float) -> None:
            self.times.append(t)
            on_time(t)

        return told

    def watched(self, velocity: VelocityFn) -> VelocityFn:
        """Return a velocity, or DDPM's output, whose values are remembered by their largest."""

        def remembered(x: Tensor, t: Tensor, guided: bool) -> Tensor:
            found = velocity(x, t, guided)
            self._states.append(_largest(x))
            self._velocities.append(_largest(found))
            return found

        return remembered

    def begin(self, row: int) -> tuple[int, float, float] | None:
        """Return the first evaluation of a row that is not finite, from 0, with its largest values.

        They are the state's, and the velocity's there; None if all evaluations were finite.
        """
        for number, values in enumerate(zip(self._states, self._velocities, strict=True)):
            state, velocity = (float(value[row]) for value in values)
            if not (math.isfinite(state) and math.isfinite(velocity)):
                return number, state, velocity
        return None

    def first_row(self, rows: Sequence[int]) -> int | None:
        """Return which of some rows stopped first to be finite, by its place; None if none did."""
        found = {place: self.begin(row) for place, row in enumerate(rows)}
        begun = {place: each[0] for place, each in found.items() if each}
        return min(begun, key=lambda place: begun[place], default=None)

    def step_text(self, number: int, protocol: Protocol) -> str:
        """Say in words which evaluation one is: its step, where it is known, and its time."""
        at = f"t = {self.times[number]:g}"
        if protocol.adaptive or protocol.solver in ADAMS_METHODS:
            return f"evaluation {number + 1} ({at})"
        evaluations = len(self.times)
        steps = evaluations if protocol.solver in _ONE_EACH else protocol.num_steps
        return f"step {number * steps // evaluations + 1} of {steps} ({at})"


@dataclass(frozen=True)
class Batch:
    """A batch whose images may turn out not to be finite, and what computed it.

    Images `indices` are in the rows `rows`; None is all in their order. The networks, asked for
    when something is wrong, are by what they are called, as they compute: a tensor of them that is
    not finite is named.
    """

    watch: Watch
    indices: Sequence[int]
    rows: Sequence[int] | None
    protocol: Protocol
    networks: Callable[[], Mapping[str, nn.Module]]

    def error(self, place: int, latents: Tensor | None = None) -> NonFiniteError:
        """Return the error of the image at a place: since when, and why, as far as can be told.

        `latents` are what was decoded; None where nothing is, or the solver gave up.
        """
        begun = self.watch.begin(self._rows[place])
        where, protocol = "in the decoder", self.protocol
        if begun is not None:
            where = f"from {self.watch.step_text(begun[0], protocol)} on"
            why = _of_evaluation(*begun[1:], protocol)
        elif latents is None or not math.isfinite(largest := float(_largest(latents)[place])):
            where, why = "after the last step", _grown(math.inf, protocol)
        elif largest > _GROWN:
            why = _grown(largest, protocol)
        else:
            why = f"the latents are finite, none beyond {largest:.3g}, and the pixels are not"
        what = f"image {self.indices[place]} has NaN or infinite pixels, {where}"
        return NonFiniteError(f"{what}: {_damaged(self.networks()) or why}.")

    def gave_up(self) -> RepaError:
        """Return the error of an adaptive solver that finds no step."""
        place = self.watch.first_row(self._rows)
        if place is not None:
            return self.error(place)
        reason = f"solver {self.protocol.solver} finds no steps short enough for its tolerances"
        return SettingError("solver", f"{reason}: take one of fixed steps.")

    @property
    def _rows(self) -> Sequence[int]:
        return range(len(self.indices)) if self.rows is None else self.rows


def _of_evaluation(state: float, velocity: float, protocol: Protocol) -> str:
    """Say why an evaluation gave no numbers, by the largest of its state."""
    if not state <= _GROWN:
        return _grown(state, protocol)
    if protocol.precision == "fp16":
        return "fp16 overflowed, which holds numbers up to 65,504: use --precision bf16 or fp32"
    gave = "NaN" if math.isnan(velocity) else "infinite values"
    return f"the network gave {gave} for a state whose largest value is {state:.3g}"


def _grown(largest: float, protocol: Protocol) -> str:
    """Say that a state has left all bounds, and what of the protocol may drive it there."""
    how = f"to {largest:.3g}" if math.isfinite(largest) else "beyond all numbers"
    remedies = [f"more steps (--steps {protocol.num_steps} here)"]
    if not isinstance(protocol.times, str):
        remedies = [f"more times (--times has {len(protocol.times)} here)"]
    if protocol.adaptive:
        remedies = ["another solver"]
    if protocol.cfg_scale > 1:
        remedies.insert(0, f"weaker guidance (--cfg {protocol.cfg_scale:g} here)")
    if protocol.internal_scale > 1:
        remedies.insert(0, f"weaker internal guidance (--ig {protocol.internal_scale:g} here)")
    if protocol.solver in MULTISTEP and order_of(protocol.solver, protocol.order) > 1:
        remedies.append("a solver of lower order")
    return f"the state had grown {how}: try {', or '.join(remedies)}"


def _damaged(networks: Mapping[str, nn.Module]) -> str | None:
    """Name a tensor that is not finite, if there is one."""
    for called, network in networks.items():
        for name, tensor in network.state_dict().items():
            if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
                kind = "" if tensor.dtype == torch.float32 else f" as {str(tensor.dtype)[6:]}"
                return f"the tensor {name} of {called} is NaN or infinite{kind}"
    return None


def _largest(values: Tensor) -> Tensor:
    """Return the largest absolute value of each row; NaN where there is one."""
    return values.flatten(1).abs().amax(1)
