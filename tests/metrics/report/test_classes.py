"""Order and shares of labels, judged against chance."""

import math

import numpy as np
import pytest
from scipy.stats import chi2_contingency

from metrics import ArrayImages, Reference, lint_sources
from metrics.report.classes import difference_of_shares, expected_classes

rng = np.random.default_rng(0)


def images(count, size=4, labels=None):
    pixels = rng.integers(0, 256, (count, size, size, 3), dtype=np.uint8)
    return ArrayImages(pixels, labels=None if labels is None else np.asarray(labels, np.int64))


def checks(samples, reference=None, **options):
    options = {"published_count": 1, "reference_count": None, **options}  # few are enough
    reference = reference or Reference("real", images(8))
    return {w.check: w for w in lint_sources(samples, reference, "inception", **options)}


def test_order_by_class_caps_the_score_at_the_classes_of_a_split():
    labels = np.repeat(np.arange(20), 10)
    found = checks(images(200, labels=labels), split_size=50)
    assert set(found) == {"class-order"}
    assert "cannot exceed about 5.0" in found["class-order"].effect


@pytest.mark.parametrize("order", [np.arange(200) % 20, rng.permutation(np.arange(200) % 20)])
def test_classes_in_turn_or_at_random_are_no_order_by_class(order):
    assert checks(images(200, labels=order), split_size=50) == {}


def test_random_order_of_few_images_of_many_classes_is_not_called_sorted():
    # 100 of 1000 classes per split at best: the expected number must know of draws from small sets.
    labels = rng.permutation(np.repeat(np.arange(1000), 5))
    assert "class-order" not in checks(images(5000, 1, labels), split_size=1250)


def test_expected_classes_of_a_split_are_the_hand_count():
    # Two of {a, a, b}: the pairs aa, ab, ab hold 1, 2, 2 classes.
    assert math.isclose(expected_classes(np.array([2, 1]), 2), 5 / 3)


def test_order_within_a_single_split_moves_nothing():
    labels = np.repeat(np.arange(5), 10)
    assert checks(images(50, labels=labels), split_size=50) == {}


def test_classes_out_of_proportion_to_the_reference():
    real = Reference("real", images(300, 1, labels=rng.integers(0, 3, 300)))
    same, skewed = rng.integers(0, 3, 200), rng.choice(3, 200, p=[0.7, 0.2, 0.1])
    assert "class-balance" not in checks(images(200, 1, same), real)
    assert "class-balance" in checks(images(200, 1, skewed), real)


def test_shares_follow_the_reference_and_not_equality():
    proportions = [0.7, 0.2, 0.1]
    real = Reference("real", images(3000, 1, labels=rng.choice(3, 3000, p=proportions)))
    assert "class-balance" not in checks(images(200, 1, rng.choice(3, 200, p=proportions)), real)
    assert "class-balance" in checks(images(200, 1, np.arange(200) % 3), real)


def test_without_labels_in_the_reference_equal_shares_are_expected():
    assert "class-balance" not in checks(images(500, 1, labels=rng.integers(0, 5, 500)))
    found = checks(images(500, 1, labels=rng.choice(5, 500, p=[0.6, 0.1, 0.1, 0.1, 0.1])))
    assert "5 classes found (the reference has no labels)" in found["class-balance"].reason


def test_classes_that_never_occur_count_where_their_number_is_known():
    half = images(500, 1, labels=np.arange(500) % 5)
    assert "class-balance" not in checks(half, num_classes=5)
    assert "class-balance" not in checks(half)
    reason = checks(half, num_classes=10)["class-balance"].reason
    # (50 - 100)^2 / 50 for each of the five that occur, 50 for each that does not
    assert "of 10 classes, of which 5 occur" in reason and "chi-squared 500; " in reason
    assert "chance gives 9" in reason


def test_a_few_random_labels_of_many_classes_are_no_imbalance():
    labels = rng.integers(0, 1000, 100)
    assert "class-balance" not in checks(images(100, 1, labels=labels), num_classes=1000)


def test_labels_beyond_the_known_classes_are_judged_by_what_occurs():
    assert "class-balance" not in checks(images(60, 1, np.arange(60) % 3 + 9), num_classes=10)


def test_difference_of_shares_is_the_chi_squared_of_a_contingency_table():
    counts, others = np.array([30, 14, 6, 9]), np.array([41, 60, 2, 0])
    expected = chi2_contingency([counts, others], correction=False).statistic
    assert math.isclose(difference_of_shares(counts, others), expected)


@pytest.mark.parametrize("labels", [[-3, 2**62, 5] * 20, [7] * 60])
def test_any_integers_may_be_labels(labels):
    assert set(checks(images(60, labels=labels), split_size=20)) <= {"class-balance"}


@pytest.mark.parametrize(("deviation", "warned"), [(0.05, False), (0.2, True)])
def test_shares_of_unknown_reference_may_be_as_uneven_as_real_data(deviation, warned):
    shares = np.where(np.arange(100) % 2, 1 + deviation, 1 - deviation) / 100
    labels = np.repeat(np.arange(100), np.rint(50_000 * shares).astype(int))
    source = ArrayImages(np.zeros((len(labels), 1, 1, 3), np.uint8), labels=labels)
    found = lint_sources(source, Reference("r", images(10)), "inception")
    assert ("class-balance" in {warning.check for warning in found}) == warned
