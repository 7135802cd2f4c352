"""Estimates of time: which repetitions count, and what is made of them, on a clock of the tests."""

from dataclasses import replace

import pytest
from tiny_run import TINY, numbered_data, stand_in_encoder, tiny_state

import repa.training.planning.timing as timing
from repa.training.planning.timing import measured_timing
from repa.training.targets import EncoderTargets, JoinedTargets, StoredTargets
from repa_base import device


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands still; its one entry is the time."""
    now = [0.0]
    monkeypatch.setattr("repa_base.device.time.perf_counter", lambda: now[0])
    return now


@pytest.fixture
def measuring(monkeypatch):
    """Let steps, the reading of a batch and encoders take given seconds; `measured_timing`."""

    def measure(steps, share, room=100, *, reading=0.0, encoding=(), targets=None):
        seconds = iter(steps)
        monkeypatch.setattr(timing, "fastest", lambda work, device: (next(seconds), 7))
        monkeypatch.setattr(timing, "_reading", lambda config, *others: reading * config.batch_size)
        monkeypatch.setattr(timing, "_encoding", lambda source, device: next(encodings))
        encodings = iter(encoding)
        targets = targets or StoredTargets([])
        return measured_timing(TINY, tiny_state(), numbered_data(), targets, "cpu", share, room)

    return measure


def test_more_images_than_are_measured_cost_what_each_costs(measuring):
    found = measuring([0.5, 0.5 + 7 * 0.25], 16, reading=0.125)
    assert (found.measured_images, found.measured_steps, found.encoded_images) == (8, 7, 0)
    assert found.step == pytest.approx(0.5 + 15 * 0.25)
    assert found.reading == 16 * 0.125 and found.features == 0
    found = measuring([10.0, 15.0], 16)  # what is slow is measured on two images
    assert found.measured_images == 2 and found.step == pytest.approx(10 + 15 * 5)
    found = measuring([10.0], 16, 1)  # no room for more
    assert found.measured_images == 1 and found.step == pytest.approx(160)


def encoders(count=1, *, flip=False):
    data = numbered_data()
    data = data.flipping() if flip else data
    return [EncoderTargets(stand_in_encoder(), data, 2, "cpu") for _ in range(count)]


def test_features_are_made_once_of_all_images_or_in_each_step_of_mirrored_ones(measuring):
    two = JoinedTargets([*encoders(2)])
    found = measuring([0.5, 0.5], 8, encoding=[(0.25, 64), (0.5, 32)], targets=two)
    assert found.features == 40 * 0.75 and found.step == 0.5 and found.encoded_images == 32
    (mirrored,) = encoders(flip=True)
    found = measuring([0.5, 0.5], 8, encoding=[(0.25, 64)], targets=mirrored)
    assert found.features == 0 and found.step == 0.5 + 8 * 0.25


def test_an_encoder_is_measured_on_as_many_images_as_fit_into_the_time(clock, monkeypatch):
    for each, count in ((0.1, 7), (0.001, 40), (2.0, 1)):
        (source,) = encoders()
        seen = []

        def of(self, indices, each=each, seen=seen):
            seen.append(len(indices))
            clock[0] += each * len(indices)

        monkeypatch.setattr(EncoderTargets, "of", of)
        seconds, found = timing._encoding(source, "cpu")
        assert (seconds, found) == (pytest.approx(each), count)
        assert set(seen) == {1, count}


def test_reading_takes_other_images_each_time_and_no_encoder(monkeypatch):
    read = []
    monkeypatch.setattr(timing.Batches, "reader", property(lambda self: read.append))
    for module in (timing, device):
        monkeypatch.setattr(module, "MOST", 4)
    timing._reading(replace(TINY, batch_size=2), numbered_data(), StoredTargets([]), "cpu")
    assert read == [1, 2, 3, 4, 5]
