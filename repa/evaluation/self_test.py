"""Does this installation compute what the reference code computes? Checks against recorded values.

`recorded/self_test.npz` holds inputs and outputs of torch-fidelity's network (with seeded random
weights) and of ADM's evaluator, cut from the recordings that the tests use. ADM's published numbers
are checked where its files and Inception's weights are in the cache; nothing is downloaded.
"""

import json
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.special import softmax
from torch import Tensor

import metrics
from metrics.settings import Distances
from repa.evaluation.measuring import Measuring
from repa.registry import Entry, cached_path, check_file, find_entry, load_registry, own_file
from repa.registry.published import METRIC_LABELS
from repa_base.progress import Progress

_FEATURE_TOLERANCE = 1e-5
_FRECHET_RTOL = 1e-6
_SCORE_RTOL = 1e-5
_PROBABILITY_TOLERANCE = 1e-6
_SHARE_TOLERANCE = 1e-12  # shares of some hundred flags: equal or wrong
_ARITHMETICS: dict[Distances, str] = {"adm": "", "exact": "fp32/"}
_ADM_BLOCKS = (128, 100)
"""Block sizes with which metrics_pr/mixed_blocks was recorded."""

_PUBLISHED_TOLERANCES = {
    "fid": 0.003,
    "sfid": 0.002,
    "inception_score": 0.28,
    "precision": 0.002,
    "recall": 0.005,
}
"""Twice the largest deviations, over both files, of the closest public port to PyTorch
(ADM-evaluation-suite-pytorch: 0.0015, 0.0011, 0.14, 0.0010, 0.0024); no file to try them on was
within reach here."""


@dataclass(frozen=True)
class Check:
    """One comparison with a recorded value.

    Attributes:
        name: What is compared.
        recorded: The reference's value.
        measured: This installation's; None if the check was not run.
        tolerance: Largest allowed absolute difference.
        missing: Why it was not run.
    """

    name: str
    recorded: float | None
    measured: float | None
    tolerance: float | None
    missing: str | None = None

    @property
    def passed(self) -> bool | None:
        """Whether the difference is within the tolerance; None if the check was not run."""
        if self.recorded is None or self.measured is None or self.tolerance is None:
            return None
        return abs(self.measured - self.recorded) <= self.tolerance

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {**asdict(self), "passed": self.passed}


def run_self_test(
    weights_path: Path | None = None,
    device: str | torch.device = "cpu",
    *,
    progress: Progress | None = None,
) -> Iterator[Check]:
    """Check network, mathematics and, where the files are there, ADM's published numbers.

    Args:
        weights_path: Inception's weights, if not in the cache.
        device: Where the networks run.
        progress: Called while published image files are measured.

    Yields:
        One check at a time, as it is done.

    Raises:
        ChecksumError: A file in the cache is not the recorded one.
        InputError: A file in the cache is damaged.
    """
    recorded, meta = _load_recorded()
    yield from _check_network(recorded, meta["inception"], device)
    yield from _check_frechet(recorded)
    yield from _check_inception_score(recorded)
    yield from _check_precision_recall(recorded)
    for name in load_registry()["samples"]:
        yield from _check_published(name, weights_path, device, progress)


def _load_recorded() -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    with np.load(own_file("evaluation/recorded/self_test.npz"), allow_pickle=False) as file:
        arrays = {key: file[key] for key in file.files}
    return arrays, json.loads(str(arrays.pop("meta_json")))


def _check_network(
    recorded: Mapping[str, np.ndarray], recipe: Mapping[str, Any], device: str | torch.device
) -> Iterator[Check]:
    """Run Inception, loaded like the real one, with the weights of the recording."""
    case = "inception_a/s64"
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "seeded.pth"
        torch.save(_seeded_weights(recipe), path)
        network = metrics.load_network("inception", path, device)
    found = network(recorded[f"{case}/images"])
    probabilities = softmax(recorded[f"{case}/logits_unbiased"], axis=1)
    for name, ours, theirs, tolerance in (
        ("pooled features", found.pool, recorded[f"{case}/pool"], _FEATURE_TOLERANCE),
        ("spatial features", found.spatial, recorded[f"{case}/spatial"], _FEATURE_TOLERANCE),
        ("probabilities", found.probabilities, probabilities, _PROBABILITY_TOLERANCE),
    ):
        largest = float(np.abs(ours - theirs).max())
        yield Check(f"Inception, {name}: largest error", 0.0, largest, tolerance)


def _seeded_weights(recipe: Mapping[str, Any]) -> dict[str, Tensor]:
    """Draw the weights of the recording: one standard normal a tensor, in the recorded order."""
    random = np.random.RandomState(recipe["weight_seed"])
    weights = {}
    for name, shape in recipe["state_dict_order"]:
        if name.endswith("num_batches_tracked"):
            weights[name] = torch.tensor(0)
        else:
            z = random.standard_normal(shape)
            weights[name] = torch.from_numpy(_scaled(name, z).astype(np.float32))
    return weights


def _scaled(name: str, z: np.ndarray) -> np.ndarray:
    if name.endswith("conv.weight"):
        return z * np.sqrt(2 / z[0].size)
    if name.endswith("running_var"):
        return 1 + 0.1 * np.abs(z)
    if name.endswith("bn.weight"):
        return 1 + 0.1 * z
    return (0.03 if name == "fc.weight" else 0.1) * z


def _check_frechet(recorded: Mapping[str, np.ndarray]) -> Iterator[Check]:
    for case in ("low_rank", "n_lt_d", "duplicates"):
        sample, ref, fid = (
            recorded[f"metrics_fid/{case}/{key}"] for key in ("sample", "ref", "fid")
        )
        statistics = map(metrics.FeatureStatistics.from_features, (sample, ref))
        distance = metrics.frechet_distance(*statistics)
        yield Check(f"Fréchet distance, {case}", float(fid), distance, _FRECHET_RTOL * float(fid))


def _check_inception_score(recorded: Mapping[str, np.ndarray]) -> Iterator[Check]:
    many = "metrics_is/k1008_split100"
    products = recorded[f"{many}/acts"].astype(np.float64) @ recorded[f"{many}/W"]
    one = "metrics_is/single_split"
    for case, probabilities, split_size in (
        (many, softmax(products, axis=1), 100),
        (one, recorded[f"{one}/probs"], 5000),
    ):
        expected = float(recorded[f"{case}/inception_score"])
        score = metrics.inception_score(probabilities, split_size)
        name = f"Inception Score, {case.partition('/')[2]}"
        yield Check(name, expected, score, _SCORE_RTOL * expected)


def _check_precision_recall(recorded: Mapping[str, np.ndarray]) -> Iterator[Check]:
    """Check both arithmetics on tied integers and on blocks of which some overflow float16."""
    for case in ("ties_integer", "mixed_blocks"):
        prefix = f"metrics_pr/{case}"
        ref, sample = (recorded[f"{prefix}/{key}"].astype(np.float32) for key in ("ref", "sample"))
        for distances, part in _ARITHMETICS.items():
            found = metrics.precision_recall(
                ref, sample, distances=distances, block_size=_ADM_BLOCKS
            )
            for metric in ("precision", "recall"):
                expected = float(recorded[f"{prefix}/{part}{metric}"])
                name = f"{metric}, {distances}, {case}"
                yield Check(name, expected, getattr(found, metric), _SHARE_TOLERANCE)
    ref = recorded["metrics_pr/mixed_blocks/ref"]
    for distances, part in _ARITHMETICS.items():
        radii = metrics.manifold_radii(ref, distances=distances, block_size=_ADM_BLOCKS)
        expected = _share_of_halves(recorded[f"metrics_pr/mixed_blocks/{part}radii_ref"])
        name = f"share of float16 radii, {distances}, mixed_blocks"
        yield Check(name, expected, _share_of_halves(radii), _SHARE_TOLERANCE)


def _share_of_halves(values: np.ndarray) -> float:
    """Return the share of numbers that float16 holds exactly: those it has rounded."""
    with np.errstate(over="ignore"):
        return float(np.mean(values.astype(np.float16) == values))


def _check_published(
    name: str, weights_path: Path | None, device: str | torch.device, progress: Progress | None
) -> Iterator[Check]:
    """Measure a published image file, if it, its reference and Inception's weights are there."""
    entry = find_entry("samples", name)
    wanted = {
        "samples": _cached("samples", entry),
        "reference": _cached("references", find_entry("references", entry["reference"])),
        "weights": weights_path or _cached("networks", find_entry("networks", "inception")),
    }
    absent = [path for path in wanted.values() if not path.exists()]
    if absent:
        yield Check(name, None, None, None, f"not in the cache: {', '.join(map(str, absent))}")
        return
    report = Measuring(progress=progress).with_cache(
        lambda options: metrics.evaluate(
            metrics.open_images(wanted["samples"]),
            metrics.open_reference(wanted["reference"]),
            metrics.load_network("inception", wanted["weights"], device, lazy=True),
            **options,
        )
    )
    for key, published in entry["metrics"].items():
        label, tolerance = METRIC_LABELS[key], _PUBLISHED_TOLERANCES[key]
        yield Check(f"{label}, {name}", published, report.values[label], tolerance)


def _cached(section: str, entry: Entry) -> Path:
    """Return where an entry's file lies, or would lie, in the cache; checked if it is there."""
    path = cached_path(section, entry)
    if path.exists():
        check_file(path, entry=entry)
    return path
