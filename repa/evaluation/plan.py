"""What a set of images is judged by: reference and metric network, found where nobody names them.

`repa sample` writes the data set's name into the manifest of its images, and the registry knows the
reference and the network of a data set.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch

from metrics import (
    ArrayImages,
    ImageSource,
    MetricNetwork,
    NetworkName,
    NoiseImages,
    Reference,
    load_network,
    open_reference,
)
from metrics.report.lint import PUBLISHED_COUNT, LintWarning
from metrics.settings import Resize
from repa.data import load_digits
from repa.errors import DataError, UnknownNameError
from repa.registry import entry_names, fetch, find_entry, reference_name

_BUILT_IN = {"digits": load_digits}
_LARGEST_BUILT_IN = 256
"""Pixels of a side: built-in data is made in the size of the images to judge, in memory."""


@dataclass(frozen=True)
class EvaluationPlan:
    """What a set of images is judged by.

    Attributes:
        reference: Name in the registry, or path.
        network: Name of the metric network.
        reason: Why these, in one line.
    """

    reference: str
    network: NetworkName
    reason: str


def plan_evaluation(
    samples: ImageSource, reference: str | None = None, network: str | None = None
) -> EvaluationPlan:
    """Choose reference and network: as named, else by the manifest's data set, else by image size.

    Args:
        samples: The images to judge; nothing is read but their manifest and size.
        reference: Name in the registry, or path of a file or folder; None to choose.
        network: Name of a metric network; None to choose the data set's or the reference's.

    Raises:
        DataError: No reference is known for images of this size.
        UnknownNameError: No such network or reference.
    """
    dataset = (samples.manifest or {}).get("dataset")
    known = find_entry("datasets", dataset) if dataset in entry_names("datasets") else None
    if reference is not None:
        known_name = reference in entry_names("references")
        if not known_name and not (reference and Path(reference).exists()):
            raise _unknown_reference(reference)
        chosen, reason = reference, "as asked"
        stated = _stated_network(reference)
        if network is None and stated is not None:
            network, reason = stated, "as asked; the network is that of the reference's statistics"
    elif known is not None:
        chosen, reason = known["reference"], f"the manifest's data set is {dataset}"
    else:
        chosen = _adm_batch(samples)
        reason = f"{samples.name} names no known data set; ADM's ImageNet batch of its size"
    if network is None:
        named = chosen in entry_names("references")
        entry = find_entry("references", chosen) if named else known or {}
        network = entry.get("network", "inception")
    find_entry("networks", str(network))
    return EvaluationPlan(chosen, cast(NetworkName, network), reason)


def published_count(reference: str) -> int | None:
    """Return how many images published numbers take, None for built-in data, which has none."""
    known = reference in entry_names("references")
    return None if known and "builtin" in find_entry("references", reference) else PUBLISHED_COUNT


def known_num_classes(reference: str) -> int | None:
    """Return how many classes a reference in the registry has, None where that is not known."""
    name = reference_name(reference)
    known = name in entry_names("references")
    return find_entry("references", name).get("num_classes") if known else None


def network_for(images: ImageSource, network: str | None = None) -> NetworkName:
    """Choose the metric network of images without a reference: as named, by data set, Inception.

    Raises:
        UnknownNameError: No such network.
    """
    dataset = (images.manifest or {}).get("dataset")
    if network is None and dataset in entry_names("datasets"):
        network = find_entry("datasets", dataset)["network"]
    find_entry("networks", network or "inception")
    return cast(NetworkName, network or "inception")


def open_named_reference(name: str, shape: tuple[int, int, int] | None) -> Reference:
    """Open a reference by its path or its name in the registry, downloaded if need be.

    Args:
        name: Path of a file or folder, or a name.
        shape: Height, width and 3 of the images to judge; built-in data sets are made in this size.

    Raises:
        UnknownNameError: There is no such file and no such name.
        DataError: The built-in data set cannot be made in this shape.
        InputError: The file is damaged or no reference.
    """
    if Path(name).exists():
        return open_reference(name)
    if name not in entry_names("references"):
        raise _unknown_reference(name)
    entry = find_entry("references", name)
    if "builtin" in entry:
        return Reference(name, _built_in_images(name, entry["builtin"], entry["split"], shape))
    return open_reference(fetch("references", name))


def load_named_network(
    name: NetworkName,
    weights_path: Path | None = None,
    device: torch.device | str = "cpu",
    *,
    resize: Resize = "default",
    compiled: bool = False,
) -> MetricNetwork:
    """Find a metric network; its weights are downloaded if need be, and read when they are needed.

    Arguments and errors are those of `metrics.load_network` and, for weights that are not given, of
    `repa.registry.fetch`, which compares them with the registry.
    """
    weights_path = weights_path or fetch("networks", name)
    return load_network(name, weights_path, device, resize=resize, compiled=compiled, lazy=True)


def has_registered_weights(network: MetricNetwork) -> bool:
    """Whether a network's weights are those whose hash the registry records, if it records one."""
    entry = find_entry("networks", network.name.removesuffix("-clean"))
    return network.weights_sha256.startswith(
        entry.get("sha256") or entry.get("sha256_prefix") or ""
    )


def lint_weights(network: MetricNetwork) -> list[LintWarning]:
    """Warn that a network has other weights than the registry's."""
    if has_registered_weights(network):
        return []
    return [
        LintWarning(
            "weights",
            f"the weights of {network.name} are not those that the registry names",
            "the numbers compare with none but those of the same weights",
        )
    ]


def baselines(
    reference: str, shape: tuple[int, int, int] | None, count: int
) -> dict[str, ImageSource]:
    """Return image sets that show what a metric's numbers mean.

    Args:
        reference: The reference's name; real training images are known for built-in data sets.
        shape: Height, width and 3 of the images to judge.
        count: How many images to judge there are; the sets are as large where they can be.

    Returns:
        `real`, training images, the best that can be hoped for, where they are known; and `noise`,
        uniform noise, the worst.

    Raises:
        DataError: The images to judge are of several sizes.
    """
    if shape is None:
        raise DataError("baselines need images of one size.")
    found: dict[str, ImageSource] = {}
    entry = find_entry("references", reference) if reference in entry_names("references") else {}
    if "builtin" in entry:
        real = _built_in_images("training images", entry["builtin"], "train", shape)
        found["real"] = ArrayImages(real.images[:count], name=real.name)
    return found | {"noise": NoiseImages(count, shape)}


def _built_in_images(
    name: str, dataset: str, split: str, shape: tuple[int, int, int] | None
) -> ArrayImages:
    if shape is None or shape[0] != shape[1] or shape[0] > _LARGEST_BUILT_IN:
        size = f"{shape[0]} x {shape[1]}" if shape else "several sizes"
        raise DataError(
            f"{name} compares with square images of one size, {_LARGEST_BUILT_IN} pixels at most, "
            f"not with {size}."
        )
    load: Callable[..., Any] = _BUILT_IN[dataset]
    images, labels = load(split, shape[0])
    return ArrayImages(images, name=name, labels=labels)


def _stated_network(reference: str) -> str | None:
    """Return the network that a file of statistics names, if the reference is such a file."""
    if reference in entry_names("references") or not Path(reference).is_file():
        return None
    statistics = open_reference(reference).statistics
    stated = None if statistics is None else statistics.network
    return None if stated is None else stated.removesuffix("-clean")


def check_stated_network(reference: Reference, network: str, resize: Resize) -> None:
    """Refuse, before weights are looked for, statistics of another network or resize.

    Raises:
        DataError: They are; the message says which options fit.
    """
    stated = None if reference.statistics is None else reference.statistics.network
    wanted = f"{network}-clean" if resize == "clean" else network
    if stated not in (None, wanted):
        base, clean = stated.removesuffix("-clean"), stated.endswith("-clean")
        raise DataError(
            f"{reference.name} holds statistics of {stated}, not of {wanted}; use --features {base}"
            f"{' --resize clean' if clean else ''}, or another reference."
        )


def _unknown_reference(name: str) -> UnknownNameError:
    return UnknownNameError("reference, file or folder", name, entry_names("references"))


def _adm_batch(samples: ImageSource) -> str:
    shape = samples.shape
    name = f"adm-imagenet-{shape[0]}" if shape and shape[0] == shape[1] else ""
    if name not in entry_names("references"):
        size = f"{shape[0]} x {shape[1]}" if shape else "several sizes"
        raise DataError(
            f"{samples.name} names no known data set, and no reference is known for images of "
            f"{size}; name one by --ref."
        )
    return name
