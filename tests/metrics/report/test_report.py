"""What a report says against its own numbers: warnings, and values that are no numbers."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from stand_in import POOL_DIM, SPATIAL_DIM, outputs, stand_in

from metrics import (
    FeatureCache,
    InputError,
    MetricSettings,
    Reference,
    compare,
    evaluate,
    measure,
    open_images,
    open_reference,
    write_reference,
)

EXACT = MetricSettings(distances="exact")
_RANDOM = np.random.default_rng(7)
SAMPLES = _RANDOM.integers(20, 200, (50, 8, 8, 3), dtype=np.uint8)
REAL = _RANDOM.integers(0, 256, (60, 8, 8, 3), dtype=np.uint8)


def reference_file(path, **changes):
    """Write a reference of the real images, some of its arrays changed or left out."""
    write_reference(path, open_images(REAL), stand_in())
    with np.load(path) as file:
        arrays = {name: array for name, array in ({**file} | changes).items() if array is not None}
    np.savez(path, **arrays)
    return path


def warned(report):
    return {warning.check: warning.reason for warning in report.warnings}


def test_images_of_the_reference_are_found_again_from_memory_cache_and_file(tmp_path):
    mixed = np.concatenate([SAMPLES, REAL[:3]])
    reference_file(tmp_path / "ref.npz")
    cache = FeatureCache(tmp_path / "cache")
    for real in (Reference("real", open_images(REAL)), open_reference(tmp_path / "ref.npz")):
        for options in ({}, {"cache": cache}, {"cache": cache}):
            report = evaluate(open_images(mixed), real, stand_in(), settings=EXACT, **options)
            assert report.num_shared == 3
            assert warned(report)["shared-images"].startswith("3 of 53 images")
            apart = evaluate(open_images(SAMPLES), real, stand_in(), settings=EXACT, **options)
            assert apart.num_shared == 0 and "shared-images" not in warned(apart)


def test_a_file_against_itself_is_said_even_where_single_images_are_not_known():
    measured = [replace(measure(open_images(REAL), stand_in()), digests=None) for _ in range(2)]
    report = compare(*measured, stand_in(), settings=EXACT)
    assert report.num_shared == 60 and "shared-images" in warned(report)
    other = replace(measure(open_images(SAMPLES), stand_in()), digests=None)
    assert compare(other, measured[0], stand_in(), settings=EXACT).num_shared is None


def test_statistics_without_images_cannot_tell_what_is_shared(tmp_path):
    reference = open_reference(reference_file(tmp_path / "ref.npz", arr_0=None))
    report = evaluate(open_images(REAL), reference, stand_in(), settings=EXACT)
    assert report.num_shared is None and "shared-images" not in warned(report)


def test_an_evaluation_of_few_images_says_so():
    real = Reference("real", open_images(REAL))
    report = evaluate(open_images(SAMPLES), real, stand_in(), settings=EXACT)
    assert set(warned(report)) == {"few-samples", "few-references"}
    assert [each["check"] for each in report.to_dict()["warnings"]] == [*warned(report)]


@pytest.mark.parametrize("kind", range(3))
@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("cached", [False, True])
def test_features_that_are_not_finite_are_refused_by_the_image(tmp_path, kind, value, cached):
    def broken(pixels):
        found = [*outputs(pixels)]
        marked = (pixels == 77).flatten(1).all(dim=1)
        found[kind] = torch.where(marked[:, None], torch.tensor(value), found[kind])
        return tuple(found)

    samples = SAMPLES.copy()
    samples[37] = 77
    cache = FeatureCache(tmp_path) if cached else None
    with pytest.raises(InputError, match=r"stand-in gives NaN or infinity for image 37; check"):
        measure(open_images(samples), stand_in(outputs=broken), batch_size=8, cache=cache)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("mu", np.full(POOL_DIM, 1e200)),
        ("sigma", np.eye(POOL_DIM) * 1e200),
        ("sigma", np.eye(POOL_DIM) * 1e308),
        ("mu_s", np.full(SPATIAL_DIM, -1e300)),
    ],
)
def test_a_distance_that_overflows_is_refused(tmp_path, name, value):
    reference = open_reference(reference_file(tmp_path / "ref.npz", **{name: value}))
    with pytest.raises(InputError, match="too large to be features'"):
        evaluate(open_images(SAMPLES), reference, stand_in(), settings=EXACT)


def test_features_too_large_for_distances_in_float32_are_refused():
    def large(pixels):
        pool, *others = outputs(pixels)
        return pool * 1e20, *others

    real = Reference("real", open_images(REAL))
    with pytest.raises(InputError, match="overflow"):
        evaluate(open_images(SAMPLES), real, stand_in(outputs=large), settings=EXACT)


def test_a_number_that_is_not_finite_is_never_reported():
    samples, real = (measure(open_images(each), stand_in()) for each in (SAMPLES, REAL))
    broken = replace(samples, inception_score=float("nan"), name="them")
    with pytest.raises(InputError, match=r"them against array: IS-x is not finite"):
        compare(broken, real, stand_in(), settings=EXACT)


def test_a_reference_file_keeps_which_kinds_of_files_it_came_of(tmp_path):
    for number, image in enumerate(REAL):
        Image.fromarray(image).save(tmp_path / f"{number:02}.{'jpg' if number < 50 else 'png'}")
    write_reference(tmp_path / "ref.npz", open_images(tmp_path), stand_in(), num_images=5)
    assert open_reference(tmp_path / "ref.npz").formats == {"JPEG": 50, "PNG": 10}
    write_reference(tmp_path / "array.npz", open_images(REAL), stand_in())
    assert open_reference(tmp_path / "array.npz").formats == {}


@pytest.mark.parametrize("text", ["{", "[]", '{"JPEG": "many"}', '{"JPEG": 0}', '{"JPEG": true}'])
def test_kinds_of_files_that_are_no_counts_are_refused(tmp_path, text):
    with pytest.raises(InputError, match=r"ref\.npz: formats"):
        open_reference(reference_file(tmp_path / "ref.npz", formats=np.array(text)))
