"""Standard errors, kernel distance and extrapolation in a report are the functions of features."""

import numpy as np
import pytest
import torch
from stand_in import outputs, stand_in

from metrics import (
    ArrayImages,
    FeatureCache,
    FeatureStatistics,
    InputError,
    MetricSettings,
    NoiseImages,
    Reference,
    compare,
    evaluate,
    evaluate_sets,
    frechet_infinity,
    measure,
)
from metrics.formulas.bootstrap import (
    bootstrap_frechet,
    bootstrap_frechet_infinity,
    bootstrap_inception_score,
    bootstrap_precision_recall,
    standard_error,
)
from metrics.formulas.kernel_distance import kernel_distance
from metrics.formulas.precision_recall import precision_recall
from repa_cli.showing.report_table import value_text

RANDOM = np.random.default_rng(0)
SAMPLES = RANDOM.integers(0, 200, (50, 8, 8, 3), dtype=np.uint8)
REAL = RANDOM.integers(50, 256, (60, 8, 8, 3), dtype=np.uint8)


def features(images):
    pool, spatial, logits = outputs(torch.tensor(images).permute(0, 3, 1, 2).float())
    return pool.numpy(), spatial.numpy(), logits.softmax(1).numpy()


def report(tmp_path, **settings):
    return evaluate(
        ArrayImages(SAMPLES),
        Reference("r", ArrayImages(REAL)),
        stand_in(),
        settings=MetricSettings(**settings),
        batch_size=100,
        cache=FeatureCache(tmp_path / "cache"),
    )


def test_standard_errors_are_the_bootstrap_of_each_metric(tmp_path):
    asked = {"split_size": 20, "num_neighbors": 2, "distances": "exact"}
    found = report(tmp_path, num_resamples=5, seed=3, **asked)
    (pool, spatial, probabilities), (real_pool, real_spatial, _) = features(SAMPLES), features(REAL)
    statistics, options = FeatureStatistics.from_features, {"num_resamples": 5, "seed": 3}
    flags = precision_recall(real_pool, pool, 2)
    assert (found.values["P-x"], found.values["R-x"]) == (flags.precision, flags.recall)
    precision, recall = bootstrap_precision_recall(flags, seed=3)
    wanted = {
        "FD-x": bootstrap_frechet(pool, statistics(real_pool), **options),
        "sFD-x": bootstrap_frechet(spatial, statistics(real_spatial), **options),
        "IS-x": bootstrap_inception_score(probabilities, split_size=20, **options),
        "P-x": precision,
        "R-x": recall,
    }
    errors = {label: standard_error(values) for label, values in wanted.items()}
    assert found.standard_errors == pytest.approx(errors, rel=1e-4)
    assert min(errors.values()) > 0


def test_without_resamples_there_are_no_standard_errors_and_the_values_are_the_same(tmp_path):
    bare, full = report(tmp_path), report(tmp_path, num_resamples=2, kernel_distance=True)
    assert bare.standard_errors == {}
    assert {label: full.values[label] for label in bare.values} == bare.values


def test_kernel_distance_takes_subsets_of_half_of_the_smaller_set(tmp_path):
    found = report(tmp_path, kernel_distance=True, num_resamples=2, seed=1)
    wanted = kernel_distance(features(REAL)[0], features(SAMPLES)[0], subset_size=25, seed=1)
    assert found.values["KD-x"] == pytest.approx(wanted.mean, rel=1e-5)
    assert found.standard_errors["KD-x"] == pytest.approx(wanted.standard_error, rel=1e-5)
    assert found.compared_with["KD-x"] == "60 images, 25 at a time"
    assert "KD-x" not in report(tmp_path).values


def test_subsets_of_the_kernel_distance_have_at_most_1000_rows():
    noise = Reference("r", NoiseImages(2100, (8, 8, 3)))
    found = evaluate(
        NoiseImages(2100, (8, 8, 3), seed=1),
        noise,
        stand_in(),
        settings=MetricSettings(kernel_distance=True, distances="exact"),
        batch_size=400,
    )
    assert found.details["KD-x"]["subset_size"] == 1000


def test_extrapolated_distance_is_that_of_infinitely_many_images(tmp_path):
    noise = NoiseImages(10_000, (8, 8, 3))
    cache, reference = FeatureCache(tmp_path / "cache"), Reference("r", ArrayImages(REAL))
    found = evaluate(
        noise,
        reference,
        stand_in(),
        settings=MetricSettings(extrapolated=True, seed=1, num_resamples=2),
        batch_size=400,
        cache=cache,
    )
    features = measure(noise, stand_in(), batch_size=400).pool_features
    real = measure(ArrayImages(REAL), stand_in()).pool
    options = {"smallest": 5000, "seed": 1}
    wanted = frechet_infinity(features, real, **options)
    assert found.values["FD-x-infinity"] == pytest.approx(wanted.distance, rel=1e-6)
    resamples = bootstrap_frechet_infinity(features, real, num_resamples=2, **options)
    error = standard_error(resamples)
    assert found.standard_errors["FD-x-infinity"] == pytest.approx(error, rel=1e-4)


def test_extrapolation_of_too_few_images_is_refused_before_any_is_measured():
    def unused(pixels):
        pytest.fail("an image was measured")

    with pytest.raises(InputError, match="at least 10000 images, got 50"):
        evaluate(
            ArrayImages(SAMPLES),
            Reference("r", ArrayImages(REAL)),
            stand_in(outputs=unused),
            settings=MetricSettings(extrapolated=True),
        )


def test_standard_errors_need_features_that_only_a_cache_keeps():
    settings = MetricSettings(num_resamples=2)
    reference = Reference("r", ArrayImages(REAL))
    with pytest.raises(ValueError, match="need a cache"):
        evaluate_sets({"a": ArrayImages(SAMPLES)}, reference, stand_in(), settings=settings)
    measured = measure(ArrayImages(SAMPLES), stand_in())
    with pytest.raises(ValueError, match="need all features"):
        compare(measured, measured, stand_in(), settings=settings)


@pytest.mark.parametrize(
    ("setting", "value"),
    [("num_neighbors", 0), ("split_size", 0), ("num_resamples", 1)],
)
def test_a_setting_out_of_range_is_named(setting, value):
    with pytest.raises(ValueError, match=f"{setting} must be .*{value}"):
        MetricSettings(**{setting: value})


@pytest.mark.parametrize(
    ("value", "error", "text"),
    [
        (1.4217, None, "1.4217"),
        (1.4217, 0.0213, "1.42 ± 0.02"),
        (1.4217, 0.0143, "1.422 ± 0.014"),
        (305.72, 3.4, "306 ± 3"),
        (305.72, 14.2, "306 ± 14"),
        (0.8, 0.0, "0.8000 ± 0"),
    ],
)
def test_a_value_has_the_digits_that_its_error_leaves_meaningful(value, error, text):
    assert value_text(value, error) == text
