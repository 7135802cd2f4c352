import numpy as np
import pytest

from metrics.errors import InputError
from metrics.formulas.kernel_distance import kernel_distance


def direct(x, y):
    """Sum the kernel over all pairs of different rows, one pair at a time."""

    def kernel(a, b):
        return (float(a @ b) / len(a) + 1) ** 3

    def within(rows):
        pairs = [kernel(a, b) for i, a in enumerate(rows) for j, b in enumerate(rows) if i != j]
        return np.mean(pairs)

    return within(x) + within(y) - 2 * np.mean([kernel(a, b) for a in x for b in y])


def test_one_subset_of_all_rows_is_the_direct_formula():
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((12, 4)), rng.standard_normal((12, 4)) + 0.5
    result = kernel_distance(x, y, num_subsets=1, subset_size=12)
    assert result.mean == pytest.approx(direct(x, y), rel=1e-12)
    assert result.std == 0
    assert np.isnan(result.standard_error)


def test_subsets_of_different_sets_average_to_the_value_of_the_whole():
    # The estimator is unbiased, so the mean over many subsets tends to that over all rows.
    rng = np.random.default_rng(1)
    x, y = rng.standard_normal((40, 4)), rng.standard_normal((30, 4)) + 0.5
    result = kernel_distance(x, y, num_subsets=4000, subset_size=10)
    assert abs(result.mean - direct(x, y)) < 4 * result.std / np.sqrt(4000)


def test_equal_distributions_are_at_zero_on_average():
    # A biased estimator (diagonal kept) would lie far above: by about 2 * (2^3 - 1.6) / 20.
    values = []
    for seed in range(400):
        x, y = np.random.default_rng(seed).standard_normal((2, 20, 5))
        values.append(kernel_distance(x, y, num_subsets=1, subset_size=20).mean)
    assert abs(np.mean(values)) < 4 * np.std(values) / np.sqrt(400)
    assert np.min(values) < 0


def test_the_smaller_set_of_two_decides_the_error():
    rng = np.random.default_rng(0)
    many, few = rng.standard_normal((400, 3)), rng.standard_normal((100, 3)) + 0.7
    for pair in ((many, few), (few, many)):
        found = kernel_distance(*pair, num_subsets=10, subset_size=50)
        # A subset is half of the few.
        assert found.standard_error == pytest.approx(found.std * np.sqrt(1 / 10 + 0.5 / 0.5))


@pytest.mark.parametrize(("num_subsets", "subset_size"), [(50, 50), (10, 20)])
def test_standard_error_is_near_the_spread_over_new_draws_and_not_below(num_subsets, subset_size):
    estimates, errors = [], []
    for seed in range(200):
        rng = np.random.default_rng(seed)
        x, y = rng.standard_normal((400, 3)), rng.standard_normal((400, 3)) + 0.7
        result = kernel_distance(x, y, num_subsets=num_subsets, subset_size=subset_size)
        estimates.append(result.mean)
        errors.append(result.standard_error)
    # The spread of 200 values is itself known to 5 %.
    assert 0.85 < np.mean(errors) / np.std(estimates) < 1.4


def test_seed_alone_decides_the_draw():
    x, y = np.random.default_rng(0).standard_normal((2, 50, 3))
    options = {"num_subsets": 3, "subset_size": 10}
    assert kernel_distance(x, y, **options) == kernel_distance(x, y, **options, seed=0)
    assert kernel_distance(x, y, **options) != kernel_distance(x, y, **options, seed=1)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({}, InputError, "at least 1000 rows of each set, got 9 real and 8 generated"),
        ({"num_subsets": 0}, ValueError, "num_subsets must be at least 1, got 0"),
        ({"subset_size": 1}, ValueError, "subset_size must be at least 2, got 1"),
    ],
)
def test_too_little_is_refused(options, error, message):
    with pytest.raises(error, match=message):
        kernel_distance(np.zeros((9, 2)), np.zeros((8, 2)), **options)


def test_other_widths_and_nan_are_refused():
    with pytest.raises(InputError, match="same width, got 2 and 3"):
        kernel_distance(np.zeros((9, 2)), np.zeros((9, 3)), subset_size=5)
    with pytest.raises(InputError, match="finite"):
        kernel_distance(np.full((9, 2), np.nan), np.zeros((9, 2)), subset_size=5)
