"""Which repetitions of a measurement count, on a clock of the tests."""

import pytest

from repa_base import device
from repa_base.device import MOST, fastest


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands still; its one entry is the time."""
    now = [0.0]
    monkeypatch.setattr(device.time, "perf_counter", lambda: now[0])
    return now


def taking(clock, *seconds, then=None):
    """Work that takes these seconds, and `then` ever after."""
    left = list(seconds)

    def work():
        clock[0] += left.pop(0) if left or then is None else then

    return work


def test_the_fastest_repetition_counts_and_the_first_one_does_not(clock):
    assert fastest(taking(clock, 0.01, 0.5, 2.0, 0.3, then=9), "cpu") == pytest.approx((0.3, 3))
    assert fastest(taking(clock, 2.9, 0.1, then=0.2), "cpu") == pytest.approx((0.1, 11))


def test_repetitions_end_after_some_seconds_on_a_busy_machine_and_after_some_number(clock):
    assert fastest(taking(clock, 1.0, 2.5, then=2.0), "cpu") == pytest.approx((2.0, 2))
    assert clock[0] == 5.5
    assert fastest(taking(clock, 1.0, then=1e-4), "cpu") == pytest.approx((1e-4, MOST))
    assert fastest(taking(clock, 3.5), "cpu") == pytest.approx((3.5, 1))  # there is no other
