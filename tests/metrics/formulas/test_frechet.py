import numpy as np
import pytest
from scipy.linalg import sqrtm

from metrics.errors import InputError
from metrics.formulas import frechet
from metrics.formulas.frechet import frechet_distance, frechet_infinity
from metrics.formulas.statistics import FeatureStatistics

CASES = ["gauss", "identical", "n_lt_d", "low_rank", "duplicates"]


@pytest.fixture
def recorded(golden):
    """Return (reference features, sample features, recorded values) of a case."""
    arrays, _ = golden("metrics_fid")
    gauss, _ = golden("metrics_pr")

    def case(name):
        values = {key.split("/")[1]: value for key, value in arrays.items() if name in key}
        ref = values.get("ref", gauss["gauss_fp16path/ref"])
        sample = ref if name == "identical" else gauss["gauss_fp16path/sample"]
        return ref, values.get("sample", sample), values

    return case


@pytest.mark.parametrize("name", [case for case in CASES if case != "identical"])
def test_distance_of_features_equals_the_reference_within_1e_6(recorded, name):
    ref, sample, values = recorded(name)
    a, b = FeatureStatistics.from_features(ref), FeatureStatistics.from_features(sample)
    assert frechet_distance(b, a) == pytest.approx(float(values["fid"]), rel=1e-6)
    assert frechet_distance(a, b) == pytest.approx(float(values["fid"]), rel=1e-6)


@pytest.mark.parametrize("name", [case for case in CASES if case != "identical"])
def test_distance_from_float32_means_equals_the_reference_within_1e_6(recorded, name):
    ref, sample, values = recorded(name)
    a = FeatureStatistics(values["mu_ref"], np.cov(ref, rowvar=False), len(ref))
    b = FeatureStatistics(values["mu_sample"], np.cov(sample, rowvar=False), len(sample))
    assert frechet_distance(b, a) == pytest.approx(float(values["fid"]), rel=1e-6)


@pytest.mark.parametrize("name", CASES)
def test_identical_statistics_are_apart_by_less_than_1e_9_of_the_trace(recorded, name):
    ref, sample, _ = recorded(name)
    for features in (ref, sample):
        statistics = FeatureStatistics.from_features(features)
        again = FeatureStatistics.from_features(features)
        trace = np.trace(statistics.covariance)
        assert abs(frechet_distance(statistics, again)) < 1e-9 * trace


def test_distance_of_diagonal_gaussians_is_the_closed_form():
    rng = np.random.default_rng(0)
    mean_a, mean_b, std_a, std_b = rng.uniform(0.1, 2, size=(4, 9))
    a = FeatureStatistics(mean_a, np.diag(std_a**2), 10)
    b = FeatureStatistics(mean_b, np.diag(std_b**2), 10)
    expected = ((mean_a - mean_b) ** 2).sum() + ((std_a - std_b) ** 2).sum()
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-12)


def test_distance_to_a_point_is_the_trace_plus_the_squared_shift():
    a = FeatureStatistics(np.array([3.0, 4.0]), np.zeros((2, 2)), 10)
    b = FeatureStatistics(np.zeros(2), np.array([[2.0, 1.0], [1.0, 3.0]]), 10)
    assert frechet_distance(a, b) == pytest.approx(25 + 5, rel=1e-15)
    assert frechet_distance(a, a) == 0


def test_distance_is_unchanged_by_a_rotation():
    rng = np.random.default_rng(1)
    a, b = rng.standard_normal((40, 5)), 2 * rng.standard_normal((30, 5)) + 1
    rotation = np.linalg.qr(rng.standard_normal((5, 5)))[0]
    plain, rotated = (
        frechet_distance(*map(FeatureStatistics.from_features, pair))
        for pair in [(a, b), (a @ rotation, b @ rotation)]
    )
    assert rotated == pytest.approx(plain, rel=1e-12)


def test_sets_on_orthogonal_axes_share_no_variance():
    # tr(A B)^(1/2) = 0; an epsilon on the diagonal would show as about its square root.
    a = FeatureStatistics(np.zeros(4), np.diag([1.0, 2.0, 0.0, 0.0]), 10)
    b = FeatureStatistics(np.zeros(4), np.diag([0.0, 0.0, 3.0, 4.0]), 10)
    assert frechet_distance(a, b) == 10


@pytest.mark.parametrize("decades", [0, 3, 6, 12])
def test_trace_is_exact_over_many_orders_of_magnitude(decades):
    # Commuting covariances with a common basis: the trace is the sum of the products of roots.
    rng = np.random.default_rng(2)
    basis = np.linalg.qr(rng.standard_normal((30, 30)))[0]
    roots = np.logspace(0, -decades / 2, 30)
    covariance = (basis * roots**2) @ basis.T
    statistics = FeatureStatistics(np.zeros(30), (covariance + covariance.T) / 2, 99)
    other = FeatureStatistics(np.zeros(30), 4 * statistics.covariance, 99)
    expected = (roots**2).sum()  # (2 r - r)^2
    assert frechet_distance(statistics, other) == pytest.approx(expected, rel=1e-11)


def test_fast_and_exact_path_agree_and_the_fast_one_is_used_only_where_it_is_accurate(monkeypatch):
    rng = np.random.default_rng(3)
    calls = []
    exact = np.linalg.svd
    monkeypatch.setattr(
        frechet.np.linalg, "svd", lambda *args, **kw: calls.append(1) or exact(*args, **kw)
    )
    good = rng.standard_normal((20, 20)) + 10 * np.eye(20)
    singular = good @ np.diag([1.0] * 19 + [1e-12])
    for matrix, exact_calls in [(good, 0), (singular, 1), (np.zeros((3, 5)), 1)]:
        calls.clear()
        result = frechet._nuclear_norm(matrix)
        assert len(calls) == exact_calls
        assert result == pytest.approx(exact(matrix, compute_uv=False).sum(), rel=1e-10)


def test_distance_equals_sqrtm_on_well_conditioned_covariances():
    rng = np.random.default_rng(4)
    a, b = rng.standard_normal((500, 20)), rng.standard_normal((400, 20)) * 1.3 + 0.2
    s, t = FeatureStatistics.from_features(a), FeatureStatistics.from_features(b)
    root = sqrtm(s.covariance @ t.covariance)
    shift = ((s.mean - t.mean) ** 2).sum()
    expected = shift + np.trace(s.covariance + t.covariance - 2 * root.real)
    assert frechet_distance(s, t) == pytest.approx(expected, rel=1e-10)


def test_feature_sets_of_different_width_are_refused():
    a, b = (FeatureStatistics(np.zeros(dim), np.eye(dim), 9) for dim in (2, 3))
    with pytest.raises(InputError, match="same width, got 2 and 3"):
        frechet_distance(a, b)


def test_infinity_recovers_the_distance_that_finite_samples_overestimate():
    # Seeds average the scatter of the intercept: the mean must lie within 4 standard errors of the
    # truth, and those must be far below the bias that is to be removed.
    dim, count, shift = 15, 6000, 0.3
    reference = FeatureStatistics(np.zeros(dim), np.eye(dim))
    truth = dim * shift**2
    rng = np.random.default_rng(5)
    results = [
        frechet_infinity(
            rng.standard_normal((count, dim)) + shift, reference, smallest=400, seed=seed
        )
        for seed in range(8)
    ]
    intercepts = np.array([result.distance for result in results])
    error = intercepts.std(ddof=1) / np.sqrt(len(results))
    bias = np.mean([result.slope for result in results]) / 400
    assert abs(intercepts.mean() - truth) < 4 * error < 0.2 * bias
    for result in results:
        assert (result.sizes[0], result.sizes[-1], len(result.sizes)) == (400, count, 10)


def test_infinity_uses_the_whole_set_last_and_sizes_even_in_one_over_n():
    rng = np.random.default_rng(6)
    features = rng.standard_normal((3000, 3))
    reference = FeatureStatistics(np.zeros(3), np.eye(3))
    result = frechet_infinity(features, reference, num_sizes=5, smallest=100, seed=1)
    whole = frechet_distance(FeatureStatistics.from_features(features), reference)
    assert result.distances[-1] == pytest.approx(whole, rel=1e-10)
    steps = np.diff(1 / np.array(result.sizes))
    np.testing.assert_allclose(steps, steps[0], rtol=0.01)
    line = np.polynomial.Polynomial.fit(1 / np.array(result.sizes), result.distances, 1).convert()
    assert (result.distance, result.slope) == pytest.approx(tuple(line.coef), rel=1e-8)
    assert result == frechet_infinity(features, reference, num_sizes=5, smallest=100, seed=1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_sizes": 1}, "num_sizes must be at least 2, got 1"),
        ({"smallest": 1}, "smallest must be at least 2, got 1"),
        ({"smallest": 26}, "smallest subset of 26, got 50"),
    ],
)
def test_infinity_refuses_what_it_cannot_fit(options, message):
    reference = FeatureStatistics(np.zeros(2), np.eye(2))
    with pytest.raises(ValueError, match=message):
        frechet_infinity(np.random.default_rng(0).standard_normal((50, 2)), reference, **options)
