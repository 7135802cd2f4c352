"""References: what a name or a path means, which is chosen, and which entry a file's content is.

`repa sample` writes the data set's name into the manifest of its images, and the registry knows the
reference and the network of a data set. Of data that it does not know, the manifest names what was
held out, see `repa.evaluation.held_out`. Nothing is guessed by the size of images.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from metrics import ArrayImages, ImageSource, NetworkName, NoiseImages, Reference, open_reference
from metrics.report.lint import PUBLISHED_COUNT
from metrics.report.warning import LintWarning
from metrics.settings import KEPT_IMAGES
from repa import registry
from repa.data import load_digits
from repa.errors import DataError, UnknownNameError
from repa.evaluation.held_out import find_held_out, stated_reference
from repa.evaluation.measuring import DEFAULT_NETWORK
from repa.registry import Entry

_BUILT_IN = {"digits": load_digits}
_LARGEST_BUILT_IN = 256
"""Pixels of a side: built-in data is made in the size of the images to judge, in memory."""
_LONGEST_NAME = 100


def reference_path(name: str) -> Path | None:
    """Return the file or folder that is meant, or None for a name in the registry.

    Raises:
        UnknownNameError: It is neither.
    """
    if registry.is_registered("references", name):
        return None
    if not name or not Path(name).exists():
        known = registry.entry_names("references")
        raise UnknownNameError("reference, file or folder", name, known)
    return Path(name)


def open_named_reference(name: str, shape: tuple[int, int, int] | None) -> Reference:
    """Open a reference by its name in the registry, downloaded if need be, or by its path.

    Args:
        name: What `repa.registry.is_registered` takes for a name; else a path.
        shape: Height, width and 3 of the images to judge; built-in data sets are made in this size.

    Raises:
        UnknownNameError: There is no such file and no such name.
        DataError: The built-in data set cannot be made in this shape.
        InputError: The file is damaged or no reference.
    """
    path = reference_path(name)
    if path is not None:
        return open_reference(path)
    entry = registry.find_entry("references", name)
    if "builtin" in entry:
        return Reference(name, _built_in_images(name, entry["builtin"], entry["split"], shape))
    return open_reference(registry.fetch("references", name))


@dataclass(frozen=True)
class EvaluationPlan:
    """What a set of images is judged by.

    Attributes:
        reference: Name in the registry, or path.
        network: Name of the metric network.
        reason: Why these, in one line.
        opened: The reference, where it is a path's.
    """

    reference: str
    network: NetworkName
    reason: str
    opened: Reference | None = None


def plan_evaluation(
    samples: ImageSource, reference: str | Path | None = None, network: str | None = None
) -> EvaluationPlan:
    """Choose reference and network: as named, else by the data that the manifest names.

    Args:
        samples: The images to judge; nothing is read but their manifest and size.
        reference: Name in the registry, or path of a file or folder; None to choose. What lies
            there is opened, because its statistics may name their network.
        network: Name of a metric network; None to choose the data set's or the reference's.

    Raises:
        DataError: The manifest names no data of which a reference is known, or what it names is not
            on this machine; the message says what to name by --ref.
        InputError: The reference is a file that is damaged or no reference.
        UnknownNameError: No such network or reference.
    """
    known, held_out, opened = _dataset_entry(samples), stated_reference(samples), None
    if reference is not None:
        # A Path is never a name, which its text without the "./" could be.
        chosen, reason = str(reference), "as asked"
        if isinstance(reference, Path) and registry.is_registered("references", chosen):
            chosen = f"./{chosen}"
    elif held_out is not None:
        chosen = str(find_held_out(held_out, samples.name))
        reason = f"the images that were held out of {held_out.name}, as the manifest says"
    elif known is not None:
        chosen = known["reference"]
        reason = f"the manifest's data set is {(samples.manifest or {})['dataset']}"
    else:
        raise DataError(_unknown_data(samples))
    path = reference_path(chosen)
    opened = None if path is None else open_reference(path)
    statistics = None if opened is None else opened.statistics
    if network is None and statistics is not None and statistics.network is not None:
        network = statistics.network.removesuffix("-clean")
        reason += "; the network is that of the reference's statistics"
    if network is None:
        entry = registry.find_entry("references", chosen) if path is None else known or {}
        network = entry.get("network")
    return EvaluationPlan(chosen, checked_network(network), reason, opened)


def network_for(images: ImageSource, network: str | None = None) -> NetworkName:
    """Choose the metric network of images without a reference: as named, by data set, Inception.

    Raises:
        UnknownNameError: No such network.
    """
    return checked_network(network or (_dataset_entry(images) or {}).get("network"))


@dataclass(frozen=True)
class Provenance:
    """Which entry of the registry a reference is, by its content.

    Attributes:
        name: The entry's; where it is none, the path of the file or folder.
        entry: What the registry says of it; empty where it is none.
        verified: False where no hash of the entry's file is known, so that the same form (or,
            where no number of images is known either, the name it was asked for by) is all there
            is.
        own: Whether it is of a user's own data, about which nothing is published.
    """

    name: str
    entry: Entry = field(default_factory=dict)
    verified: bool = True
    own: bool = False

    @property
    def published_count(self) -> int | None:
        """How many images published numbers take; None for data about which there are none."""
        return None if self.own or "builtin" in self.entry else PUBLISHED_COUNT

    @property
    def reference_count(self) -> int | None:
        """How many images a reference should have; None for such data, which is as it is."""
        return None if self.own or "builtin" in self.entry else KEPT_IMAGES

    def lint(self, reference: Reference) -> list[LintWarning]:
        """Warn that no hash says what a reference is."""
        if self.verified:
            return []
        count, side = self.entry.get("num_images"), self.entry["image_size"]
        reason = (
            f"{reference.name} was asked for as {self.name}, and neither a hash nor the number of "
            "images of that file is known: unverified"
            if count is None
            else f"{reference.name} has the form of {self.name} ({count} images of {side} x {side} "
            "beside statistics), and no hash of that file is known: unverified"
        )
        effect = "the numbers compare with published ones only if it is that file"
        return [LintWarning("reference-unverified", reason, effect)]


def provenance(name: str, reference: Reference, samples: ImageSource | None = None) -> Provenance:
    """Say which entry of the registry a reference is: by hash or, where none is known, by form.

    The name of a file plays no part, and the name of an entry only where its form is unknown too.

    Args:
        name: As for `open_named_reference`, which opened it.
        reference: The opened reference.
        samples: What is compared with it. What is none of the registry is taken for a user's own
            data where their manifest names such data.
    """
    entries: dict[str, Entry] = registry.load_registry()["references"]
    asked = {name: entries[name]} if registry.is_registered("references", name) else {}
    if "builtin" in asked.get(name, {}):
        return Provenance(name, asked[name])
    path = registry.cached_path("references", asked[name]) if asked else Path(name)
    # where two entries have one form, it is the one that was asked for
    files = {known: entry for known, entry in (asked | entries).items() if "file" in entry}
    for known, entry in files.items():
        if _same_content(entry, path):
            return Provenance(known, entry)
    for known, entry in files.items():
        form_unknown = known in asked and entry.get("num_images") is None
        if entry["sha256"] is None and (form_unknown or _same_form(entry, reference)):
            return Provenance(known, entry, verified=False)
    dataset = None if samples is None else (samples.manifest or {}).get("dataset")
    own = isinstance(dataset, str) and dataset not in registry.entry_names("datasets")
    return Provenance(str(path) if asked else name, own=own)


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
    named = registry.is_registered("references", reference)
    entry = registry.find_entry("references", reference) if named else {}
    if "builtin" in entry:
        real = _built_in_images("training images", entry["builtin"], "train", shape)
        found["real"] = ArrayImages(real.images[:count], name=real.name)
    return found | {"noise": NoiseImages(count, shape)}


def checked_network(network: Any) -> NetworkName:  # noqa: ANN401
    """Return the name of a metric network, of the usual one for None.

    Raises:
        UnknownNameError: No such network.
    """
    registry.find_entry("networks", network or DEFAULT_NETWORK)
    return cast(NetworkName, network or DEFAULT_NETWORK)


def _dataset_entry(images: ImageSource) -> Entry | None:
    dataset = (images.manifest or {}).get("dataset")
    known = dataset in registry.entry_names("datasets")
    return registry.find_entry("datasets", dataset) if known else None


def _unknown_data(samples: ImageSource) -> str:
    """Say that no reference follows from a file, and which it could be."""
    dataset, shape = (samples.manifest or {}).get("dataset"), samples.shape
    if samples.manifest is None:
        reason = "has no manifest that says which data its model was trained on"
    elif not isinstance(dataset, str):
        reason = "does not say which data its model was trained on"
    else:
        reason = (
            f"is of a model of {dataset[:_LONGEST_NAME]}, of which no held-out images are known"
        )
    adms = f"adm-imagenet-{shape[0]}" if shape and shape[0] == shape[1] else ""
    hint = f" (ADM's batch of ImageNet in this size is called {adms})"
    hint = hint if adms in registry.entry_names("references") else ""
    return f"{samples.name} {reason}: name what to compare with by --ref{hint}."


def _same_content(entry: Entry, path: Path) -> bool:
    """Whether a file has the hash of an entry's, if one is known."""
    if entry["sha256"] is None or not path.is_file():
        return False
    same_size = entry.get("size") in (None, path.stat().st_size)
    return same_size and registry.file_sha256(path) == entry["sha256"]


def _same_form(entry: Entry, reference: Reference) -> bool:
    """Whether a reference is of ADM's form, with as many images of the size as an entry's."""
    statistics, images = reference.statistics, reference.images
    if statistics is None or images is None or entry.get("num_images") is None:
        return False
    adms = statistics.spatial is not None and statistics.network is None
    side = entry["image_size"]
    same = (images.count, images.shape) == (entry["num_images"], (side, side, 3))
    return adms and same and statistics.pool.count is None  # ADM's files do not say how many


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
