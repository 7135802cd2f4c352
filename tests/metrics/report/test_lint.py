import numpy as np
import pytest
from PIL import Image

from metrics import (
    ArrayImages,
    FeatureStatistics,
    FirstImages,
    Reference,
    ReferenceStatistics,
    open_images,
)
from metrics.images.inspection import (
    ImageFindings,
    ImageInspector,
    InspectedImages,
    count_shared,
)
from metrics.report.lint import lint_images, lint_reference, lint_sources

rng = np.random.default_rng(0)


def images(count, size=4, labels=None, seed=0):
    pixels = np.random.default_rng(seed).integers(0, 256, (count, size, size, 3), dtype=np.uint8)
    return ArrayImages(pixels, labels=None if labels is None else np.asarray(labels, np.int64))


def checks(samples, reference=None, network="inception", **options):
    options = {"published_count": 1, "reference_count": None, **options}  # few are enough
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
    warning = lint_sources(images(9), real, "inception")[0]
    assert warning.reason == "9 images, where published numbers take 50000"
    assert "few-samples" not in checks(images(200, 1), published_count=None)
    assert "few-samples" in checks(images(199, 1), published_count=None)


@pytest.mark.parametrize(("count", "warned"), [(9, True), (10, False)])
def test_a_reference_of_few_images_whatever_it_comes_from(count, warned):
    part = FeatureStatistics(np.zeros(2), np.eye(2), count)
    for reference in (
        Reference("images", images(count)),
        Reference("file", None, ReferenceStatistics(part, part)),
        Reference("both", images(20), ReferenceStatistics(part, part)),
        Reference("shown", images(count), ReferenceStatistics(FeatureStatistics(*_UNCOUNTED))),
    ):
        assert ("few-references" in checks(images(9), reference, reference_count=10)) == warned


_UNCOUNTED = np.zeros(2), np.eye(2)


def test_a_reference_has_ten_thousand_images_unless_it_is_as_large_as_it_can_be():
    few = Reference("real", images(9_999, 1))
    assert [each.check for each in lint_reference(few)] == ["few-references"]
    assert lint_reference(Reference("real", images(10_000, 1))) == []
    assert lint_reference(few, least_count=None) == []


def test_a_reference_without_a_known_number_is_not_judged():
    statistics = ReferenceStatistics(FeatureStatistics(*_UNCOUNTED))
    assert lint_reference(Reference("adm.npz", None, statistics)) == []


@pytest.mark.parametrize(("count", "singular"), [(6, True), (7, False)])
def test_no_more_real_images_than_features_give_a_singular_covariance(count, singular):
    (warning,) = lint_reference(Reference("real", images(count)), feature_dim=6)
    assert ("singular" in warning.effect) == singular
    covariance = np.cov(np.random.default_rng(0).normal(size=(count, 6)), rowvar=False)
    assert (np.linalg.matrix_rank(covariance) < 6) == singular


def test_few_images_beside_statistics_of_many_concern_precision_and_recall():
    part = FeatureStatistics(np.zeros(2), np.eye(2), 50_000)
    reference = Reference("ref.npz", images(5), ReferenceStatistics(part, part))
    (warning,) = lint_reference(reference, feature_dim=6)
    assert "precision and recall" in warning.effect and "Fréchet" not in warning.effect


def pictures(path, suffix, count=10, **options):
    path.mkdir()
    for number, image in enumerate(images(count).images):
        Image.fromarray(image).save(path / f"{number}.{suffix}", **options)
    return open_images(path)


def test_lossy_files_against_lossless_ones(tmp_path):
    jpeg, webp = pictures(tmp_path / "j", "jpg"), pictures(tmp_path / "w", "webp")
    png, exact = pictures(tmp_path / "p", "png"), pictures(tmp_path / "x", "webp", lossless=True)
    lossless, lossy = (png, exact, images(10)), (jpeg, webp)
    for samples in (*lossless, *lossy):
        for real in (*lossless, *lossy):
            warned = "lossy-files" in checks(samples, Reference("real", real))
            assert warned == ((samples in lossy) != (real in lossy))
    found = checks(FirstImages(jpeg, 8), Reference("real", images(9)))["lossy-files"]
    assert found.reason == "the images come from 8 JPEG files, the reference from an array"


def test_statistics_of_lossy_files_are_lossy_though_their_images_are_an_array(tmp_path):
    part = FeatureStatistics(np.zeros(2), np.eye(2), 10)
    statistics = ReferenceStatistics(part, part, "inception")
    reference = Reference("ref.npz", images(5), statistics, formats={"JPEG": 10})
    assert "lossy-files" in checks(images(9), reference)
    assert "lossy-files" not in checks(pictures(tmp_path / "j", "jpg"), reference)


@pytest.mark.parametrize(("lossy", "warned"), [(1, False), (2, True)])
def test_a_tenth_of_lossy_files_is_no_difference(lossy, warned):
    part = FeatureStatistics(np.zeros(2), np.eye(2), 10)
    formats = {"JPEG": lossy, "PNG": 10 - lossy}
    reference = Reference("r", None, ReferenceStatistics(part, part, "inception"), formats=formats)
    assert ("lossy-files" in checks(images(9), reference)) == warned


def test_files_that_were_not_taken_are_told_of_both_sides(tmp_path):
    ours, theirs = (pictures(tmp_path / name, "png") for name in ("ours", "theirs"))
    assert "files-not-taken" not in checks(ours, Reference("real", theirs))
    (tmp_path / "theirs" / "a.heic").write_text("")
    found = checks(ours, Reference("real", open_images(tmp_path / "theirs")))["files-not-taken"]
    assert found.reason == f"{tmp_path / 'theirs'}: 1 file was not taken: 1 .heic"
    (tmp_path / "ours" / "b.txt").write_text("")
    found = checks(FirstImages(open_images(tmp_path / "ours"), 4), Reference("real", theirs))
    assert "1 .txt" in found["files-not-taken"].reason


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


@pytest.mark.parametrize(("shared", "warned"), [(None, False), (0, False), (1, True), (4, True)])
def test_images_that_are_in_the_reference_too_are_counted(shared, warned):
    found = {each.check: each for each in lint_images(findings(images(4)), shared)}
    assert ("shared-images" in found) == warned
    if warned:
        assert found["shared-images"].reason.startswith(f"{shared} of 4 images are in the ref")


def test_shared_images_are_those_equal_in_every_pixel():
    ours, theirs = images(9, seed=1).images, images(7, seed=2).images
    theirs[2], theirs[6] = ours[8], ours[0]
    theirs[3] = ours[4]
    theirs[3, 0, 0, 0] ^= 1

    def digests(*parts):
        inspector = ImageInspector()
        for start, part in parts:
            inspector.update(part, start)
        return inspector.digests()

    assert count_shared(digests((0, ours)), digests((0, theirs))) == 2
    assert count_shared(digests((5, ours[5:]), (0, ours[:5])), digests((0, ours))) == 9
    np.testing.assert_array_equal(digests((5, ours[5:]), (0, ours[:5])), digests((0, ours)))
    flat = ours[:, :2].reshape(9, 4, 2, 3)  # the same bytes in another shape
    assert count_shared(digests((0, ours[:, :2])), digests((0, flat))) == 0


def test_a_warning_is_one_line_with_reason_and_effect():
    warning = lint_sources(images(9), Reference("real", images(8)), "inception")[0]
    assert str(warning) == f"{warning.reason}: {warning.effect}."
    assert "\n" not in str(warning)
    assert warning.to_dict() == {
        "check": "few-samples",
        "reason": warning.reason,
        "effect": warning.effect,
    }
