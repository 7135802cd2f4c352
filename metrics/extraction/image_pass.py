"""Images through a network: features to where they are kept, running sums of them, findings.

Reading and decoding go on in a background thread while the network computes. With a cache the
features go to disk, and several processes may share the images.
"""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass

import numpy as np

from metrics.errors import InputError
from metrics.extraction.cache_entry import FeatureKey, StoredFeatures
from metrics.extraction.feature_cache import FeatureCache
from metrics.extraction.feature_files import FeatureWriter, feature_widths
from metrics.extraction.prefetch import prefetch
from metrics.formulas.statistics import ReferenceStatistics, RunningStatistics
from metrics.images.content_hash import fingerprint
from metrics.images.inspection import ImageFindings, ImageInspector, InspectedImages
from metrics.images.source import ImageSource
from metrics.networks.network import Features, MetricNetwork
from metrics.settings import DEFAULT_BATCH_SIZE
from repa_base.device import out_of_memory_in_words
from repa_base.processes import Processes, all_values, at_first, attempt, own_rows, together
from repa_base.progress import Progress


class Sums:
    """What remains of images that have passed; instances can be pickled and merged."""

    def __init__(self) -> None:
        self.pool, self.spatial = RunningStatistics(), RunningStatistics()
        self.inspector = ImageInspector()

    def merge(self, other: "Sums") -> None:
        """Add the images that `other` has seen."""
        self.pool.merge(other.pool)
        self.spatial.merge(other.spatial)
        self.inspector.merge(other.inspector)

    def statistics(self, network: MetricNetwork) -> ReferenceStatistics:
        """Return the statistics of the network's features."""
        spatial = self.spatial.finish() if network.spatial_dim else None
        weights = network.weights_sha256 or None
        return ReferenceStatistics(self.pool.finish(), spatial, network.name, weights)

    def digests(self) -> np.ndarray:
        """Return the images' digests, as `ImageInspector.digests` does."""
        return self.inspector.digests()

    def findings(self) -> ImageFindings:
        """Return what the pixels told.

        Raises:
            InputError: No image has passed.
        """
        findings = self.inspector.finish()
        if findings is None:
            raise InputError("There were no images to measure.")
        return findings


@dataclass(frozen=True)
class Extraction:
    """A pass over images that is to be made; `progress` is told of this process's share of them.

    Raises:
        InputError: There are fewer than 2 images.
        ValueError: `batch_size` is below 1.
    """

    images: ImageSource
    network: MetricNetwork
    batch_size: int = DEFAULT_BATCH_SIZE
    progress: Progress | None = None

    def __post_init__(self) -> None:
        if self.images.count < 2:
            raise InputError(
                f"{self.images.name} gives {self.images.count} image; statistics need at least 2."
            )
        if self.batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {self.batch_size}.")

    def run(self, rows: range, keep: Callable[[Features], object]) -> Sums:
        """Measure the images `rows`; `keep` is given the features of every batch, in order.

        Raises:
            InputError: The images are damaged, or features are not finite.
            NoMemoryError: A batch does not fit into the memory.
        """
        sums = Sums()
        source = InspectedImages(self.images, sums.inspector)
        done = 0
        for batch in prefetch(source.batches(self.batch_size, rows.start, rows.stop)):
            with out_of_memory_in_words(_with_less(len(batch))):
                features = self.network(batch)
            self._check_finite(features, rows.start + done)
            keep(features)
            sums.pool.update(features.pool)
            if features.spatial is not None:
                sums.spatial.update(features.spatial)
            done += len(batch)
            if self.progress is not None:
                self.progress(self.images.name, done, len(rows))
        return sums

    def _check_finite(self, features: Features, first: int) -> None:
        """Refuse what would make every number NaN or infinite, by the first such image."""
        for values in (features.pool, features.spatial, features.probabilities):
            if values is not None and not np.isfinite(values).all():
                image = first + int(np.argmin(np.isfinite(values).all(axis=1)))
                raise InputError(
                    f"{self.images.name}: {self.network.name} gives NaN or infinity for image "
                    f"{image}; check its weights, or try another device."
                )


def _with_less(count: int) -> str:
    """Say what would need less memory than images at once, in words of no command."""
    if count == 1:
        return "for one image: compute on a device that has more."
    return f"for {count} images at once: try a batch size of {count // 2}."


def stored_features(
    extraction: Extraction, cache: FeatureCache, processes: Processes
) -> StoredFeatures:
    """Return the images' entry of the cache, made by all processes together if it is not there.

    Returns:
        The same at every process.

    Raises:
        InputError: The images are damaged, or change meanwhile; raised at every process.
        CacheError: The cache cannot be written; raised at every process.
    """
    images = extraction.images
    before, key = at_first(
        processes,
        lambda: (fingerprint(images), cache.key(images, extraction.network, extraction.progress)),
    )
    if not at_first(processes, lambda: cache.find(key) is not None):
        _make_entry(extraction, cache, key, before, processes)
    with together(processes):
        stored = cache.find(key, check=processes.is_first)
        if stored is None:
            raise InputError(f"{cache.folder} was cleared while it was in use; try again.")
    return stored


def _make_entry(
    extraction: Extraction,
    cache: FeatureCache,
    key: FeatureKey,
    before: str | None,
    processes: Processes,
) -> None:
    """Fill an entry: every process its own rows, the first one all the rest."""
    images, network = extraction.images, extraction.network
    rows = own_rows(processes, images.count, extraction.batch_size)

    def fill() -> Sums:
        with FeatureWriter(folder, feature_widths(network), rows.start) as writer:
            return extraction.run(rows, writer.write)

    def finish() -> None:
        merged = Sums()
        for sums in all_values(gathered):
            merged.merge(sums)
        if fingerprint(images) != before:
            raise InputError(f"{images.name} has changed while it was measured.")
        statistics = merged.statistics(network)
        cache.finish(folder, key, images, network, statistics, merged.findings(), merged.digests())

    with ExitStack() as stack:
        making = cache.making(key, images, network)
        folder = at_first(processes, lambda: stack.enter_context(making))
        gathered = processes.gather(attempt(fill))
        at_first(processes, finish)
