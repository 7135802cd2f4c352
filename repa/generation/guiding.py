"""What a protocol's guidance is: which velocity is followed, which is left, and how far.

The negative velocity is the network's own without a label (classifier-free guidance), or that of a
second checkpoint with the same labels (autoguidance).
"""

from collections.abc import Callable
from typing import Any

from torch import Tensor

from repa.checkpoints.settings import CheckpointSettings
from repa.errors import SettingError
from repa.generation.settings import Protocol
from samplers import (
    Extrapolation,
    ModelFn,
    VelocityFn,
    classifier_free_velocity,
    guided_velocity,
    plain,
    projected,
    zero_star,
)


def guided_by(
    protocol: Protocol,
    model: ModelFn,
    labels: Tensor,
    null_label: int,
    *,
    guide: ModelFn | None = None,
    guided_channels: int | None = None,
) -> VelocityFn:
    """Return the guided velocity of one batch, whose evaluations are two networks' rows if guided.

    Args:
        protocol: Kind and strength of the guidance.
        model: What is followed: model(x, t, labels) is its velocity.
        labels: int64 (B,), on the device of the noise.
        null_label: The label that stands for no class.
        guide: What is left instead of the model without a label.
        guided_channels: Of classifier-free guidance, see `samplers.classifier_free_velocity`; away
            from a guide all channels are guided, as no rule of channels is published for that.
    """
    how = extrapolation_of(protocol)
    if guide is None:
        return classifier_free_velocity(
            model,
            labels,
            null_label,
            protocol.cfg_scale,
            guided_channels=guided_channels,
            extrapolation=how,
        )

    def of(network: ModelFn) -> Callable[[Tensor, Tensor], Tensor]:
        return lambda x, t: network(x, t, labels)

    return guided_velocity(of(model), of(guide), protocol.cfg_scale, extrapolation=how)


def extrapolation_of(protocol: Protocol) -> Extrapolation:
    """Return what a protocol makes of the two velocities, for one batch."""
    match protocol.guidance:
        case "cfg-zero":
            return zero_star()
        case "apg":
            bound = {"bound": protocol.apg_bound} if protocol.apg_bound else {}
            return projected(protocol.apg_parallel, momentum=protocol.apg_momentum, **bound)
        case _:
            return plain


def check_guide(settings: CheckpointSettings, guide: CheckpointSettings) -> None:
    """Raise SettingError unless a checkpoint can be guided by another one of these settings.

    Latent spaces are the same where their numbers are: sd-vae-ft-ema and sd-vae-ft-mse decode the
    latents of one encoder, so that a model of either may guide one of the other.
    """
    for what, of_model, of_guide in (
        ("classes", settings.num_classes, guide.num_classes),
        ("channels", settings.model["in_channels"], guide.model["in_channels"]),
        ("positions a side", settings.model["input_size"], guide.model["input_size"]),
        ("path", settings.path_type, guide.path_type),
        ("latent space", _place(settings), _place(guide)),
    ):
        if of_model != of_guide:
            reason = f"the guide's {what}: {of_guide}, the model's: {of_model}"
            raise SettingError("guide", f"{reason}; take a checkpoint that has the same.")


def recorded(protocol: Protocol) -> dict[str, Any]:
    """Return what the manifest says of a guidance that is not the published kind."""
    if protocol.guidance == "cfg":
        return {}
    said: dict[str, Any] = {"guidance": protocol.guidance}
    if protocol.guidance == "apg":
        names = ("apg_parallel", "apg_bound", "apg_momentum")
        said |= {name: getattr(protocol, name) for name in names}
    return said


def _place(settings: CheckpointSettings) -> str:
    space = settings.latent_space
    return "pixels" if space.is_pixels else f"scale {space.scale}, bias {space.bias}"
