from pathlib import Path

import numpy as np
import pytest

from metrics import FeatureStatistics, inception_score, precision_recall
from repa_base.memory_map import release_pages

ROWS, DIM = 40_000, 256
SMAPS = Path("/proc/self/smaps")

pytestmark = pytest.mark.skipif(not SMAPS.exists(), reason="the system does not tell")


def resident_of(path):
    """Bytes of a mapped file that count as this process's memory (Linux)."""
    total, ours = 0, False
    with SMAPS.open() as lines:
        for line in lines:
            if not line.split()[0].endswith(":"):
                ours = line.rstrip().endswith(str(path))
            elif ours and line.startswith("Rss:"):
                total += 1024 * int(line.split()[1])
    return total


@pytest.fixture(scope="module")
def rows():
    return np.random.default_rng(0).random((ROWS, DIM), dtype=np.float32)


@pytest.fixture
def mapped(rows, tmp_path):
    np.save(tmp_path / "rows.npy", rows)
    return np.load(tmp_path / "rows.npy", mmap_mode="r")


def test_pages_that_were_read_are_given_back_and_the_values_stay(mapped, rows):
    assert mapped.sum() > 0
    before = resident_of(mapped.filename)
    release_pages(mapped)
    assert before >= rows.nbytes and resident_of(mapped.filename) == 0
    np.testing.assert_array_equal(mapped, rows)


def test_a_part_of_a_map_gives_back_its_pages_too(mapped):
    assert mapped[:100].sum() > 0
    release_pages(mapped[:100])
    assert resident_of(mapped.filename) == 0


def test_changes_in_memory_are_never_lost(rows, tmp_path):
    np.save(tmp_path / "rows.npy", rows[:10])
    private = np.load(tmp_path / "rows.npy", mmap_mode="c")
    private[3] = 7
    release_pages(private)
    assert (private[3] == 7).all()
    plain = rows[:10].copy()
    release_pages(plain)
    np.testing.assert_array_equal(plain, rows[:10])


@pytest.mark.parametrize(
    "consume",
    [
        FeatureStatistics.from_features,
        lambda rows: precision_recall(rows[:50], rows[:9000]),
        lambda rows: inception_score(rows),
    ],
)
def test_metrics_of_a_map_do_not_hold_it_in_memory(mapped, rows, tmp_path, consume):
    shares = rows / rows.sum(axis=1, keepdims=True)
    np.save(tmp_path / "shares.npy", shares)
    shares = np.load(tmp_path / "shares.npy", mmap_mode="r")
    consume(shares)
    # at most one piece of 4096 rows, with the pages that the system reads ahead
    assert resident_of(shares.filename) <= shares.nbytes / 8
