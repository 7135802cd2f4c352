import importlib

import numpy as np
import pytest
import torch

from metrics.errors import InputError
from metrics.formulas.precision_recall import manifold_radii, precision_recall

CASES = [
    ("metrics_pr", "gauss_fp16path"),
    ("metrics_pr", "mixed_blocks"),
    ("metrics_pr", "overflow_fp32path"),
    ("metrics_pr", "ties_integer"),
    ("metrics_pr_inception_like", "d2048"),
]
BLOCKS = {"mixed_blocks": (128, 100)}


@pytest.fixture
def recorded(golden):
    """Return (real features, generated features, recorded values) of a case."""

    def case(file, name):
        arrays, _ = golden(file)
        values = {k.removeprefix(f"{name}/"): v for k, v in arrays.items() if k.startswith(name)}
        if name == "overflow_fp32path":
            real, generated = (
                arrays[f"gauss_fp16path/{side}"] * np.float32(45) for side in ("ref", "sample")
            )
            return real, generated, values
        return values["ref"], values["sample"], values

    return case


@pytest.fixture(params=[2048, 250])
def tile(request, monkeypatch):
    """Once as delivered, where a case is one tile, and once in several ragged tiles."""
    # As an attribute of the package, the name is the function's.
    module = importlib.import_module("metrics.formulas.precision_recall")
    monkeypatch.setattr(module, "_TILE", request.param)


@pytest.mark.parametrize(("file", "name"), CASES)
@pytest.mark.usefixtures("tile")
def test_exact_flags_and_values_equal_the_reference_in_float32(recorded, file, name):
    real, generated, values = recorded(file, name)
    result = precision_recall(real, generated)
    assert np.array_equal(result.generated_in_real, values["fp32/sample_in_ref_manifold"])
    assert np.array_equal(result.real_in_generated, values["fp32/ref_in_sample_manifold"])
    assert result.precision == values["fp32/precision"]
    assert result.recall == values["fp32/recall"]


@pytest.mark.parametrize(("file", "name"), CASES)
@pytest.mark.usefixtures("tile")
def test_exact_radii_equal_the_reference_in_float32(recorded, file, name):
    real, generated, values = recorded(file, name)
    norms = (real.astype(np.float64) ** 2).sum(axis=1)
    # Radii are differences of squared norms: their error scales with these, not with themselves.
    tolerance = 16 * np.finfo(np.float32).eps * norms.max()
    for features, side in ((real, "ref"), (generated, "sample")):
        np.testing.assert_allclose(
            manifold_radii(features), values[f"fp32/radii_{side}"], rtol=0, atol=tolerance
        )


@pytest.mark.parametrize("name", ["ties_integer", "overflow_fp32path", "mixed_blocks"])
@pytest.mark.usefixtures("tile")
def test_adm_values_equal_the_evaluator_where_float16_is_exact_or_falls_back(recorded, name):
    real, generated, values = recorded("metrics_pr", name)
    result = precision_recall(real, generated, distances="adm", block_size=BLOCKS.get(name, 10_000))
    assert result.precision == values["precision"]
    assert result.recall == values["recall"]
    assert np.array_equal(result.generated_in_real, values["sample_in_ref_manifold"])
    assert np.array_equal(result.real_in_generated, values["ref_in_sample_manifold"])


def is_half(values):
    with np.errstate(over="ignore"):
        return values == values.astype(np.float16).astype(np.float32)


def test_adm_radii_fall_back_to_float32_in_the_blocks_where_the_evaluator_does(recorded):
    real, generated, values = recorded("metrics_pr", "mixed_blocks")
    for features, side in ((real, "ref"), (generated, "sample")):
        radii = manifold_radii(features, distances="adm", block_size=BLOCKS["mixed_blocks"])
        expected = values[f"radii_{side}"]
        assert 0 < is_half(expected).sum() < expected.size  # the case holds blocks of both kinds
        assert np.array_equal(is_half(radii), is_half(expected))
        np.testing.assert_allclose(radii, expected, rtol=4 * 2.0**-11)


def test_adm_follows_the_evaluator_within_0_04_at_2048_features(recorded):
    # Where float16 decides, results depend on the order of summation; the evaluator's own float16
    # and float32 values lie 0.027 and 0.038 apart here.
    real, generated, values = recorded("metrics_pr_inception_like", "d2048")
    result = precision_recall(real, generated, distances="adm")
    assert result.precision == pytest.approx(float(values["precision"]), abs=0.04)
    assert result.recall == pytest.approx(float(values["recall"]), abs=0.04)


def evaluator_in_half(u, v):
    """Restate the evaluator's float16 formula; sums of integers do not depend on their order."""
    u, v = u.astype(np.float16), v.astype(np.float16)
    squares = [np.float16((rows * rows).sum(axis=1, dtype=np.float32)) for rows in (u, v)]
    twice = np.float16(2) * np.float16(u.astype(np.float32) @ v.astype(np.float32).T)
    return np.maximum(squares[0][:, None] - twice + squares[1], np.float16(0))


@pytest.mark.usefixtures("tile")
@pytest.mark.parametrize("largest", [44, 60])  # 60 comes near overflow: no pair is taken for two
def test_adm_rounds_in_the_order_of_the_evaluator(largest):
    # Integers above 2048 are rounded by float16, differently in each order of the three terms.
    rng = np.random.default_rng(0)
    real = rng.integers(0, largest, size=(600, 6), endpoint=True).astype(np.float32)
    generated = rng.integers(0, largest, size=(400, 6), endpoint=True).astype(np.float32)
    real_radii, generated_radii = (
        np.sort(evaluator_in_half(rows, rows), axis=1)[:, 3] for rows in (real, generated)
    )
    assert np.array_equal(manifold_radii(real, distances="adm"), real_radii)
    assert np.array_equal(manifold_radii(generated, distances="adm"), generated_radii)
    across = evaluator_in_half(real, generated)
    result = precision_recall(real, generated, distances="adm")
    assert np.array_equal(result.real_in_generated, (across <= generated_radii).any(axis=1))
    assert np.array_equal(result.generated_in_real, (across <= real_radii[:, None]).any(axis=0))


def test_precision_and_recall_are_not_swapped_on_a_line_counted_by_hand():
    # k = 1. Real radii: 1, 1, 90 (points 0, 1, 91), so the real set covers [-1, 2] and [1, 181].
    # Generated radii: 1, 1 (points 2, 3): the generated set covers [1, 4].
    # Both generated points are covered; of the real points 0, 1 and 91 only 1 is.
    real = np.array([[0.0], [1.0], [91.0]])
    generated = np.array([[2.0], [3.0]])
    assert manifold_radii(real, 1).tolist() == [1, 1, 8100]
    result = precision_recall(real, generated, num_neighbors=1)
    assert result.generated_in_real.tolist() == [True, True]
    assert result.real_in_generated.tolist() == [False, True, False]
    assert (result.precision, result.recall) == (1.0, pytest.approx(1 / 3))
    swapped = precision_recall(generated, real, num_neighbors=1)
    assert (swapped.precision, swapped.recall) == (pytest.approx(1 / 3), 1.0)


def test_touching_counts_as_inside():
    real = np.array([[0.0], [1.0]])
    generated = np.array([[2.0], [50.0]])  # 2 lies exactly one radius from 1
    result = precision_recall(real, generated, num_neighbors=1)
    assert result.generated_in_real.tolist() == [True, False]


@pytest.mark.parametrize("distances", ["exact", "adm"])
def test_one_image_repeated_has_radius_zero(distances):
    repeated = np.ones((5, 3))
    assert manifold_radii(repeated, 3, distances=distances).tolist() == [0] * 5


@pytest.mark.parametrize("distances", ["exact", "adm"])
def test_rounding_makes_no_radius_negative(distances):
    repeated = np.random.default_rng(0).standard_normal((60, 200)).repeat(4, axis=0)
    assert manifold_radii(repeated, distances=distances).min() == 0


@pytest.mark.parametrize("count", [4, 33, 200, 1000])
@pytest.mark.parametrize("num_neighbors", [1, 3, 10])
@pytest.mark.usefixtures("tile")
def test_radii_equal_a_full_sort(count, num_neighbors):
    if count <= num_neighbors:
        return
    points = np.random.default_rng(count).integers(0, 40, size=(count, 3)).astype(np.float32)
    distances = ((points[:, None] - points) ** 2).sum(axis=2)
    expected = np.sort(distances, axis=1)[:, num_neighbors]
    assert np.array_equal(manifold_radii(points, num_neighbors), expected)


@pytest.mark.usefixtures("tile")
def test_tensors_arrays_and_read_only_memory_maps_give_the_same_flags(tmp_path):
    rng = np.random.default_rng(0)
    real, generated = rng.standard_normal((2, 300, 5)).astype(np.float32)
    np.save(tmp_path / "real.npy", real)
    mapped = np.load(tmp_path / "real.npy", mmap_mode="r")
    expected = precision_recall(real, generated)
    for first, second in [
        (torch.from_numpy(real), torch.from_numpy(generated)),
        (mapped, generated),
    ]:
        result = precision_recall(first, second)
        assert np.array_equal(result.generated_in_real, expected.generated_in_real)
        assert np.array_equal(result.real_in_generated, expected.real_in_generated)


def test_distances_that_overflow_float16_are_computed_in_float32():
    # Norms of 20,000 and products of -20,000 are finite in float16, their distances of 80,000 not.
    signs = np.array([[1.0], [-1.0]] * 4)
    features = np.float32(np.sqrt(20_000)) * signs * np.array([[1.0, 0.0]])
    features += np.arange(8)[:, None] * np.float32(0.01)
    for neighbors in (3, 7):
        radii = manifold_radii(features, neighbors, distances="adm")
        np.testing.assert_array_equal(radii, manifold_radii(features, neighbors))
    assert radii.min() > 70_000


def test_products_that_overflow_float16_give_distances_of_zero_and_no_fallback():
    # Twice a product of 40,000 is infinite in float16; the evaluator clamps norm - inf at 0 before
    # it looks for what is not finite.
    features = np.full((6, 1), 200.0, np.float32) + np.arange(6, dtype=np.float32)[:, None] * 0.125
    assert manifold_radii(features, 3).min() > 0.01
    np.testing.assert_array_equal(manifold_radii(features, 3, distances="adm"), 0)


@pytest.mark.parametrize("distances", ["exact", "adm"])
@pytest.mark.parametrize("scale", [1, 100])  # at 100 squares overflow float16
@pytest.mark.usefixtures("tile")
def test_progress_counts_every_pair_once(distances, scale):
    rng = np.random.default_rng(0)
    real, generated = scale * rng.standard_normal((900, 5)), scale * rng.standard_normal((700, 5))
    told = []
    precision_recall(
        real,
        generated,
        distances=distances,
        block_size=400,
        progress=lambda *counts: told.append(counts),
    )
    total = 900 * 900 + 700 * 700 + 900 * 700
    assert told == sorted(told) and told[-1] == (total, total)


@pytest.mark.parametrize(
    ("real", "generated", "options", "message"),
    [
        (np.zeros((3, 2)), np.zeros((9, 2)), {}, "more than 3 feature rows, got 3"),
        (np.zeros((9, 2)), np.zeros((1, 2)), {}, "more than 3 feature rows, got 1"),
        (np.zeros((9, 2)), np.zeros((9, 3)), {}, "same width, got 2 and 3"),
        (np.full((9, 2), np.nan), np.zeros((9, 2)), {}, "finite"),
        (np.zeros((9, 2)), np.full((9, 2), 1e30), {}, "finite"),
    ],
)
def test_features_that_cannot_be_compared_are_refused(real, generated, options, message):
    with pytest.raises(InputError, match=message):
        precision_recall(real, generated, **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_neighbors": 0}, "num_neighbors must be at least 1, got 0"),
        ({"block_size": 0}, "block_size must be at least 1, got 0"),
        ({"block_size": (5, 0)}, "block_size must be at least 1"),
    ],
)
def test_impossible_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        precision_recall(np.zeros((9, 2)), np.zeros((9, 2)), **options)
