"""Whether a checkpoint makes what looks like images: a few checks that a wrong one fails.

They tell a time or sign that runs the other way, a scale that is off by two or more, and weights
that were never trained. They say nothing of quality, and nothing of labels.
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from repa.autoencoders.autoencoder import Autoencoder, find_autoencoder
from repa.autoencoders.latent_space import LatentSpace
from repa.checkpoints import Checkpoint, load_model
from repa.errors import CheckpointFormatError, DownloadError
from repa.generation.images import check_decoder, states_of
from repa.generation.settings import Protocol
from repa_base.progress import Steps
from samplers import initial_noise

CHECKED_IMAGES = 8
"""Of the batch, where no other number is said."""
_SHARE = 0.25
"""How far the share of noise in the velocity may be from 1. Half an input scale makes 0.5 of it,
twice the velocity 2, no training 0, another sign -1 and another time about 1.7 or -1.7."""
_LEAST_CORRELATION, _ERRORS = 0.1, 5
"""Noise has 0, give or take 1 over the root of the pairs; pictures of 16 to 256 pixels 0.9, and the
shipped digits 0.97. What an autoencoder's latents have was not measured, so that 0.1 will do."""
_BEYOND, _MOST_BEYOND = 1.1, 0.1
"""Pixels are in [-1, 1]: of noise 27 % are beyond 1.1, of the digits and of pictures none."""
_SPREAD = (0.5, 2.0)
"""Latents have a deviation near 1 by the choice of their scale."""
_CONTRAST = (0.1, 0.9)
"""Of pixels; photographs have 0.5 to 0.6, noise of the whole range 0.58 and grey 0."""


@dataclass(frozen=True)
class Check:
    """One check: its name, what was found, what an intact checkpoint has, and whether it has that.

    `passed` is None where it could not be made; `advice` then says what it needs, and where it
    failed what may be wrong.
    """

    name: str
    found: float | None
    expected: str
    passed: bool | None
    advice: str = ""


def check_checkpoint(
    name_or_path: str | Path,
    device: torch.device | str = "cpu",
    *,
    autoencoder: str | None = None,
    num_images: int = CHECKED_IMAGES,
    num_steps: int = 25,
    progress: Steps | None = None,
    **hints: Any,  # noqa: ANN401
) -> list[Check]:
    """Sample one small batch without guidance, decode it, and say whether it looks like images.

    Args:
        name_or_path: Name in the registry, file, or folder of a training run.
        device: Where to compute.
        autoencoder: Decodes latents; None is the checkpoint's. It is not downloaded.
        num_images: Images of the batch; the more, the surer.
        num_steps: Steps of Euler, or of DDPM for a network that predicts noise, each one evaluation
            of the network an image.
        progress: Called with the images made, one in work counted by its time gone by, and with
            how many there are to make.
        hints: What is said of a file that does not tell it, as of `repa.checkpoints.load_model`.

    Raises:
        RepaError: As of `repa.checkpoints.load_model`.
    """
    checkpoint = load_model(name_or_path, device, **hints)
    noise_predicted = checkpoint.prediction == "noise"
    protocol = Protocol(
        solver="ddpm" if noise_predicted and _has_variances(checkpoint) else "euler",
        num_steps=num_steps,
        cfg_scale=1.0,
        labels="balanced",
    )
    tell = progress or (lambda done, total: None)

    def on_time(t: float) -> None:
        tell(num_images * (1 - t), num_images)

    on_time(1.0)
    x = states_of(checkpoint, range(num_images), protocol, on_time)
    checks = [_noise_share(checkpoint, num_images)]
    finite = bool(torch.isfinite(x).all())
    checks.append(Check("finite values", None, "all", finite, "" if finite else "it overflows."))
    if finite:
        checks += _of_states(x, pixels=checkpoint.latent_space.is_pixels)
        checks += _of_images(checkpoint, x, autoencoder, device)
    tell(num_images, num_images)
    return checks


def _has_variances(checkpoint: Checkpoint) -> bool:
    return checkpoint.settings.model.get("out_channels") is not None


def _noise_share(checkpoint: Checkpoint, count: int) -> Check:
    """Regress the output at t = 1 on the noise that it is asked about.

    There x is the noise, independent of the data, so that the best velocity on the linear path is
    x less the mean of the data, and the best guess of the noise is x itself: a slope of 1.
    """
    name, expected = "noise in the output at t = 1", f"1, to within {_SHARE:g}"
    settings, network = checkpoint.settings, checkpoint.model
    target = settings.prediction.target
    if target == "data" or (target == "velocity" and settings.path_type != "linear"):
        why = f"of a {target} on the path {settings.path_type} nothing follows."
        return Check(name, None, expected, None, why)
    shape = (network.in_channels, network.input_size, network.input_size)
    device = next(network.parameters()).device
    noise = initial_noise(0, range(count), shape).float().to(device)
    labels = (torch.arange(count) % network.num_classes).to(device)
    time = 1.0 if target == "velocity" else (settings.prediction.num_times or 1) - 1.0
    asked = network if target == "noise" else checkpoint.velocity_model
    with torch.no_grad():
        output = asked(noise, torch.full((count,), time, device=device), labels)
    output = output[:, : network.in_channels].double()
    slope = ((output * noise).sum() / noise.double().square().sum()).item()
    return Check(name, slope, expected, abs(slope - 1) <= _SHARE, _share_advice(slope))


def _share_advice(slope: float) -> str:
    if abs(slope - 1) <= _SHARE:
        return ""
    if slope < -_SHARE:
        return "its sign or its time runs the other way: say another --dialect."
    if slope < _SHARE:
        return "it does not see the noise: it is not trained, or counts its times otherwise."
    return "its time runs the other way, or its input or output has another scale."


def _of_states(x: Tensor, *, pixels: bool) -> list[Check]:
    """Check the spread of the states, and that neighbours are alike."""
    checks = []
    if not pixels:
        advice = "the network is asked in another scale than it was trained in."
        checks.append(_within("deviation of the latents x", x.std().item(), _SPREAD, advice))
    correlation, pairs = neighbour_correlation(x)
    least = max(_LEAST_CORRELATION, _ERRORS / math.sqrt(pairs))
    passed = correlation >= least
    advice = "" if passed else "neighbours are as unlike as in noise."
    expected = f"at least {least:.2g}, of noise 0"
    return [*checks, Check("correlation of neighbours", correlation, expected, passed, advice)]


def neighbour_correlation(x: Tensor) -> tuple[float, int]:
    """Return the correlation of neighbours in x (B, C, H, W), and of how many pairs it is.

    Pairs stand side by side or one below the other, in one channel; a channel's mean is taken off.
    """
    centred = x.double() - x.double().mean(dim=(0, 2, 3), keepdim=True)
    beside = centred[..., 1:] * centred[..., :-1]
    below = centred[..., 1:, :] * centred[..., :-1, :]
    variance = centred.square().mean().item()
    mean = (beside.mean().item() + below.mean().item()) / 2
    return (mean / variance if variance else 0.0), beside.numel() + below.numel()


def _of_images(
    checkpoint: Checkpoint, x: Tensor, name: str | None, device: torch.device | str
) -> list[Check]:
    """Check the pixels, and of latents the scale in which they are decoded."""
    space = checkpoint.latent_space
    if space.is_pixels:
        return _of_pixels(x, "the images")
    name = name or space.autoencoder
    if name is None:
        needs = "it needs an autoencoder, which the file does not tell: say --autoencoder."
        return [Check("decoded images", None, "", None, needs)]
    try:
        decoder = find_autoencoder(name, device, download=False)
    except DownloadError as error:
        return [Check("decoded images", None, "", None, f"it needs a decoder: {error}.")]
    check_decoder(decoder, checkpoint.settings.model["in_channels"])
    pixels = decoder.decode(x, space)
    return [*_of_scale(decoder, space, x), *_of_pixels(pixels, "the decoded images")]


def _of_scale(decoder: Autoencoder, space: LatentSpace, x: Tensor) -> list[Check]:
    """Compare the deviation of what is decoded with that of the autoencoder's own latents."""
    try:
        usual = decoder.latent_space
    except CheckpointFormatError:
        return []  # its files do not tell
    ratio = usual.from_autoencoder(space.to_autoencoder(x)).std().item()
    advice = f"{decoder.name} is given latents of another scale than its own: see --latents."
    return [_within("deviation of what is decoded, in the decoder's scale", ratio, _SPREAD, advice)]


def _of_pixels(pixels: Tensor, what: str) -> list[Check]:
    beyond = (pixels.abs() > _BEYOND).double().mean().item()
    passed = beyond <= _MOST_BEYOND
    advice = "" if passed else "they are far out of the range of pixels: a scale is another."
    expected = f"at most {_MOST_BEYOND:g}, of noise 0.27"
    return [
        Check(f"share of {what} beyond {_BEYOND:g}", beyond, expected, passed, advice),
        _within(f"contrast of {what}", pixels.std().item(), _CONTRAST, "they are flat, or noise."),
    ]


def _within(name: str, found: float, limits: tuple[float, float], advice: str) -> Check:
    low, high = limits
    passed = low <= found <= high
    return Check(name, found, f"{low:g} to {high:g}", passed, "" if passed else advice)


def verdict(checks: list[Check]) -> bool | None:
    """Whether all were passed; None if none failed and some could not be made."""
    results = [check.passed for check in checks]
    return False if False in results else None if None in results else True
