"""Estimates of time: which repetitions count, and what is made of them, on a clock of the tests."""

from dataclasses import replace

import pytest
from tiny_run import TINY, numbered_data, stand_in_encoder, tiny_state

import repa.training.planning.timing as timing
from repa.models import SiT
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


@pytest.mark.parametrize("recompute", [True, False])
def test_the_step_that_is_measured_is_the_run_s_own(monkeypatch, recompute):
    networks, compiled = set(), []
    monkeypatch.setattr(timing, "fastest", lambda work, device: (work(), 1) and (0.5, 1))
    monkeypatch.setattr(SiT, "compile_blocks", lambda model: compiled.append(model))
    take = timing.train_step

    def step(config, state, parts, network):
        networks.add(network)
        return take(config, state, parts, network=network)

    monkeypatch.setattr(timing, "train_step", step)
    config = replace(TINY, recompute=recompute, compile=True)
    state = tiny_state(config)
    measured_timing(config, state, numbered_data(), StoredTargets([]), "cpu", 4, 9)
    assert networks == {state.model} and state.model.recomputed is recompute
    assert compiled == [state.model]


@pytest.mark.parametrize("compiled", [True, False])
def test_a_step_is_compiled_at_each_size_before_it_is_measured(monkeypatch, compiled):
    told = []
    monkeypatch.setattr(timing, "fastest", lambda *given: (told.append("measured") or 0.5, 1))
    monkeypatch.setattr(timing, "_reading", lambda *given: 0.0)
    monkeypatch.setattr(SiT, "compile_blocks", lambda model: None)
    monkeypatch.setattr(timing, "train_step", lambda *given, network: told.append("taken"))
    config = replace(TINY, compile=compiled)
    none = StoredTargets([])
    measured_timing(config, tiny_state(config), numbered_data(), none, "cpu", 4, 9)
    assert told == (["taken", "measured"] if compiled else ["measured"]) * 2


def test_a_run_past_its_alignment_takes_and_makes_no_features(monkeypatch):
    seen, read = [], []
    monkeypatch.setattr(timing, "fastest", lambda work, device: (work(), 1) and (0.5, 1))
    monkeypatch.setattr(timing, "_reading", lambda *given: read.append(given[-1]) or 0.25)

    def step(config, state, parts, network):
        seen.extend(len(part.target_features) for part in parts)

    monkeypatch.setattr(timing, "train_step", step)
    (source,) = encoders()
    config = replace(TINY, encoder="efficientnet-lite1", align_until=2)
    for taken, features in ((1, 1), (2, 0)):
        state = tiny_state(config, [3])
        found = measured_timing(config, state, numbered_data(), source, "cpu", 2, 9, taken)
        assert set(seen) == {features} and read[-1] == taken
        assert (found.features > 0) == (found.encoded_images > 0) == bool(features)
        seen.clear()


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
    timing._reading(replace(TINY, batch_size=2), numbered_data(), StoredTargets([]), "cpu", 7)
    assert read == [8, 9, 10, 11, 12]
