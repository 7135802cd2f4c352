from dataclasses import replace

import pytest
from tiny_run import QUIET, TINY

from repa.training.loop import train


@pytest.mark.parametrize("num_steps", range(1, 14))
def test_the_highest_learning_rate_is_the_largest_of_all_steps(num_steps):
    for warmup_steps in range(16):
        for decay_steps in range(16):
            config = replace(
                TINY, num_steps=num_steps, warmup_steps=warmup_steps, decay_steps=decay_steps
            )
            rates = [config.learning_rate_at(step) for step in range(num_steps)]
            assert config.highest_learning_rate == max(rates)


def notes_of(config, out, **options):
    notes = []
    train(config, out, reporting=replace(QUIET, on_note=notes.append), **options)
    return [note for note in notes if "learning rate" in note]


def test_a_run_too_short_for_its_learning_rate_says_so_and_what_would_reach_it(tmp_path):
    # Of 40 steps of the digits preset the fifth is the fastest: 36/1500 of the whole rate, 2.4 %.
    config = replace(TINY, num_steps=40, warmup_steps=200, decay_steps=1500, batch_size=1)
    (note,) = notes_of(replace(config, num_steps=4), tmp_path / "four")
    assert note == (
        "the learning rate comes to 2.7e-06 at most, not 0.001: warm-up (200 steps) and decay "
        "(1500) do not fit into 4; --warmup-steps 0 --decay-steps 2 would."
    )
    assert config.highest_learning_rate == 1e-3 * (36 / 1500)


@pytest.mark.parametrize("num_steps", [1, 2, 3, 9, 10, 40, 199])
@pytest.mark.parametrize(("warmup", "decay"), [(200, 1500), (0, 200), (200, 0), (3, 198)])
def test_the_schedule_that_is_advised_reaches_the_learning_rate(num_steps, warmup, decay):
    fitting = replace(
        TINY,
        num_steps=num_steps,
        warmup_steps=min(warmup, num_steps // 10),
        decay_steps=min(decay, num_steps // 2),
    )
    assert fitting.highest_learning_rate == fitting.learning_rate


def test_a_run_that_reaches_its_learning_rate_and_one_that_is_done_say_nothing_of_it(tmp_path):
    config = replace(TINY, num_steps=4, warmup_steps=2, decay_steps=3)
    assert config.highest_learning_rate == config.learning_rate
    assert not notes_of(config, tmp_path / "whole")
    short = replace(config, decay_steps=4)
    assert len(notes_of(short, tmp_path / "short")) == 1
    assert not notes_of(short, tmp_path / "short", resume=True)
