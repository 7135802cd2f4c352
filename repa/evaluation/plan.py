"""What a set of images is judged by: reference and metric network, found where nobody names them.

`repa sample` writes the data set's name into the manifest of its images, and the registry knows the
reference and the network of a data set.
"""

from dataclasses import dataclass
from typing import Any, cast

from metrics import ImageSource, NetworkName, Reference, open_reference
from repa.errors import DataError
from repa.evaluation.references import reference_path
from repa.registry import Entry, entry_names, find_entry, is_registered


@dataclass(frozen=True)
class EvaluationPlan:
    """What a set of images is judged by.

    Attributes:
        reference: Name in the registry, or path.
        network: Name of the metric network.
        reason: Why these, in one line.
        opened: The reference, where it had to be opened to find the network.
    """

    reference: str
    network: NetworkName
    reason: str
    opened: Reference | None = None


def plan_evaluation(
    samples: ImageSource, reference: str | None = None, network: str | None = None
) -> EvaluationPlan:
    """Choose reference and network: as named, else by the manifest's data set, else by image size.

    Args:
        samples: The images to judge; nothing is read but their manifest and size.
        reference: Name in the registry, or path of a file or folder; None to choose. A file is
            opened, because its statistics may name their network.
        network: Name of a metric network; None to choose the data set's or the reference's.

    Raises:
        DataError: No reference is known for images of this size.
        InputError: The reference is a file that is damaged or no reference.
        UnknownNameError: No such network or reference.
    """
    known, opened = _dataset_entry(samples), None
    if reference is not None:
        chosen, reason = reference, "as asked"
        path = reference_path(reference)
        opened = open_reference(path) if path is not None and path.is_file() else None
        stated = _stated_network(opened)
        if network is None and stated is not None:
            network, reason = stated, "as asked; the network is that of the reference's statistics"
    elif known is not None:
        chosen = known["reference"]
        reason = f"the manifest's data set is {(samples.manifest or {})['dataset']}"
    else:
        chosen = _adm_batch(samples)
        reason = f"{samples.name} names no known data set; ADM's ImageNet batch of its size"
    if network is None:
        named = is_registered("references", chosen)
        entry = find_entry("references", chosen) if named else known or {}
        network = entry.get("network")
    return EvaluationPlan(chosen, _checked(network), reason, opened)


def network_for(images: ImageSource, network: str | None = None) -> NetworkName:
    """Choose the metric network of images without a reference: as named, by data set, Inception.

    Raises:
        UnknownNameError: No such network.
    """
    return _checked(network or (_dataset_entry(images) or {}).get("network"))


def _checked(network: Any) -> NetworkName:  # noqa: ANN401
    find_entry("networks", network or "inception")
    return cast(NetworkName, network or "inception")


def _dataset_entry(images: ImageSource) -> Entry | None:
    dataset = (images.manifest or {}).get("dataset")
    return find_entry("datasets", dataset) if dataset in entry_names("datasets") else None


def _stated_network(reference: Reference | None) -> str | None:
    statistics = None if reference is None else reference.statistics
    stated = None if statistics is None else statistics.network
    return None if stated is None else stated.removesuffix("-clean")


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
