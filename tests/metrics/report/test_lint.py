import math

import numpy as np
import pytest
from scipy.stats import chi2_contingency

from metrics import ArrayImages, FeatureStatistics, FirstImages, Reference, ReferenceStatistics
from metrics.images.inspection import ImageFindings, ImageInspector, InspectedImages
from metrics.report.lint import lint_images, lint_sources

rng = np.random.default_rng(0)


def images(count, size=4, labels=None, seed=0):
    pixels = np.random.default_rng(seed).integers(0, 256, (count, size, size, 3), dtype=np.uint8)
    return ArrayImages(pixels, labels=None if labels is None else np.asarray(labels, np.int64))


def checks(samples, reference=None, network="inception", **options):
    options = {"published_count": None, **options}
    reference = reference or Reference("real", images(8))
    return {w.check: w for w in lint_sources(samples, reference, network, **options)}


def findings(source, batch_size=3):
    inspected = InspectedImages(source)
    for _ in inspected.batches(batch_size):
        pass
    return inspected.inspector.finish()


def pixel_checks(pixels):
    return {w.check: w for w in lint_images(findings(ArrayImages(np.asarray(pixels, np.uint8))))}


def test_sound_images_get_no_warning():
    assert checks(images(60, labels=np.arange(60) % 5), split_size=20) == {}
    assert pixel_checks(images(10).images) == {}


@pytest.mark.parametrize(("count", "warned"), [(9, True), (10, False)])
def test_fewer_images_than_published_numbers_take(count, warned):
    assert ("few-samples" in checks(images(count), published_count=10)) == warned


def test_published_numbers_take_fifty_thousand_and_data_without_any_takes_what_it_has():
    real = Reference("real", images(8))
    (warning,) = lint_sources(images(9), real, "inception")
    assert warning.reason == "9 images, where published numbers take 50000"
    assert "few-samples" not in checks(images(9), published_count=None)


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
    from metrics.report.lint import _expected_classes

    # Two of {a, a, b}: the pairs aa, ab, ab hold 1, 2, 2 classes.
    assert math.isclose(_expected_classes(np.array([2, 1]), 2), 5 / 3)


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
    from metrics.report.lint import _difference_of_shares

    counts, others = np.array([30, 14, 6, 9]), np.array([41, 60, 2, 0])
    expected = chi2_contingency([counts, others], correction=False).statistic
    assert math.isclose(_difference_of_shares(counts, others), expected)


@pytest.mark.parametrize("labels", [[-3, 2**62, 5] * 20, [7] * 60])
def test_any_integers_may_be_labels(labels):
    assert set(checks(images(60, labels=labels), split_size=20)) <= {"class-balance"}


def test_another_resolution_than_the_references():
    found = checks(images(10, size=4), Reference("real", images(8, size=6)))
    assert found["resolution"].reason == "images of 4 x 4 against a reference of 6 x 6"
    assert checks(images(10, size=6), Reference("real", images(8, size=6))) == {}


def test_images_of_several_sizes():
    class Several(ArrayImages):
        shape = None

    assert "resolution" in checks(Several(images(4).images))


@pytest.mark.parametrize(
    ("named", "network", "warned"),
    [
        (None, "inception", False),
        (None, "inception-clean", True),
        ("inception-clean", "inception-clean", False),
    ],
)
def test_statistics_that_do_not_say_what_made_them(named, network, warned):
    part = FeatureStatistics(np.zeros(2), np.eye(2), 5)
    reference = Reference("adm.npz", None, ReferenceStatistics(part, part, network=named))
    assert ("reference-network" in checks(images(10), reference, network)) == warned


def test_nameless_statistics_without_spatial_ones_are_not_adms():
    part = FeatureStatistics(np.zeros(2), np.eye(2), 5)
    reference = Reference("fid_stats.npz", None, ReferenceStatistics(part))
    assert "reference-network" in checks(images(10), reference, "inception")


@pytest.mark.parametrize(("theirs", "warned"), [("a", False), ("b", True), (None, False)])
def test_statistics_made_with_other_weights(theirs, warned):
    part = FeatureStatistics(np.zeros(2), np.eye(2), 5)
    statistics = ReferenceStatistics(part, part, "inception", theirs)
    found = lint_sources(
        images(10), Reference("r.npz", None, statistics), "inception", weights_sha256="a"
    )
    assert ("other weights" in str(found)) == warned


@pytest.mark.parametrize(("deviation", "warned"), [(0.05, False), (0.2, True)])
def test_shares_of_unknown_reference_may_be_as_uneven_as_real_data(deviation, warned):
    shares = np.where(np.arange(100) % 2, 1 + deviation, 1 - deviation) / 100
    labels = np.repeat(np.arange(100), np.rint(50_000 * shares).astype(int))
    source = ArrayImages(np.zeros((len(labels), 1, 1, 3), np.uint8), labels=labels)
    found = lint_sources(source, Reference("r", images(10)), "inception")
    assert ("class-balance" in {warning.check for warning in found}) == warned


def test_repeated_images_are_counted_and_the_first_is_named():
    pixels = images(7).images
    pixels[4] = pixels[6] = pixels[1]
    reason = pixel_checks(pixels)["duplicates"].reason
    assert reason == "2 of 7 images repeat an earlier one (image 4 is image 1)"


def test_images_that_differ_in_one_value_are_no_duplicates():
    pixels = np.repeat(images(1).images, 2, axis=0)
    pixels[1, -1, -1, -1] ^= 1
    assert "duplicates" not in pixel_checks(pixels)


def test_images_of_one_colour_are_counted_and_others_are_not():
    pixels = images(6).images
    pixels[3], pixels[5] = 0, (10, 200, 30)
    reason = pixel_checks(pixels)["constant"].reason
    assert reason == "2 of 6 images have one colour throughout (the first is image 3)"
    pixels[3, 0, 0, 0] = pixels[5, 0, 0, 0] = 1
    assert "constant" not in pixel_checks(pixels)


def test_nan_turned_into_uint8_is_found():
    floats = rng.random((5, 4, 4, 3), np.float32)
    floats[2] = np.nan
    with np.errstate(invalid="ignore"):
        pixels = (255 * floats).astype(np.uint8)
    assert set(pixel_checks(pixels)) == {"constant"}


@pytest.mark.parametrize(
    ("convert", "cause"),
    [
        (lambda x: np.rint(x), "without the factor 255"),
        (lambda x: 127.5 * (x + 1), "only half of the range"),  # for [-1, 1], applied to [0, 1]
        (lambda x: 127.5 * x, "only half of the range"),
    ],
)
def test_floats_that_became_uint8_by_a_wrong_formula(convert, cause):
    floats = rng.random((5, 8, 8, 3))
    assert cause in pixel_checks(convert(floats).astype(np.uint8))["value-range"].effect
    assert pixel_checks((255 * floats).astype(np.uint8)) == {}


def test_inspection_changes_no_image_and_keeps_what_the_source_says():
    source = ArrayImages(images(7).images, "them", np.arange(7), {"dataset": "x"})
    inspected = InspectedImages(FirstImages(source, 5))
    np.testing.assert_array_equal(np.concatenate([*inspected.batches(2)]), source.images[:5])
    assert (inspected.name, inspected.count, inspected.shape) == ("them", 5, (4, 4, 3))
    assert inspected.labels is not None and inspected.manifest == {"dataset": "x"}
    assert inspected.sha256() == FirstImages(source, 5).sha256()


def test_findings_of_processes_merge_to_those_of_one_in_any_order():
    pixels = images(9).images
    pixels[0, 0, 0] = 0, 100, 255
    pixels[8] = pixels[0]
    pixels[4] = 7
    whole = findings(ArrayImages(pixels))
    parts = [InspectedImages(ArrayImages(pixels)) for _ in range(3)]
    for rank in (2, 0, 1):
        assert list(parts[rank].batches(2, 3 * rank, 3 * rank + 3))
    merged = ImageInspector()
    for part in reversed(parts):
        merged.merge(part.inspector)
    assert merged.finish() == whole
    assert whole == ImageFindings(9, 1, (8, 0), 1, 4, (0, 255))


def test_an_image_read_twice_is_no_duplicate():
    inspected = InspectedImages(images(4))
    for _ in range(2):
        assert len([*inspected.batches(3)]) == 2
    assert lint_images(inspected.inspector.finish()) == []


def test_nothing_read_gives_no_findings():
    assert ImageInspector().finish() is None


def test_findings_survive_json():
    import json

    pixels = images(4).images
    pixels[1] = pixels[2] = 3
    found = findings(ArrayImages(pixels))
    assert ImageFindings.from_dict(json.loads(json.dumps(found.to_dict()))) == found


def test_a_warning_is_one_line_with_reason_and_effect():
    (warning,) = lint_sources(images(9), Reference("real", images(8)), "inception")
    assert str(warning) == f"{warning.reason}: {warning.effect}."
    assert "\n" not in str(warning)
    assert warning.to_dict() == {
        "check": "few-samples",
        "reason": warning.reason,
        "effect": warning.effect,
    }
