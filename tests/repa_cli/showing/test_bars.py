"""Lines that tell how far work is, by a clock that stands still between the calls."""

from itertools import pairwise

import pytest

from repa_cli.showing import bars
from repa_cli.showing.bars import Lines, duration


@pytest.fixture
def clock(monkeypatch):
    """A clock; `clock[0] = 3.0` sets it."""
    now = [0.0]
    monkeypatch.setattr(bars.time, "monotonic", lambda: now[0])
    return now


def run(clock, total, seconds, pieces=1000, *, first=0):
    """Do evenly spread work, and return every line with its time."""
    lines = []
    start = clock[0]
    with Lines(total, "images", "sampling", write=lambda x: lines.append((clock[0], x))) as bar:
        bar.begin(first, total)
        for piece in range(1, pieces + 1):
            clock[0] = start + seconds * piece / pieces
            bar.update((total - first) / pieces)
    return lines


def test_quick_work_has_no_line(clock):
    assert run(clock, 1000, 1.9) == []


def test_line_says_how_much_is_done_how_fast_and_what_is_left(clock):
    lines = run(clock, 50_000, 1000)
    assert lines[1] == (
        52,
        "sampling: 2,600 of 50,000 images (5 %), 50 images/s, about 16 min left",
    )
    assert lines[-1] == (1000, "sampling: 50,000 images in 17 min.")


@pytest.mark.parametrize("seconds", [3, 30, 300, 3_000, 30_000])
def test_lines_come_every_five_per_cent_or_minute_and_never_close_together(clock, seconds):
    times = [at for at, _ in run(clock, 10_000, seconds, pieces=10_000)]
    assert 2 <= times[0] <= 2 + seconds / 10_000
    gaps = [after - before for before, after in pairwise(times[:-1])]
    wanted = max(5, min(0.05 * seconds, 60))
    assert gaps == pytest.approx([wanted] * len(gaps), abs=0.001 * seconds + 1e-6)
    assert times[-1] == seconds


def test_rate_and_time_left_are_of_this_run_not_of_an_earlier_one(clock):
    lines = run(clock, 1000, 100, pieces=100, first=500)
    assert lines[0] == (2, "sampling: 510 of 1,000 images (51 %), 5 images/s, about 2 min left")


def test_work_that_ends_early_is_not_called_done(clock):
    lines = []
    with pytest.raises(KeyboardInterrupt), Lines(10, "", "x", write=lines.append) as bar:
        clock[0] = 10.0
        bar.update(4)
        raise KeyboardInterrupt
    assert lines == ["x: 4 of 10 (40 %), 0.4/s, about 15 s left"]


def test_bytes_and_named_values_are_told(clock):
    lines = []
    bar = Lines(3_000_000_000, "B", "net.pth", write=lines.append)
    clock[0] = 10.0
    bar.set_postfix({"loss": "0.25"})
    bar.update(1_500_000_000)
    assert lines == ["net.pth: 1.50GB of 3.00GB (50 %), 150MB/s, about 10 s left, loss 0.25"]
    unknown = Lines(None, "B", "net.pth", write=lines.append)
    clock[0] = 20.0
    unknown.update(1_000_000)
    assert lines[-1] == "net.pth: 1.00MB, 100kB/s"


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.2, "1 s"),
        (59.4, "59 s"),
        (59.6, "1 min"),
        (12_000, "3 h 20 min"),
        (3_599, "1 h 0 min"),
        (200_000, "2 d 7 h"),
    ],
)
def test_times_are_in_words(seconds, words):
    assert duration(seconds) == words
