import numpy as np
import pytest
from scipy.special import softmax

from metrics.errors import InputError
from metrics.formulas.inception_score import RunningInceptionScore, inception_score

CASES = {"k10_default_split": 5000, "k1008_split100": 100, "single_split": 5000}


@pytest.fixture
def recorded(golden):
    arrays, _ = golden("metrics_is")

    def case(name):
        probabilities = softmax(arrays[f"{name}/acts"] @ arrays[f"{name}/W"], axis=1)
        return probabilities, arrays[f"{name}/inception_score"], arrays

    return case


@pytest.mark.parametrize(("name", "split_size"), CASES.items())
def test_score_equals_the_reference_within_1e_5(recorded, name, split_size):
    probabilities, expected, _ = recorded(name)
    assert inception_score(probabilities, split_size) == pytest.approx(float(expected), rel=1e-5)


@pytest.mark.parametrize(("name", "split_size"), CASES.items())
def test_split_scores_equal_the_recorded_float64_check(recorded, name, split_size):
    probabilities, _, arrays = recorded(name)
    running = RunningInceptionScore(split_size)
    running.update(probabilities)
    np.testing.assert_allclose(
        running.split_scores(), arrays[f"{name}/split_scores_f64check"], rtol=1e-6
    )


def test_certain_and_even_predictions_score_the_number_of_classes():
    assert inception_score(np.eye(7)) == pytest.approx(7, rel=1e-14)


def test_equal_predictions_score_one():
    assert inception_score(np.tile([0.5, 0.25, 0.25, 0.0], (9, 1))) == pytest.approx(1, rel=1e-14)


def test_short_last_split_weighs_the_same():
    # Split 1 holds all 4 classes once (score 4), split 2 a single image (score 1).
    assert inception_score(np.eye(4)[[0, 1, 2, 3, 0]], split_size=4) == pytest.approx(2.5)


def test_class_sorted_order_caps_the_score_at_the_classes_of_a_split():
    images = np.repeat(np.eye(4), 5, axis=0)
    assert inception_score(images, split_size=10) == pytest.approx(2)
    assert inception_score(images, split_size=20) == pytest.approx(4)


def random_probabilities(count):
    return softmax(3 * np.random.default_rng(0).standard_normal((count, 6)), axis=1)


@pytest.mark.parametrize("batch_size", [1, 7, 50, 4097])
def test_batches_give_the_score_of_the_whole(batch_size):
    probabilities = random_probabilities(4100 if batch_size > 1000 else 130)
    running = RunningInceptionScore(split_size=50)
    for start in range(0, len(probabilities), batch_size):
        running.update(probabilities[start : start + batch_size])
    assert running.finish() == pytest.approx(inception_score(probabilities, 50), rel=1e-12)


@pytest.mark.parametrize("row", [[0.5, 0.6], [1.5, -0.5], [np.nan, 1.0], [np.inf, 0.0], [0.0, 0.0]])
def test_rows_that_are_no_distribution_are_refused(row):
    with pytest.raises(InputError, match="sum to 1"):
        inception_score(np.array([[0.5, 0.5], row]))


def test_no_images_are_refused():
    with pytest.raises(InputError, match="got 0"):
        inception_score(np.zeros((0, 5)))


def test_split_size_below_one_is_refused():
    with pytest.raises(ValueError, match="split_size must be at least 1, got 0"):
        inception_score(np.eye(2), split_size=0)


def test_another_number_of_classes_is_refused():
    running = RunningInceptionScore()
    running.update(np.eye(3))
    with pytest.raises(ValueError, match="must have 3 class probabilities, got 2"):
        running.update(np.eye(2))
