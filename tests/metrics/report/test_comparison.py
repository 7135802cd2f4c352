"""The whole of an evaluation with a network that is plain arithmetic, so that numbers are known."""

import threading
import time
import tracemalloc

import numpy as np
import pytest
import torch
from stand_in import CLASSES, POOL_DIM, SPATIAL_DIM, stand_in

from metrics import (
    ArrayImages,
    FeatureCache,
    FeatureStatistics,
    FirstImages,
    InputError,
    MetricLabels,
    MetricSettings,
    NoiseImages,
    Reference,
    bootstrap_inception_score,
    compare,
    evaluate,
    evaluate_sets,
    frechet_distance,
    inception_score,
    measure,
    measure_reference,
    open_images,
    open_reference,
    precision_recall,
    standard_error,
)
from metrics.extraction.prefetch import prefetch

SIDE = 4
_RANDOM = np.random.default_rng(7)
_MIX = torch.tensor(_RANDOM.normal(size=(SIDE * SIDE * 3, POOL_DIM)), dtype=torch.float32)


def outputs(pixels):
    flat = pixels.permute(0, 2, 3, 1).flatten(1) / 255
    return flat @ _MIX, flat[:, :SPATIAL_DIM] ** 2, flat[:, 10 : 10 + CLASSES] * 4


EXACT = MetricSettings(distances="exact")


def network(name="arithmetic", **changes):
    labels = MetricLabels(
        frechet="FD-a",
        kernel="KD-a",
        spatial_frechet="sFD-a",
        inception_score="IS-a",
        precision="P-a",
        recall="R-a",
    )
    return stand_in(name, **{"labels": labels, "outputs": outputs} | changes)


def images(count, seed, low=0, high=256):
    random = np.random.default_rng(seed)
    return random.integers(low, high, (count, SIDE, SIDE, 3), dtype=np.uint8)


SAMPLES, REAL = images(50, 1, 20, 200), images(60, 2)


def features(array):
    return [output.numpy() for output in outputs(torch.tensor(array).permute(0, 3, 1, 2).float())]


def reference_file(path, real=REAL, **changes):
    pool, spatial, _ = features(real)
    arrays = {"arr_0": real, "mu": pool.mean(0), "sigma": np.cov(pool, rowvar=False)}
    arrays |= {"mu_s": spatial.mean(0), "sigma_s": np.cov(spatial, rowvar=False)}
    arrays = {name: array for name, array in (arrays | changes).items() if array is not None}
    np.savez(path, **arrays)
    return path


def test_the_five_numbers_are_the_functions_of_all_features():
    report = evaluate(
        ArrayImages(SAMPLES),
        Reference("real", ArrayImages(REAL)),
        network(),
        settings=MetricSettings(distances="exact", split_size=20),
        batch_size=7,
    )
    (pool, spatial, logits), (real_pool, real_spatial, _) = features(SAMPLES), features(REAL)
    found = precision_recall(real_pool, pool, 3)
    statistics = FeatureStatistics.from_features
    wanted = {
        "FD-a": frechet_distance(statistics(pool), statistics(real_pool)),
        "sFD-a": frechet_distance(statistics(spatial), statistics(real_spatial)),
        "IS-a": inception_score(torch.tensor(logits).softmax(1).numpy(), split_size=20),
        "P-a": found.precision,
        "R-a": found.recall,
    }
    assert list(report.values) == list(wanted)
    assert report.values == pytest.approx(wanted, rel=1e-5)
    # precision and recall differ here, so neither the flags nor the names can be swapped unnoticed
    assert report.values["P-a"] != report.values["R-a"]
    assert report.num_samples == 50


def test_precision_is_of_the_samples_and_recall_of_the_reference():
    # six copies of one real image: all samples are covered, most of the reference is not
    copies = np.repeat(REAL[:1], 6, axis=0)
    report = evaluate(ArrayImages(copies), Reference("r", ArrayImages(REAL)), network())
    assert report.values["P-a"] == 1
    assert report.values["R-a"] == pytest.approx(1 / 60)


@pytest.mark.parametrize("batch_size", [1, 16, 50])
def test_the_batch_size_moves_nothing(batch_size):
    wanted = measure(ArrayImages(SAMPLES), network(), batch_size=25)
    found = measure(ArrayImages(SAMPLES), network(), batch_size=batch_size)
    np.testing.assert_allclose(found.pool_features, wanted.pool_features, rtol=1e-5)
    np.testing.assert_allclose(found.pool.covariance, wanted.pool.covariance, rtol=1e-5)
    assert found.inception_score == pytest.approx(wanted.inception_score, rel=1e-6)


def test_identical_sets_are_at_distance_zero_and_cover_each_other():
    real = Reference("r", ArrayImages(REAL))
    report = evaluate(ArrayImages(REAL), real, network(), settings=EXACT)
    assert report.values["FD-a"] == pytest.approx(0, abs=1e-6)
    assert report.values["P-a"] == report.values["R-a"] == 1


def test_a_reference_file_gives_statistics_for_distances_and_images_for_precision(tmp_path):
    pool = features(SAMPLES)[0]
    path = reference_file(tmp_path / "r.npz", mu=pool.mean(0), sigma=np.cov(pool, rowvar=False))
    report = evaluate(ArrayImages(SAMPLES), open_reference(path), network(), settings=EXACT)
    from_images = evaluate(
        ArrayImages(SAMPLES), Reference("r", ArrayImages(REAL)), network(), settings=EXACT
    )
    assert report.values["FD-a"] == pytest.approx(0, abs=1e-5)
    assert from_images.values["FD-a"] > 0.1
    for label in ("sFD-a", "P-a", "R-a"):
        assert report.values[label] == pytest.approx(from_images.values[label], rel=1e-5)
    assert report.compared_with["FD-a"] == "mean and covariance of an unstated number of images"
    assert report.compared_with["P-a"] == "60 images"
    assert report.compared_with["IS-a"] == "no reference"


def test_a_reference_without_images_leaves_precision_and_recall_out(tmp_path):
    path = reference_file(tmp_path / "r.npz", arr_0=None, count=np.array(60))
    report = evaluate(ArrayImages(SAMPLES), open_reference(path), network())
    assert list(report.values) == ["FD-a", "sFD-a", "IS-a"]
    assert report.compared_with["FD-a"] == "mean and covariance of 60 images"


def test_a_network_without_classes_or_positions_leaves_their_numbers_out():
    bare = network(
        spatial_dim=0, num_classes=0, outputs=lambda pixels: (outputs(pixels)[0], None, None)
    )
    report = evaluate(ArrayImages(SAMPLES), Reference("r", ArrayImages(REAL)), bare)
    assert list(report.values) == ["FD-a", "P-a", "R-a"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"network": np.array("inception")}, "statistics of inception"),
        ({"mu": np.zeros(3), "sigma": np.eye(3)}, "3 pooled features; arithmetic has 6"),
        ({"mu_s": np.zeros(3), "sigma_s": np.eye(3)}, "3 spatial features; arithmetic has 9"),
    ],
)
def test_statistics_of_another_network_are_refused_before_any_work(tmp_path, changes, message):
    path = reference_file(tmp_path / "r.npz", **changes)

    def unused(pixels):
        pytest.fail("an image was measured")

    with pytest.raises(InputError, match=message):
        evaluate(ArrayImages(SAMPLES), open_reference(path), network(outputs=unused))
    with pytest.raises(InputError, match=message):
        measure_reference(open_reference(path), network(outputs=unused))


@pytest.mark.parametrize(
    "changes",
    [
        {"sigma": None},
        {"mu": np.zeros((2, 3))},
        {"sigma": np.full((6, 6), np.nan)},
        {"mu": np.array("text")},
        {"count": np.zeros(3)},
        {"mu": None, "sigma": None},
    ],
)
def test_a_damaged_reference_file_is_named(tmp_path, changes):
    path = reference_file(tmp_path / "r.npz", **changes)
    with pytest.raises(InputError, match=r"r\.npz"):
        open_reference(path)


@pytest.mark.parametrize("source", ["npz", "npy", "array"])
def test_plain_images_are_a_reference(tmp_path, source):
    match source:
        case "npz":
            np.savez(tmp_path / "r.npz", REAL)
            reference = open_reference(tmp_path / "r.npz")
        case "npy":
            np.save(tmp_path / "r.npy", REAL)
            reference = open_reference(str(tmp_path / "r.npy"))
        case _:
            reference = open_reference(REAL)
    assert reference.statistics is None
    assert measure_reference(reference, network()).count == 60


@pytest.mark.parametrize(("samples", "real"), [(3, 60), (50, 3)])
def test_too_few_images_are_refused_with_the_number_needed(samples, real):
    reference = Reference("r", ArrayImages(REAL[:real]))
    with pytest.raises(InputError, match="need at least 4 images, got 3"):
        evaluate(ArrayImages(SAMPLES[:samples]), reference, network())


def test_one_image_has_no_statistics():
    with pytest.raises(InputError, match="at least 2"):
        measure(ArrayImages(SAMPLES[:1]), network())


def test_measurements_of_different_networks_do_not_compare():
    other = measure(ArrayImages(REAL), network("other"))
    with pytest.raises(InputError, match="measured by other, not arithmetic"):
        compare(measure(ArrayImages(SAMPLES), network()), other, network())


def test_several_sets_share_one_measured_reference():
    calls = []

    def counting(pixels):
        calls.append(len(pixels))
        return outputs(pixels)

    sets = {"a": ArrayImages(SAMPLES), "b": NoiseImages(20, (SIDE, SIDE, 3))}
    reports = evaluate_sets(sets, Reference("r", ArrayImages(REAL)), network(outputs=counting))
    assert list(reports) == ["a", "b"]
    assert sum(calls) == 50 + 20 + 60
    assert reports["b"].num_samples == 20


def test_progress_is_told_after_every_batch():
    told = []
    measure(
        FirstImages(ArrayImages(SAMPLES), 10),
        network(),
        batch_size=4,
        progress=lambda *arguments: told.append(arguments),
    )
    batches = [("array", 4, 10), ("array", 8, 10), ("array", 10, 10)]
    assert told == [("hash of array", 50, 50), *batches]


def test_progress_of_everything_that_takes_long_goes_to_its_end(tmp_path):
    path = tmp_path / "a.npy"
    np.save(path, _RANDOM.integers(0, 256, (10_000, SIDE, SIDE, 3), dtype=np.uint8))
    told = {}
    evaluate(
        open_images(path),
        Reference("r", ArrayImages(REAL)),
        network(),
        settings=MetricSettings(num_resamples=3, kernel_distance=True, extrapolated=True),
        cache=FeatureCache(tmp_path / "cache"),
        progress=lambda name, done, total: told.setdefault(name, []).append((done, total)),
    )
    ends = {name: steps[-1] for name, steps in told.items()}
    pairs = 10_000**2 + 60**2 + 10_000 * 60
    assert ends == {
        f"hash of {path}": (path.stat().st_size,) * 2,
        str(path): (10_000, 10_000),
        "hash of array": (60, 60),
        "array": (60, 60),
        "P-a and R-a, pairs": (pairs, pairs),
        "standard error of FD-a, resamples": (3, 3),
        "standard error of sFD-a, resamples": (3, 3),
        "KD-a, subsets": (100, 100),
        "FD-a-infinity, subsets": (10, 10),
        "standard error of FD-a-infinity, resamples": (3, 3),
    }
    for steps in told.values():
        assert steps == sorted(steps)


@pytest.mark.parametrize("cached", [False, True])
def test_the_split_size_that_is_reported_is_that_of_the_score_and_of_its_error(tmp_path, cached):
    cache = FeatureCache(tmp_path) if cached else None
    found = measure(ArrayImages(SAMPLES), network(), split_size=10, cache=cache)
    resampled = MetricSettings(num_resamples=5 if cached else 0)
    report = compare(found, measure(ArrayImages(REAL), network()), network(), settings=resampled)
    probabilities = torch.tensor(features(SAMPLES)[2]).softmax(1).numpy()
    assert report.settings["split_size"] == 10
    assert report.values["IS-a"] == pytest.approx(inception_score(probabilities, 10), rel=1e-5)
    assert report.values["IS-a"] != pytest.approx(inception_score(probabilities), rel=1e-3)
    if cached:
        resamples = bootstrap_inception_score(found.probabilities, split_size=10, num_resamples=5)
        assert report.standard_errors["IS-a"] == standard_error(resamples)


def test_a_report_is_plain_values():
    report = evaluate(ArrayImages(SAMPLES), Reference("r", ArrayImages(REAL)), network())
    values = report.to_dict()
    assert values["values"]["FD-a"] == report.values["FD-a"]
    assert values["settings"] == {
        "num_neighbors": 3,
        "distances": "adm",
        "split_size": 5000,
        "kernel_distance": False,
        "extrapolated": False,
        "num_resamples": 0,
        "seed": 0,
    }
    assert values["findings"]["count"] == 50


def test_a_damaged_file_is_found_while_measuring(tmp_path):
    np.savez(tmp_path / "a.npz", SAMPLES)
    content = bytearray((tmp_path / "a.npz").read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / "a.npz").write_bytes(content)
    with pytest.raises(InputError, match="CRC-32"):
        measure(open_images(tmp_path / "a.npz"), network())


def test_memory_grows_by_the_pooled_features_and_a_digest_an_image():
    peaks = []
    for count in (512, 4096):
        noise = NoiseImages(count, (SIDE, SIDE, 3))
        tracemalloc.start()
        measure(noise, network())
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    digest = 200  # bytes of an entry in a dict, with its key and value
    assert peaks[1] - peaks[0] < 1.2 * (4096 - 512) * (POOL_DIM * 4 + digest) + 50_000


def test_prefetch_gives_the_items_in_order():
    assert list(prefetch(range(100), depth=3)) == list(range(100))


def test_prefetch_works_ahead_but_not_further_than_its_depth():
    made = []

    def items():
        for number in range(10):
            made.append(number)
            yield number

    iterator = prefetch(items(), depth=2)
    next(iterator)
    deadline = time.monotonic() + 5
    while len(made) < 3 and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.05)
    # one taken, two ahead
    assert len(made) == 3
    iterator.close()


def test_prefetch_raises_the_error_after_the_items_before_it():
    def items():
        yield 1
        raise InputError("damaged")

    iterator = prefetch(items())
    assert next(iterator) == 1
    with pytest.raises(InputError, match="damaged"):
        next(iterator)


def test_prefetch_stops_its_thread_and_closes_the_source_when_the_consumer_leaves():
    closed = []

    def items():
        try:
            yield from range(1000)
        finally:
            closed.append(True)

    before = threading.active_count()
    for item in (iterator := prefetch(items())):
        if item == 3:
            break
    iterator.close()
    assert closed == [True]
    assert threading.active_count() == before
