"""Tests of which images are held out, by hand counts."""

from fractions import Fraction

import numpy as np
import pytest

from repa.data.held_out import held_out_amount, held_out_rows
from repa.errors import SettingError


def held(hashes: str, labels: list[int] | None, amount: float | Fraction) -> str:
    """Return the one-letter hashes that are held out, in order."""
    chosen = held_out_rows(list(hashes), None if labels is None else np.array(labels), amount)
    assert chosen.dtype == bool
    assert chosen.shape == (len(hashes),)
    return "".join(np.array(list(hashes))[chosen])


def test_the_smallest_hashes_of_each_class_are_held_out_whatever_their_order() -> None:
    assert held("9a1b" + "72d4", [0] * 4 + [1] * 4, 4) == "91" + "24"
    assert held("4d27" + "b1a9", [1] * 4 + [0] * 4, 4) == "42" + "19"


@pytest.mark.parametrize(
    ("count", "expected"),
    [
        # Of 4, 3 and 3 images: 5 are 2, 1.5 and 1.5, and the first of equal remainders gets more.
        (5, "01" + "45" + "7"),
        # 2 are 0.8, 0.6 and 0.6: the largest remainder, then the first.
        (2, "0" + "4"),
        # 7 are 2.8, 2.1 and 2.1.
        (7, "012" + "45" + "78"),
    ],
)
def test_a_count_is_divided_by_largest_remainders_ties_by_class_order(
    count: int, expected: str
) -> None:
    assert held("0123" + "456" + "789", [0] * 4 + [1] * 3 + [2] * 3, count) == expected


def test_every_class_keeps_an_image_and_the_others_make_up_for_it() -> None:
    # 7 of 10, of classes of 1, 1 and 8, are 0.7, 0.7 and 5.6: the single ones stay.
    assert held("01" + "23456789", [0, 1] + [2] * 8, 7) == "2345678"


@pytest.mark.parametrize(("share", "expected"), [(0.25, "012"), (0.34, "012"), (0.36, "0123")])
def test_a_share_is_rounded_to_the_nearest_count_half_up(share: float, expected: str) -> None:
    assert held("0123456789", None, share) == expected


def test_a_share_is_the_decimal_that_was_written() -> None:
    # 0.145 of 100 is 14.5, half up 15; the nearest binary number is below it and would give 14.
    hashes = [f"{i:03d}" for i in range(100)]
    assert held_out_rows(hashes, None, 0.145).sum() == 15
    assert held_out_rows(hashes, None, held_out_amount("0.145")).sum() == 15


def test_files_of_one_content_stay_together_within_a_class() -> None:
    # 2 of the first: the three of 0 do not fit, so that 1 and 2 are taken; all else is as ever.
    assert held("0001234" + "56789ab", [0] * 7 + [1] * 7, 4) == "12" + "56"
    assert held("0012345" + "56789ab", [0] * 7 + [1] * 7, 4) == "00" + "67"


def test_files_of_one_content_stay_together_across_classes() -> None:
    # 0 is in both classes and fits in both; f is in both and comes last.
    assert held("0f12" + "0f34", [0] * 4 + [1] * 4, 4) == "01" + "03"
    # Two of 0 in the second class and one in the first: with one image a class, it fits nowhere.
    assert held("0123" + "0045", [0] * 4 + [1] * 4, 2) == "1" + "4"


def test_no_content_is_ever_on_both_sides_and_rows_may_come_in_any_order() -> None:
    random = np.random.default_rng(0)
    hashes = [f"{random.integers(60):02x}" for _ in range(200)]
    labels = random.integers(5, size=200)
    chosen = held_out_rows(hashes, labels, 0.3)
    sides = {h: {bool(c) for g, c in zip(hashes, chosen, strict=True) if g == h} for h in hashes}
    assert all(len(side) == 1 for side in sides.values())
    assert 40 < chosen.sum() <= 60
    order = random.permutation(200)
    again = held_out_rows([hashes[i] for i in order], labels[order], 0.3)
    assert np.array_equal(again, chosen[order])


@pytest.mark.parametrize(
    ("labels", "amount", "words"),
    [
        ([0, 0, 0, 1], 3, "at most 2, so that 2 classes keep an image"),
        ([0, 0, 0, 0], 4, "at most 3, so that 1 class keeps an image"),
        ([0, 0, 0, 0], 1, "comes to 1 of 4 images, and a reference needs 2"),
        ([0, 0, 0, 0], 0.2, "0.2 comes to 1 of 4 images"),
        ([0, 0, 0, 0], 0, "comes to 0 of 4 images"),
        ([0, 0, 0, 0], 1.0, "a share between 0 and 1, or a count, got 1"),
        ([0, 0, 0, 0], -0.5, "a share between 0 and 1, or a count, got -0.5"),
        ([0, 0, 0, 0], float("nan"), "a share between 0 and 1, or a count, got nan"),
        ([], 2, "comes to 2 of 0 images; hold out at most 0"),
    ],
)
def test_amounts_that_cannot_be_held_out_are_refused_in_words(
    labels: list[int], amount: float, words: str
) -> None:
    with pytest.raises(SettingError, match=words) as caught:
        held("0123"[: len(labels)], labels, amount)
    assert caught.value.field == "held_out"


def test_copies_that_leave_nothing_to_hold_out_are_an_error() -> None:
    with pytest.raises(SettingError, match="0 of 4 images, since files of one content stay"):
        held("0000", None, 2)


@pytest.mark.parametrize(("text", "amount"), [("500", 500), ("0.1", Fraction(1, 10)), (".5", 0.5)])
def test_amounts_are_read_as_counts_and_shares(text: str, amount: float | Fraction) -> None:
    assert held_out_amount(text) == amount


@pytest.mark.parametrize("text", ["", "1", "0", "0.0", "1.0", "-3", "10%", "1e3", "0.5 ", "nan"])
def test_other_amounts_are_refused(text: str) -> None:
    with pytest.raises(SettingError, match="must be a share between 0 and 1, or a count of at"):
        held_out_amount(text)
