"""What images are compared with: images, or statistics in ADM's file form, or both.

An ADM reference file is easily misread. FID and sFID use its `mu, sigma, mu_s, sigma_s`, taken over
the whole training set; precision and recall use the images in its `arr_0`, a few thousand of them.
"""

import json
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Unpack

import numpy as np
from jaxtyping import Bool

from metrics.errors import InputError
from metrics.extraction.measurement import Measurement, MeasureOptions, measure
from metrics.formulas.statistics import ReferenceStatistics
from metrics.images.arrays import formats_of, open_images, read_json_object
from metrics.images.npz import ArrayEntry, open_npz
from metrics.images.source import ImageSource
from metrics.networks.network import MetricNetwork
from metrics.settings import KEPT_IMAGES
from repa_base.checksums import file_sha256
from repa_base.files import replacing
from repa_base.processes import Processes, at_first
from repa_base.progress import steps_of

_STATISTICS = ("mu", "sigma", "mu_s", "sigma_s", "count", "network", "weights_sha256")
_BATCH = 64  # images written at once
_MAX_BYTES = 1 << 30  # of one array of statistics: features of width 11,000


@dataclass(frozen=True, eq=False)
class Reference:
    """What images are compared with; at least one of the two parts is there.

    Attributes:
        name: Where it comes from.
        images: Real images: for precision and recall, and for everything if there are no
            statistics.
        statistics: For the Fréchet distances; None to take them from the images.
        file: The file that holds them, where one does.
        formats: How many files of which formats the statistics are from, where the file tells.
    """

    name: str
    images: ImageSource | None = None
    statistics: ReferenceStatistics | None = None
    file: Path | None = None
    formats: Mapping[str, int] = field(default_factory=dict)


def open_reference(source: str | Path | np.ndarray) -> Reference:
    """Open an ADM reference file, or whatever `open_images` opens.

    Raises:
        InputError: The source is neither, or is damaged.
        FileNotFoundError: There is no such file or folder.
    """
    path = None if isinstance(source, np.ndarray) else Path(source)
    if path is None or path.is_dir() or path.suffix.lower() in (".npy", ".zip"):
        images = open_images(source)
        return Reference(images.name, images)
    entries = open_npz(path)
    if not any(name in entries for name in _STATISTICS[:4]):
        return Reference(str(path), open_images(path))
    arrays = {name: _read(entries[name]) for name in _STATISTICS if name in entries}
    try:
        statistics = ReferenceStatistics.from_arrays(arrays)
    except (InputError, TypeError) as error:
        raise InputError(f"{path}: {error}") from error
    images = open_images(path) if "arr_0" in entries else None
    formats = _read_formats(entries["formats"]) if "formats" in entries else {}
    return Reference(str(path), images, statistics, path, formats)


def measure_reference(
    reference: Reference, network: MetricNetwork, **options: Unpack[MeasureOptions]
) -> Measurement:
    """Measure a reference: its statistics as they stand, or else those of its images.

    The options are `batch_size`, `cache`, `processes` and `progress`, as for `measure`.

    Raises:
        InputError: The statistics are another network's, or the images cannot be measured.
    """
    check_reference(reference, network)
    statistics = reference.statistics
    seen = None if reference.images is None else measure(reference.images, network, **options)
    if statistics is None:
        if seen is None:
            raise ValueError(f"The reference {reference.name} has neither images nor statistics.")
        return seen
    content = None if seen is None else seen.content_sha256
    if seen is None and reference.file is not None:
        steps = steps_of(options.get("progress"), f"hash of {reference.name}")
        content = file_sha256(reference.file, steps)
    return Measurement(
        name=reference.name,
        count=statistics.pool.count,
        network=network.name,
        pool=statistics.pool,
        spatial=statistics.spatial,
        pool_features=None if seen is None else seen.pool_features,
        of_images=False,
        content_sha256=content,
        digests=None if seen is None else seen.digests,
    )


def check_stated_network(
    reference: Reference, network: str, advice: str = "they do not compare"
) -> None:
    """Check, before the network is there, that statistics are not those of another one by name.

    Raises:
        InputError: They are; the message ends with the advice.
    """
    stated = None if reference.statistics is None else reference.statistics.network
    if stated not in (None, network):
        raise InputError(
            f"{reference.name} holds statistics of {stated}, not of {network}; {advice}."
        )


def check_reference(reference: Reference, network: MetricNetwork) -> None:
    """Check, before any work, that a reference's statistics are those of the network.

    Raises:
        InputError: They carry another network's name, or are of another width.
    """
    check_stated_network(reference, network.name)
    statistics = reference.statistics
    if statistics is None:
        return
    for kind, part, dim in (
        ("pooled", statistics.pool, network.pool_dim),
        ("spatial", statistics.spatial, network.spatial_dim),
    ):
        if part is not None and part.mean.size != dim:
            raise InputError(
                f"{reference.name} holds statistics of {part.mean.size} {kind} features; "
                f"{network.name} has {dim}: they are another network's. Compare with images "
                "instead."
            )


def write_reference(
    path: Path,
    images: ImageSource,
    network: MetricNetwork,
    *,
    num_images: int = KEPT_IMAGES,
    seed: int = 0,
    **options: Unpack[MeasureOptions],
) -> None:
    """Measure images and write a reference file that ADM's evaluator and `open_reference` read.

    `mu, sigma, mu_s, sigma_s` are of all images, `arr_0` holds some of them, chosen at random and
    in their order, and `arr_1` their labels, if there are any; `count`, `network` and
    `weights_sha256` say what the statistics are of, and `formats`, for a folder, how many files of
    which formats. The file appears whole or not at all; the
    images are read again for it, one batch at a time.

    Args:
        path: The file, replaced if it is there.
        images: Real images of one size.
        network: What measures them.
        num_images: Images for `arr_0`, all if there are not more.
        seed: Of the choice.
        options: `batch_size`, `cache`, `processes` and `progress`, as for `measure`; the first of
            the processes writes.

    Raises:
        InputError: The images differ in size, or are damaged.
        OSError: The file cannot be written, or (CacheError) the cache.
        ValueError: `num_images` or `batch_size` is below 1, or several processes have no cache.
    """
    if num_images < 1:
        raise ValueError(f"num_images must be at least 1, got {num_images}.")
    if images.shape is None:
        raise InputError(f"{images.name} holds images of several sizes; a reference has one.")
    measured = measure(images, network, **options)
    kept = min(num_images, images.count)
    chosen = np.random.default_rng(seed).permutation(images.count) < kept
    weights = network.weights_sha256 or None
    statistics = ReferenceStatistics(measured.pool, measured.spatial, measured.network, weights)
    processes = options.get("processes") or Processes()
    at_first(processes, lambda: _write(path, statistics, images, chosen))


def _write(
    path: Path,
    statistics: ReferenceStatistics,
    images: ImageSource,
    chosen: Bool[np.ndarray, " count"],
) -> None:
    with replacing(path) as part, part.open("xb") as file, zipfile.ZipFile(file, "w") as archive:
        for key, array in statistics.to_arrays().items():
            with archive.open(f"{key}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, array, allow_pickle=False)
        with archive.open("arr_0.npy", "w", force_zip64=True) as member:
            shape = (int(chosen.sum()), *(images.shape or ()))
            header = {"descr": "|u1", "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(member, header)
            done = 0
            for batch in images.batches(_BATCH):
                member.write(batch[chosen[done : done + len(batch)]].tobytes())
                done += len(batch)
        if formats := formats_of(images):
            with archive.open("formats.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, np.asarray(json.dumps(formats)))
        if images.labels is not None:
            with archive.open("arr_1.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, images.labels[chosen])


def _read_formats(entry: ArrayEntry) -> dict[str, int]:
    formats = read_json_object(entry)
    if not all(type(count) is int and count > 0 for count in formats.values()):
        raise InputError(f"{entry} must hold counts of files, got {formats}.")
    return formats


def _read(entry: ArrayEntry) -> np.ndarray:
    if entry.row_bytes * (entry.shape[0] if entry.shape else 1) > _MAX_BYTES:
        raise InputError(f"{entry} has shape {entry.shape}: these are no statistics.")
    return entry.read()
