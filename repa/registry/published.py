"""Published rows beside measured numbers: which row a set of images repeats, and how near it is.

The rows are the section "published" of checkpoints.json. A row is comparable only if every setting
of its protocol is the one that the images and the measurement had; otherwise the closest row says
which settings differ.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from metrics.report.warning import LintWarning
from metrics.settings import MetricSettings
from repa.registry.entries import Entry, find_entry, load_registry

METRIC_LABELS = {
    "fid": "FID",
    "sfid": "sFID",
    "inception_score": "IS",
    "precision": "Precision",
    "recall": "Recall",
}
_DECIMALS = {"fid": 2, "sfid": 2, "inception_score": 1, "precision": 2, "recall": 2}
"""Of published numbers, unless the row says otherwise under "decimals"."""
_DEFAULTS = MetricSettings()
_REGISTERED = "as registered"
_USUAL = {"times": "published", "guidance": "cfg", "guide": None, "dtype": "float32"}
_USUAL |= {"compile": False}
"""What every published row was made by; a manifest without them has them too."""
# Both numbers come from a finite sample, so the error of their difference is sqrt(2) times one's.
_ERRORS_ALLOWED = 2 * math.sqrt(2)


@dataclass(frozen=True)
class Difference:
    """A setting that is not the published one."""

    setting: str
    published: Any
    here: Any

    def __str__(self) -> str:
        return f"{self.setting} {self.here} instead of {self.published}"


@dataclass(frozen=True)
class PublishedRow:
    """The published row that is closest to a set of images and its measurement.

    Published values, and the digits that the paper prints after the point, are by the labels of our
    reports; unknown values are left out. `source` is paper and table; `reference_verified` says
    whether the measurement's reference is known by its bytes, rather than by its form alone.
    """

    name: str
    metrics: Mapping[str, float]
    source: str
    note: str | None
    differences: tuple[Difference, ...]
    decimals: Mapping[str, int]
    reference_verified: bool = True

    @property
    def comparable(self) -> bool:
        """Whether every setting is the published one."""
        return not self.differences


@dataclass(frozen=True)
class ComparedValue:
    """A measured value beside the published one, and the difference, ours minus the paper's.

    Without a standard error there are neither a tolerance, what chance and the rounding of the
    published number explain, nor a word on whether the difference is inside it.
    """

    label: str
    published: float
    measured: float
    difference: float
    tolerance: float | None
    inside: bool | None


def closest_published_row(
    manifest: Mapping[str, Any] | None,
    *,
    num_images: int,
    reference: str,
    network: str,
    settings: MetricSettings = _DEFAULTS,
    reference_verified: bool = True,
    registered_weights: bool = True,
) -> PublishedRow | None:
    """Find the published row of the manifest's checkpoint with the fewest differing settings.

    Args:
        manifest: How the images were made, as `repa sample` writes it; None if unknown.
        num_images: How many of them are measured.
        reference: Name in the registry that the reference's content bears out, or its path.
        network: Name of the metric network.
        settings: Of the measurement; the defaults are those of published numbers.
        reference_verified: Whether its bytes do, rather than its form alone.
        registered_weights: Whether the network has the weights that the registry names.

    Returns:
        The row, or None if nothing is published about the checkpoint.
    """
    made = manifest or {}
    here = {
        **_USUAL,
        **made,
        "num_images": num_images,
        "reference": reference,
        "network": network,
    }
    here |= _moving(settings) | {"weights": _REGISTERED if registered_weights else "others"}
    rows = [
        _compared_row(name, entry, here, reference_verified)
        for name, entry in load_registry()["published"].items()
        if entry["checkpoint"] == made.get("model")
    ]
    return min(rows, key=lambda row: len(row.differences), default=None)


def compare_with_row(
    row: PublishedRow | None,
    values: Mapping[str, float],
    standard_errors: Mapping[str, float] | None = None,
) -> list[ComparedValue]:
    """Set measured values beside those of a comparable row.

    Args:
        row: From `closest_published_row`; None if nothing is published.
        values: Measured values by label.
        standard_errors: Of the measured values, where they are known; the published value, whose
            error nobody gives, is taken to have the same.

    Returns:
        One line a metric that both have; none if the row is not comparable.
    """
    if row is None or not row.comparable:
        return []
    compared = []
    for label in (label for label in row.metrics if label in values):
        published, measured = row.metrics[label], values[label]
        error, tolerance, inside = (standard_errors or {}).get(label), None, None
        if error is not None:
            tolerance = _ERRORS_ALLOWED * error + 0.5 * 10.0 ** -row.decimals[label]
            inside = abs(measured - published) <= tolerance
        difference = measured - published
        compared.append(ComparedValue(label, published, measured, difference, tolerance, inside))
    return compared


def lint_protocol(row: PublishedRow | None) -> list[LintWarning]:
    """Warn that the closest published row was made by another protocol."""
    if row is None or row.comparable:
        return []
    listed = ", ".join(map(str, row.differences))
    numbers = ", ".join(f"{label} {value:g}" for label, value in row.metrics.items())
    return [
        LintWarning(
            "published-protocol",
            f"the closest published row ({row.name}, {row.source}) has other settings: {listed}",
            f"its numbers ({numbers}) are not to be compared with these",
        )
    ]


def _compared_row(
    name: str, entry: Entry, here: Mapping[str, Any], reference_verified: bool
) -> PublishedRow:
    dataset = find_entry("datasets", entry["dataset"])
    published = entry["settings"] | {key: dataset[key] for key in ("reference", "network")}
    published |= _moving(_DEFAULTS) | {"weights": _REGISTERED} | _USUAL
    if published["cfg_scale"] == here.get("cfg_scale") == 1:
        del published["guidance_interval"]  # guidance is off, wherever
    differences = tuple(
        Difference(setting, value, here.get(setting))
        for setting, value in published.items()
        if here.get(setting) != value
    )
    metrics = {
        METRIC_LABELS[key]: value for key, value in entry["metrics"].items() if value is not None
    }
    digits = {METRIC_LABELS[key]: d for key, d in (_DECIMALS | entry.get("decimals", {})).items()}
    source, note = entry["source"], entry.get("note")
    return PublishedRow(name, metrics, source, note, differences, digits, reference_verified)


def _moving(settings: MetricSettings) -> dict[str, Any]:
    """Return the settings that move published metrics."""
    return {key: getattr(settings, key) for key in ("num_neighbors", "distances", "split_size")}
