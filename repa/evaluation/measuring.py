"""How images are measured on this machine: by which network, with which cache, by whom."""

import os
import re
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import torch

from metrics import (
    CacheError,
    FeatureCache,
    InputError,
    LintWarning,
    MetricNetwork,
    NetworkName,
    load_network,
)
from metrics.extraction.measurement import MeasureOptions
from metrics.networks.network import check_resize
from metrics.settings import DEFAULT_BATCH_SIZE, Resize
from repa.errors import SettingError
from repa.registry import cache_dir, fetch, find_entry
from repa_base.processes import Processes, at_first
from repa_base.progress import Progress

T = TypeVar("T")

DEFAULT_NETWORK: NetworkName = "inception"
"""Of images that neither a person, their data nor their reference gives another."""

_LIMIT, _USUAL_LIMIT = "REPA_CACHE_LIMIT", "20GB"
_UNITS = {"K": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}


def _ignore(message: str) -> None:
    """Tell nobody."""


@dataclass(frozen=True, kw_only=True)
class Measuring:
    """How images are measured, whatever for.

    Attributes:
        network: Name of a metric network; None for that of the data set or of the reference, or
            else inception.
        weights_path: Its weights; None for those of the registry, downloaded if need be.
        resize: As for `metrics.load_network`.
        cached: Whether features are looked for and kept in this machine's cache.
        batch_size: Images for the network at once.
        compiled: Whether to compile the network.
        device: Name of the device, as `Processes.device` takes it.
        processes: Those that share the work, each calling the same functions.
        progress: Called after every batch, and during what takes long.
        on_note: Is told, in one line for a person, what was chosen, before the work.
        on_warning: Is told every warning as soon as it is known, and why features are not kept.
    """

    network: str | None = None
    weights_path: Path | None = None
    resize: Resize = "default"
    cached: bool = True
    batch_size: int = DEFAULT_BATCH_SIZE
    compiled: bool = False
    device: str = "auto"
    processes: Processes = field(default_factory=Processes)
    progress: Progress | None = None
    on_note: Callable[[str], object] = _ignore
    on_warning: Callable[[str], object] = _ignore

    def load(self, name: NetworkName) -> MetricNetwork:
        """Find a metric network as `load_named_network` does, for this device."""
        device = self.processes.device(self.device)
        return load_named_network(
            name, self.weights_path, device, resize=self.resize, compiled=self.compiled
        )

    def with_cache(
        self,
        work: Callable[[MeasureOptions], T],
        *,
        needed: bool = False,
        on_damage: Callable[[LintWarning], object] | None = None,
    ) -> T:
        """Do work that takes the options of `metrics.measure`; again if the cache is unwritable.

        Args:
            work: Is given the same cache at every process; fails with a `CacheError` at all or
                none.
            needed: Whether there must be a cache even if none is kept, because features are read
                again. It is then a temporary folder; several processes always need one.
            on_damage: Is told of damaged entries, at the first process, as is `on_warning`.

        Raises:
            CacheError: The temporary folder cannot be written either.
            SettingError: $REPA_CACHE_LIMIT is no size.
        """

        def damaged(reason: str) -> None:
            effect = "these features are not used, and their images measured anew"
            warning = LintWarning(
                "feature-cache", f"cached features are damaged ({reason})", effect
            )
            self.on_warning(str(warning))
            if on_damage is not None:
                on_damage(warning)

        kept = self.cached and feature_cache().limit != 0
        options: MeasureOptions = {
            "batch_size": self.batch_size,
            "processes": self.processes,
            "progress": self.progress,
        }
        if kept:
            try:
                return work({**options, "cache": feature_cache(on_damage=damaged)})
            except CacheError as error:
                self.on_warning(
                    f"features are not kept, and measured without their cache: {error} "
                    "$REPA_CACHE can name another folder."
                )
        if not needed and self.processes.size == 1:
            cache = feature_cache(read_only=True, on_damage=damaged) if kept else None
            return work({**options, "cache": cache})
        folder = at_first(self.processes, lambda: tempfile.mkdtemp(prefix="repa-features-"))
        try:
            return work({**options, "cache": FeatureCache(Path(folder))})
        finally:
            if self.processes.is_first:
                shutil.rmtree(folder)


USUAL = Measuring()


def feature_cache(
    *, read_only: bool = False, on_damage: Callable[[str], object] | None = None
) -> FeatureCache:
    """Return this machine's cache of features, in the cache folder, with its limit.

    Arguments are those of `metrics.FeatureCache`. The limit is $REPA_CACHE_LIMIT, 20 GB without it;
    0 is for keeping none.

    Raises:
        SettingError: $REPA_CACHE_LIMIT is no size.
    """
    folder = cache_dir() / "features"
    return FeatureCache(folder, read_only=read_only, limit=_limit(), on_damage=on_damage)


def _limit() -> int:
    """Return the limit in bytes; a number without a unit is not guessed at."""
    text = os.environ.get(_LIMIT) or _USUAL_LIMIT
    size = re.fullmatch(r"0|([0-9]{1,9}(?:\.[0-9]{1,9})?) ?([KMGT])B", text.strip(), re.IGNORECASE)
    if size is None:
        message = f"must be a size such as 20GB, 500MB or 0, got {text!r}"
        raise SettingError(f"${_LIMIT}", f"${_LIMIT} {message}.")
    return 0 if size[1] is None else int(float(size[1]) * _UNITS[size[2].upper()])


def load_named_network(
    name: NetworkName,
    weights_path: Path | None = None,
    device: torch.device | str = "cpu",
    *,
    resize: Resize = "default",
    compiled: bool = False,
) -> MetricNetwork:
    """Find a metric network; its weights are downloaded if need be, and loaded at the first images.

    Arguments and errors are those of `metrics.load_network` and, for weights that are not given, of
    `repa.registry.fetch`, which compares them with the registry.

    Raises:
        SettingError: clean-fid has no such network, and its resize is asked for.
    """
    try:
        check_resize(name, resize)
    except InputError as error:
        raise SettingError("resize", str(error)) from error
    weights_path = weights_path or fetch("networks", name)
    return load_network(name, weights_path, device, resize=resize, compiled=compiled, lazy=True)


def has_registered_weights(network: MetricNetwork) -> bool:
    """Whether a network's weights are those whose hash the registry records, if it records one."""
    entry = find_entry("networks", network.name.removesuffix("-clean"))
    recorded = entry.get("sha256") or entry.get("sha256_prefix") or ""
    return network.weights_sha256.startswith(recorded)
