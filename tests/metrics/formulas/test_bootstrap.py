import numpy as np
import pytest
from scipy.special import softmax

from metrics.errors import InputError
from metrics.formulas import bootstrap
from metrics.formulas.bootstrap import (
    bootstrap_frechet,
    bootstrap_frechet_infinity,
    bootstrap_inception_score,
    bootstrap_precision_recall,
    standard_error,
)
from metrics.formulas.frechet import frechet_distance
from metrics.formulas.inception_score import inception_score
from metrics.formulas.precision_recall import PrecisionRecall
from metrics.formulas.statistics import FeatureStatistics


@pytest.fixture
def draws(monkeypatch):
    """Record the multiplicities that are drawn."""
    recorded = []
    draw = bootstrap._multiplicities

    def spy(count, rng):
        recorded.append(draw(count, rng))
        return recorded[-1]

    monkeypatch.setattr(bootstrap, "_multiplicities", spy)
    return recorded


def test_frechet_resample_equals_the_distance_of_explicitly_repeated_rows(draws):
    rng = np.random.default_rng(0)
    features = rng.standard_normal((300, 4)) + 1
    reference = FeatureStatistics(np.zeros(4), np.eye(4))
    values = bootstrap_frechet(features, reference, num_resamples=3)
    assert len(draws) == 3
    for value, drawn in zip(values, draws, strict=True):
        assert drawn.sum() == 300
        repeated = FeatureStatistics.from_features(np.repeat(features, drawn, axis=0))
        assert value == pytest.approx(frechet_distance(repeated, reference), rel=1e-10)


def test_frechet_error_in_one_dimension_is_that_of_the_delta_method():
    # d = (m - m0)^2 + (s - s0)^2 has for a normal sample the variance
    # (4 (m - m0)^2 s^2 + 2 (s - s0)^2 s^2) / N; 400 resamples give the error within 4 %.
    count, mean, std = 4000, 2.0, 3.0
    features = np.random.default_rng(1).standard_normal((count, 1))
    features = mean + std * (features - features.mean()) / features.std(ddof=1)
    reference = FeatureStatistics(np.zeros(1), np.eye(1))
    expected = np.sqrt((4 * mean**2 * std**2 + 2 * (std - 1) ** 2 * std**2) / count)
    values = bootstrap_frechet(features, reference, num_resamples=400)
    # The sample's own fourth moment moves the second term; 4 standard errors of both.
    assert standard_error(values) == pytest.approx(expected, rel=0.16)


def test_infinity_resample_is_a_line_through_distances_of_explicitly_repeated_rows():
    features = np.random.default_rng(3).standard_normal((60, 2)) + 1
    reference = FeatureStatistics(np.zeros(2), np.eye(2))
    values = bootstrap_frechet_infinity(
        features, reference, num_sizes=2, smallest=30, num_resamples=2, seed=4
    )
    for resample, value in enumerate(values):
        order = np.random.default_rng([4, resample]).integers(60, size=60)
        half, whole = (
            frechet_distance(FeatureStatistics.from_features(features[order[:size]]), reference)
            for size in (30, 60)
        )
        # through (1/30, half) and (1/60, whole), at 0
        assert value == pytest.approx(2 * whole - half, rel=1e-9)


def test_inception_score_resample_equals_the_score_of_explicitly_repeated_rows(draws):
    rng = np.random.default_rng(2)
    probabilities = softmax(2 * rng.standard_normal((23, 4)), axis=1)
    values = bootstrap_inception_score(probabilities, split_size=10, num_resamples=2)
    splits = [probabilities[:10], probabilities[10:20], probabilities[20:]]
    for resample, value in enumerate(values):
        scores = [
            inception_score(np.repeat(rows, draws[2 * split + resample], axis=0))
            for split, rows in enumerate(splits)
        ]
        assert value == pytest.approx(np.mean(scores), rel=1e-12)


def test_precision_and_recall_errors_are_binomial_and_not_swapped():
    generated = np.arange(400) < 100
    real = np.arange(900) < 810
    result = PrecisionRecall(0.25, 0.9, generated_in_real=generated, real_in_generated=real)
    precisions, recalls = bootstrap_precision_recall(result, num_resamples=20_000)
    # 20,000 resamples give a standard deviation within 0.5 %.
    assert standard_error(precisions) == pytest.approx(np.sqrt(0.25 * 0.75 / 400), rel=0.02)
    assert standard_error(recalls) == pytest.approx(np.sqrt(0.9 * 0.1 / 900), rel=0.02)
    assert precisions.mean() == pytest.approx(0.25, abs=1e-3)
    assert recalls.mean() == pytest.approx(0.9, abs=1e-3)


def test_standard_error_is_the_sample_standard_deviation():
    assert standard_error(np.array([1.0, 2.0, 6.0])) == pytest.approx(np.sqrt(7))


def test_resample_depends_on_seed_and_number_alone():
    features = np.random.default_rng(3).standard_normal((50, 2))
    reference = FeatureStatistics(np.zeros(2), np.eye(2))
    few, many, other = (
        bootstrap_frechet(features, reference, num_resamples=count, seed=seed)
        for count, seed in [(2, 5), (4, 5), (2, 6)]
    )
    assert np.array_equal(few, many[:2])
    assert not np.any(few == other)
    assert few[0] != few[1]


def test_impossible_requests_are_refused():
    reference = FeatureStatistics(np.zeros(2), np.eye(2))
    flags = PrecisionRecall(1.0, 1.0, np.ones(3, bool), np.ones(3, bool))
    with pytest.raises(InputError, match="got 1"):
        bootstrap_frechet(np.zeros((1, 2)), reference)
    with pytest.raises(InputError, match="got 0"):
        bootstrap_inception_score(np.zeros((0, 2)))
    with pytest.raises(ValueError, match="split_size must be at least 1, got 0"):
        bootstrap_inception_score(np.eye(2), split_size=0)
    with pytest.raises(ValueError, match="at least 2 resamples, got 1"):
        standard_error(np.ones(1))
    for call in (
        lambda: bootstrap_frechet(np.eye(2), reference, num_resamples=0),
        lambda: bootstrap_inception_score(np.eye(2), num_resamples=0),
        lambda: bootstrap_precision_recall(flags, num_resamples=0),
    ):
        with pytest.raises(ValueError, match="num_resamples must be at least 1, got 0"):
            call()
