import io
import itertools
import pickle

import numpy as np
import pytest

from metrics.errors import InputError
from metrics.formulas.statistics import FeatureStatistics, ReferenceStatistics, RunningStatistics


@pytest.fixture
def features():
    rng = np.random.default_rng(0)
    return rng.standard_normal((2500, 7)) @ rng.standard_normal((7, 7)) + rng.standard_normal(7)


def assert_equals_numpy(statistics, features, rtol=1e-10):
    scale = np.abs(np.cov(features, rowvar=False)).max()
    np.testing.assert_allclose(statistics.mean, features.mean(axis=0), rtol=rtol)
    np.testing.assert_allclose(
        statistics.covariance, np.cov(features, rowvar=False), rtol=0, atol=rtol * scale
    )
    assert statistics.count == len(features)


@pytest.mark.parametrize("batch_size", [1, 7, 1023, 1024, 1025, 2500])
def test_running_statistics_equal_numpy_for_every_batch_size(features, batch_size):
    running = RunningStatistics()
    for start in range(0, len(features), batch_size):
        running.update(features[start : start + batch_size])
    assert_equals_numpy(running.finish(), features)


def test_a_common_offset_loses_no_digits(features):
    offset = 2.0**20  # added without rounding after features are put on a grid of 2^-20
    grid = np.round(features * 2**20) / 2**20
    shifted = FeatureStatistics.from_features(grid + offset)
    assert_equals_numpy(shifted, grid + offset)
    np.testing.assert_allclose(
        shifted.covariance, np.cov(grid, rowvar=False), atol=1e-10 * np.cov(grid.T).max()
    )


def test_a_drift_of_the_mean_between_blocks_enters_the_covariance(features):
    drifting = features + 1000 * np.arange(len(features))[:, None]
    assert_equals_numpy(FeatureStatistics.from_features(drifting), drifting)


def test_float32_rows_are_summed_in_float64(features):
    single = (features * 1e4).astype(np.float32)
    assert_equals_numpy(FeatureStatistics.from_features(single), single.astype(np.float64))


def test_statistics_of_a_read_only_memory_map_equal_those_of_the_array(features, tmp_path):
    np.save(tmp_path / "features.npy", features)
    mapped = np.load(tmp_path / "features.npy", mmap_mode="r")
    statistics = FeatureStatistics.from_features(mapped)
    assert np.array_equal(
        statistics.covariance, FeatureStatistics.from_features(features).covariance
    )


def test_merging_is_independent_of_order_and_equal_to_one_process(features):
    def part(number):
        running = RunningStatistics()
        running.update(features[number::3] + (number == 2) * 50)
        return running

    expected = np.concatenate([features[i::3] + (i == 2) * 50 for i in range(3)])
    for order in itertools.permutations(range(3)):
        merged = RunningStatistics()
        for number in order:
            merged.merge(pickle.loads(pickle.dumps(part(number))))
        assert_equals_numpy(merged.finish(), expected)


def test_rows_may_follow_a_merge_with_an_empty_part(features):
    running = RunningStatistics()
    running.update(features[:100])
    running.merge(RunningStatistics())
    running.update(features[100:])
    assert_equals_numpy(running.finish(), features)


def test_more_rows_may_follow_finish(features):
    running = RunningStatistics()
    running.update(features[:1500])
    first = running.finish()
    running.update(features[1500:])
    assert_equals_numpy(first, features[:1500])
    assert_equals_numpy(running.finish(), features)


def test_multiplicities_equal_explicitly_repeated_rows(features):
    multiplicities = np.random.default_rng(1).integers(0, 4, size=len(features))
    weighted = RunningStatistics()
    weighted.update(features, multiplicities)
    assert_equals_numpy(weighted.finish(), np.repeat(features, multiplicities, axis=0))


def test_covariance_of_two_points_is_known_by_hand():
    statistics = FeatureStatistics.from_features(np.array([[1.0, 0.0], [3.0, -4.0]]))
    assert np.array_equal(statistics.mean, [2.0, -2.0])
    assert np.array_equal(statistics.covariance, [[2.0, -4.0], [-4.0, 8.0]])


@pytest.mark.parametrize(("count", "rank"), [(2500, 7), (5, 4), (2, 1)])
def test_factor_reproduces_the_covariance_with_as_many_columns_as_its_rank(features, count, rank):
    statistics = FeatureStatistics.from_features(features[:count])
    assert statistics.factor.shape == (7, rank)
    np.testing.assert_allclose(
        statistics.factor @ statistics.factor.T,
        statistics.covariance,
        atol=1e-14 * np.trace(statistics.covariance),
    )


def test_factor_of_constant_features_is_empty():
    assert FeatureStatistics.from_features(np.ones((5, 3))).factor.shape == (3, 0)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_rows_that_are_not_finite_are_refused(features, bad):
    features[1200, 3] = bad
    with pytest.raises(InputError, match="finite"):
        FeatureStatistics.from_features(features)


def test_fewer_than_two_rows_are_refused(features):
    with pytest.raises(InputError, match="got 1"):
        FeatureStatistics.from_features(features[:1])
    with pytest.raises(InputError, match="got 0"):
        RunningStatistics().finish()


def test_rows_of_another_width_are_refused(features):
    running = RunningStatistics()
    running.update(features)
    with pytest.raises(ValueError, match="7 wide like the first, got 6"):
        running.update(features[:, :6])


@pytest.mark.parametrize("wrong", [np.array([1, 2]), np.array([1, -1, 1])])
def test_wrong_multiplicities_are_refused(features, wrong):
    with pytest.raises(ValueError, match=r"[Mm]ultiplicit"):
        RunningStatistics().update(features[:3], wrong)


@pytest.mark.parametrize(
    ("mean", "covariance", "count", "message"),
    [
        (np.zeros(2), np.eye(3), 5, "as wide as the mean"),
        (np.zeros((2, 1)), np.eye(2), 5, "as wide as the mean"),
        (np.zeros(2), np.array([[1.0, np.nan], [np.nan, 1.0]]), 5, "finite"),
        (np.zeros(2), np.array([[1.0, 0.5], [0.4, 1.0]]), 5, "symmetric"),
        (np.zeros(2), np.eye(2), 1, "got 1"),
    ],
)
def test_arrays_that_are_no_moments_are_refused(mean, covariance, count, message):
    with pytest.raises(InputError, match=message):
        FeatureStatistics(mean, covariance, count)


@pytest.mark.parametrize("indefinite", [[[1.0, 2.0], [2.0, 1.0]], [[-1.0, 0.0], [0.0, 1.0]]])
def test_an_indefinite_covariance_has_no_factor(indefinite):
    with pytest.raises(InputError, match="positive semi-definite"):
        _ = FeatureStatistics(np.zeros(2), np.array(indefinite), 9).factor


def test_reference_file_has_the_keys_of_the_reference_evaluator_and_reads_back(features):
    reference = ReferenceStatistics(
        pool=FeatureStatistics.from_features(features),
        spatial=FeatureStatistics.from_features(features[:, :3]),
        network="inception",
    )
    file = io.BytesIO()
    np.savez(file, arr_0=np.zeros((1, 2, 2, 3), np.uint8), **reference.to_arrays())
    file.seek(0)
    with np.load(file, allow_pickle=False) as arrays:
        assert {"mu", "sigma", "mu_s", "sigma_s", "arr_0"} <= set(arrays)
        assert np.array_equal(arrays["sigma_s"], np.asarray(reference.spatial.covariance))
        again = ReferenceStatistics.from_arrays(arrays)
    assert (again.network, again.pool.count, again.spatial.count) == ("inception", 2500, 2500)
    assert np.array_equal(again.pool.mean, reference.pool.mean)
    assert np.array_equal(again.spatial.covariance, reference.spatial.covariance)


def test_reference_with_float32_mean_and_without_extras_is_read():
    arrays = {"mu": np.zeros(2, np.float32), "sigma": np.eye(2)}
    reference = ReferenceStatistics.from_arrays(arrays)
    assert (reference.spatial, reference.network, reference.pool.count) == (None, None, None)
    assert reference.pool.mean.dtype == np.float64


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"arr_0": np.zeros(1)}, "mu and sigma, got neither"),
        ({"mu": np.zeros(2)}, "both mu and sigma, got only mu"),
        ({"mu": np.zeros(2), "sigma": np.eye(2), "sigma_s": np.eye(2)}, "got only sigma_s"),
        ({"mu": np.zeros(2), "sigma": np.eye(3)}, "mu, sigma: .*as wide as the mean"),
        ({"mu": np.array(["a"]), "sigma": np.eye(1)}, "real numbers"),
        ({"mu": np.array([None]), "sigma": np.eye(1)}, "real numbers"),
        ({"mu": np.zeros(1, complex), "sigma": np.eye(1)}, "real numbers"),
        ({"mu": np.zeros(1), "sigma": np.eye(1), "count": np.array("many")}, "count"),
        ({"mu": np.zeros(1), "sigma": np.eye(1), "count": np.zeros(3)}, "count"),
    ],
)
def test_reference_arrays_that_are_wrong_are_refused_by_name(arrays, message):
    with pytest.raises(InputError, match=message):
        ReferenceStatistics.from_arrays(arrays)
