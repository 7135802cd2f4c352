"""From a run's settings and files to its manifest.

What is as published, and came with a later version, is left out: so the manifests of earlier
versions mean what they always did.
"""

from pathlib import Path
from typing import Any

import torch

from repa.autoencoders.autoencoder import Autoencoder
from repa.checkpoints import Checkpoint
from repa.checkpoints.hints import AS_SAID
from repa.errors import RepaError
from repa.generation.guiding import recorded
from repa.generation.images import DTYPES
from repa.generation.integration import TOLERANCE
from repa.generation.settings import GUIDE_HINTS, HINTS, Protocol, SampleConfig
from repa.generation.solvers import DEFAULT_ORDER
from repa.registry import class_names_of_dataset, is_registered
from repa.sheets import sampling_words
from repa_base.device import environment, kernels_of, toolkit_version
from samplers import EXPONENTIAL_ORDERS

FORMAT = 1
OWN_DIALECTS = ("ours", "repa")
"""Those that a manifest names only if a person had to say them."""


def manifest_of(
    config: SampleConfig,
    checkpoint: Checkpoint,
    autoencoder: Autoencoder | None,
    guide: Checkpoint | None,
    device: torch.device,
    *,
    image_size: int,
) -> dict[str, Any]:
    """Return everything that decides the images; no times and no paths, so that bytes repeat."""
    settings = checkpoint.settings
    reference = settings.reference
    return {
        "format": FORMAT,
        "toolkit": toolkit_version(),
        "model": checkpoint.name,
        "checkpoint_sha256": checkpoint.sha256,
        **_convention(checkpoint),
        **_hints(config, checkpoint),
        "dataset": settings.dataset,
        **({} if reference is None else {"reference": reference.to_dict()}),
        **_class_names(checkpoint),
        "path_type": settings.path_type,
        **_solving(config),
        **({} if guide is None else _guide(guide)),
        **_internal(config),
        "seed": config.seed,
        **_reference_rng(config, device),
        "labels": config.labels,
        "num_images": config.num_images,
        "image_size": image_size,
        "autoencoder": autoencoder.name if autoencoder else None,
        "autoencoder_sha256": autoencoder.sha256 if autoencoder else None,
        "quantizer": config.quantizer,
        # Of the run: an image's last digits depend on how many share its batch.
        "batch_size": config.batch_size,
        **({"rtol": TOLERANCE, "atol": TOLERANCE} if config.adaptive else {}),
        "dtype": _dtype(config),
        "tf32": config.tf32 and device.type == "cuda",
        **({"compile": True} if config.compile else {}),
        # Of the run too: it may be continued on another one.
        "device": kernels_of(device),
        "versions": {name: environment()[name] for name in ("torch", "numpy", "python")},
    }


def in_words(protocol: Protocol, guide: str | None = None) -> tuple[str, str]:
    """Say how images are made, as titles of contact sheets do: the solver, and the guidance."""
    made = _solving(protocol) | _internal(protocol) | {"guide": guide, "dtype": _dtype(protocol)}
    return sampling_words(made)


def _solving(config: Protocol) -> dict[str, Any]:
    return {
        "solver": config.solver,
        "num_steps": None if config.adaptive else config.num_steps,
        **_few_steps(config),
        "cfg_scale": config.cfg_scale,
        "guidance_interval": config.guidance_interval,
        **recorded(config),
    }


def _few_steps(config: Protocol) -> dict[str, Any]:
    """Return the order and the times where they are the user's to choose, or not the published."""
    said: dict[str, Any] = {}
    if config.solver in EXPONENTIAL_ORDERS:
        said["order"] = config.order or DEFAULT_ORDER
    if config.times != "published":
        said["times"] = config.times
    if config.times == "shifted":
        said["shift"] = config.shift
    return said


def _dtype(config: Protocol) -> str:
    return str(DTYPES[config.precision]).removeprefix("torch.")


def _convention(checkpoint: Checkpoint) -> dict[str, Any]:
    """Return what decides the images of other dialects; nothing for REPA's and our own."""
    settings, said = checkpoint.settings, {}
    if checkpoint.dialect not in OWN_DIALECTS:
        said["dialect"] = checkpoint.dialect
    if settings.guided_channels is not None:
        said["guided_channels"] = settings.guided_channels
    if settings.latent_space.num_channels is not None:
        space = settings.latent_space
        said["latent_space"] = {"scale": space.scale, "bias": space.bias}
    return said


def _hints(config: SampleConfig, checkpoint: Checkpoint) -> dict[str, Any]:
    """Return what a person said of the file, a path by its name, unless it is told elsewhere."""
    said = {name: value for name in HINTS if (value := config.hints[name]) is not None}
    if checkpoint.dialect not in OWN_DIALECTS:
        said.pop("dialect", None)
    latents = said.get("latents")
    if latents and not any(is_registered(kind, latents) for kind in ("latents", "autoencoders")):
        said["latents"] = Path(latents).name
    return {"hints": said} if said else {}


def _guide(guide: Checkpoint) -> dict[str, Any]:
    """Return which checkpoint is the guide, and which hints said what its file does not tell."""
    told = {**guide.told, "latents": guide.told.get("latent_space")}
    said = [name for name in GUIDE_HINTS if told.get(name) == AS_SAID]
    hints = {"guide_hints": said} if said else {}
    return {"guide": guide.name, "guide_sha256": guide.sha256, **hints}


def _class_names(checkpoint: Checkpoint) -> dict[str, Any]:
    """Return the names of own data's classes, for those who look.

    A registered data set's are left out, and none are put in their place if they do not fit.
    """
    settings = checkpoint.settings
    if len(settings.class_names) == settings.num_classes:
        return {"class_names": list(settings.class_names)}
    try:
        known = len(class_names_of_dataset(settings.dataset))
    except RepaError:  # their package is not there, and images can do without
        known = 0
    return {} if known in (0, settings.num_classes) else {"class_names": []}


def _reference_rng(config: SampleConfig, device: torch.device) -> dict[str, Any]:
    """Return what decides the reference's random numbers; nothing for each image's own."""
    if config.rng != "reference":
        return {}
    # How a GPU's generator deals out the numbers of a large batch depends on its multiprocessors.
    drawn = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    sizes = {"world_size": config.world_size, "rank_batch_size": config.batch_size}
    return {"rng": "reference", **sizes, "rng_device": drawn}


def _internal(config: Protocol) -> dict[str, Any]:
    if config.internal_scale == 1:
        return {}
    interval = config.internal_interval
    return {"internal_scale": config.internal_scale, "internal_interval": interval}
