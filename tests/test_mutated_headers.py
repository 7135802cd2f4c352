"""A few mutated headers of every kind; `mutated_headers.py` makes as many as one likes."""

import warnings
from collections import Counter

import mutated_headers
import pytest

KINDS = [kind for kind in mutated_headers.KINDS if kind != "torch without zip"]


@pytest.mark.parametrize("kind", KINDS)
def test_mutated_headers_are_read_or_refused_in_one_line(tmp_path, kind):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own, of damaged files
        found = list(mutated_headers.run(kind, range(60), "test", tmp_path, limits=False))
    assert [(number, wrong) for number, _, wrong in found if wrong] == []
    outcomes = Counter(outcome for _, outcome, _ in found)
    assert outcomes.total() == 60 > outcomes["opened"]
