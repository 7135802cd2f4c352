from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from tiny_run import TINY, numbered_data, numbers, stand_in_encoder

import repa.training.batch as module
from repa.data import Batch
from repa.errors import SettingError
from repa.training.batch import DRAWS, Batches, EpochOrder, Share, draws_of
from repa.training.targets import EncoderTargets, StoredTargets
from repa_base.processes import Processes
from samplers import Stream, keyed_generator


def batch_of(step, data=None, **changes):
    return Batches(replace(TINY, **changes), data or numbered_data(), StoredTargets([]), "cpu")(
        step
    )


def positions(step, batch_size):
    return np.arange(step * batch_size, (step + 1) * batch_size)


def test_every_image_is_seen_once_an_epoch_in_an_order_of_its_own():
    order = EpochOrder(seed=0, count=901)
    drawn = np.concatenate([order(positions(step, 100)) for step in range(19)])
    assert sorted(drawn[:901]) == sorted(drawn[901:1802]) == list(range(901))
    assert drawn[:901].tolist() != drawn[901:1802].tolist()
    assert not np.array_equal(EpochOrder(seed=1, count=901)(positions(0, 100)), drawn[:100])


@pytest.mark.parametrize("batch_size", [7, 30, 64])
def test_the_order_of_an_epoch_is_drawn_once_and_is_the_same_wherever_a_run_resumes(
    batch_size, monkeypatch
):
    count, steps, drawn = 30, 20, []

    def counting(seed, stream, index, step):
        drawn.append(step)
        return keyed_generator(seed, stream, index, step)

    monkeypatch.setattr(module, "keyed_generator", counting)
    order = EpochOrder(3, count)
    seen = np.concatenate([order(positions(step, batch_size)) for step in range(steps)])
    epochs = -(-steps * batch_size // count)
    assert drawn == list(range(epochs))
    # Runs of older versions are resumed, so the definition stays: shuffled epochs, strung together.
    shuffled = [
        keyed_generator(3, Stream.TRAINING, 0, epoch).permutation(count) for epoch in range(epochs)
    ]
    assert np.array_equal(seen, np.concatenate(shuffled)[: len(seen)])
    resumed = EpochOrder(3, count)(positions(11, batch_size))
    assert np.array_equal(resumed, seen[11 * batch_size : 12 * batch_size])


def test_draws_are_of_the_format_that_runs_are_resumed_by():
    # Numbers as numpy gives them for this key, so that nobody changes them and keeps the format.
    assert DRAWS == 2
    found = draws_of(7, np.array([3, 70]), (2, 1, 2))
    for row, position in enumerate((3, 70)):
        drawn = keyed_generator(7, Stream.SAMPLES, position, 0)
        assert found.times[row] == drawn.random(dtype=np.float32)
        assert found.dropout[row] == drawn.random(dtype=np.float32)
        expected = drawn.standard_normal((2, 1, 2), dtype=np.float32)
        assert np.array_equal(found.noise[row], expected)
    drawn = keyed_generator(7, Stream.SAMPLES, 3, 0)
    lognormal = draws_of(7, np.array([3]), (1,), "lognormal")
    assert lognormal.times[0] == drawn.standard_normal(dtype=np.float32)


@pytest.mark.parametrize(("size", "parts"), [(1, 1), (1, 4), (2, 1), (3, 2), (6, 2)])
def test_processes_and_parts_share_the_samples_of_a_batch_and_all_their_draws(size, parts):
    config = replace(TINY, batch_size=24, label_dropout=0.5, seed=4)
    data = NoisyData()
    targets = StoredTargets([np.arange(50.0, dtype=np.float32).reshape(50, 1, 1)])
    for step in (0, 3):
        whole = Batches(config, data, targets, "cpu")(step)
        shares = [
            Batches(config, data, targets, "cpu", Share(24, parts, Processes(rank, size)))
            for rank in range(size)
        ]
        found = [share(step, part) for share in shares for part in range(parts)]
        assert len(found) == size * parts
        for name in ("data", "labels", "noise", "times"):
            joined = torch.cat([getattr(part, name) for part in found])
            assert torch.equal(joined, getattr(whole, name)), name
        joined = torch.cat([part.target_features[0] for part in found])
        assert torch.equal(joined, whole.target_features[0])


def test_a_batch_that_cannot_be_divided_is_refused():
    assert Share(24, 2, Processes(0, 3)).part_size == 4
    for size, parts, words in (
        (5, 1, "cannot be divided among 5 processes"),
        (1, 7, "cannot be divided among 7 accumulated parts"),
        (3, 16, "cannot be divided among 16 accumulated parts of 3 processes"),
    ):
        with pytest.raises(SettingError, match=f"batch_size 24 {words}") as caught:
            Share(24, parts, Processes(0, size))
        assert caught.value.field == "batch_size"


@pytest.mark.parametrize("draw", ["noise", "times"])
def test_draws_of_a_step_depend_on_seed_and_step_alone(draw):
    first, again, later, other = (
        getattr(batch_of(step, seed=seed), draw) for step, seed in ((5, 0), (5, 0), (6, 0), (5, 1))
    )
    assert torch.equal(first, again)
    assert not torch.isclose(first, later).any()
    assert not torch.isclose(first, other).any()


def test_dropped_labels_depend_on_the_seed():
    dropped = [
        batch_of(0, batch_size=200, label_dropout=0.5, seed=seed).labels == 10 for seed in (0, 1)
    ]
    assert not torch.equal(*dropped)


def test_labels_are_dropped_at_the_rate_asked_for():
    labels = batch_of(0, batch_size=4000, label_dropout=0.1).labels
    # Binomial(4000, 0.1): mean 400, standard deviation 19; five of them.
    assert abs(int((labels == 10).sum()) - 400) < 95


@pytest.mark.parametrize("path_type", ["linear", "cosine"])
def test_times_have_the_distribution_of_their_weighting(path_type):
    # Five standard errors of a mean and a deviation of 4000 normals: 0.08 and 0.06. The logarithms
    # of the noise levels of uniform times have a deviation of 1.81 (linear) and 1.57 (cosine).
    times = batch_of(0, batch_size=4000, weighting="lognormal", path_type=path_type).times.double()
    linear = path_type == "linear"
    level = times / (1 - times) if linear else torch.tan(times * torch.pi / 2)
    assert abs(level.log().mean().item()) < 0.08
    assert abs(level.log().std().item() - 1) < 0.06
    times = batch_of(0, batch_size=4000, path_type=path_type).times
    # A uniform number's mean and variance, to five of 4000 draws' standard errors.
    assert abs(times.mean().item() - 1 / 2) < 0.023
    assert abs(times.var().item() - 1 / 12) < 0.006


def test_targets_and_inputs_of_a_row_are_of_the_same_image():
    data = numbered_data()
    targets = EncoderTargets(stand_in_encoder(), data, 2, "cpu")
    batches = Batches(TINY, data, targets, "cpu")
    for step in range(6):
        batch = batches(step)
        shown = ((batch.data[:, 0, 0, 0] + 1) * 127.5).round().long().tolist()
        assert (
            shown == batches.order(positions(step, 8)).tolist() == numbers(batch.target_features[0])
        )
        kept = batch.labels != 10
        assert torch.equal(batch.labels[kept], torch.tensor(shown)[kept] % 10)


@dataclass(frozen=True)
class NoisyData:
    """A data set whose inputs, of four numbers, are random, as latents are."""

    count: int = 50
    num_classes: int = 10

    def batch(self, indices, generator):
        drawn = np.stack([generator(row).standard_normal(4) for row in range(len(indices))])
        return Batch(indices, torch.from_numpy(drawn), torch.zeros(len(indices), dtype=torch.int64))


def test_what_is_random_in_a_sample_is_drawn_by_seed_and_position():
    def inputs(step=2, **changes):
        return batch_of(step, NoisyData(), **changes).data

    assert torch.equal(inputs(), inputs())
    assert len(inputs().unique()) == inputs().numel()
    first_six = torch.cat([inputs(step, batch_size=3) for step in (0, 1)])
    assert torch.equal(first_six, inputs(0)[:6])
    for changed in (inputs(step=3), inputs(seed=1)):
        assert not torch.isclose(changed, inputs()).any()
