"""The held-out loss: of which images, by which draws, and that it shows memorising."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from prepared_sets import SPACE, held_out_set, numbered_set
from tiny_run import TINY, numbered_data, tiny_state
from torch import nn

import repa.training.watching.validation as validation
from repa.data import held_out_images, load_digits, open_training_data
from repa.data.samples.held_out_data import spread
from repa.data.samples.prepared_data import PreparedData
from repa.errors import SettingError
from repa.training.watching.validation import open_validation
from samplers import INTERPOLANTS


@pytest.fixture(scope="module")
def digits():
    return open_training_data("digits", 16)


class Constant(nn.Module):
    """A network that always gives one velocity."""

    def __init__(self, value):
        super().__init__()
        self.value = nn.Parameter(torch.tensor(value))

    def forward(self, x, t, labels):
        return torch.full_like(x, self.value.item())


def test_the_digits_are_held_out_that_training_never_sees(digits):
    held = held_out_images(digits, 10_000)
    images, labels = load_digits("heldout", 16)
    assert np.array_equal(held.images, images) and np.array_equal(held.labels, labels)
    few = held_out_images(digits, 32)
    assert len(few.images) == 32 and np.array_equal(few.images, images[spread(896, 32)])
    assert spread(10, 4).tolist() == [0, 2, 5, 7] and spread(3, 4).tolist() == [0, 1, 2]


@pytest.mark.parametrize("path_type", ["linear", "cosine"])
@pytest.mark.parametrize("weighting", ["uniform", "lognormal"])
def test_the_loss_is_that_of_the_formula_over_fixed_draws(digits, path_type, weighting):
    config = replace(TINY, path_type=path_type, weighting=weighting)
    found = open_validation(config, digits, None)
    batch, path = found.held_out, INTERPOLANTS[path_type]
    wanted = []
    for data, t, noise in zip(batch.data, batch.times, batch.noise, strict=True):
        velocity = path.velocity(data[None], noise[None], t[None])
        wanted.append((0.5 - velocity).square().mean().item())
    assert found.loss(Constant(0.5), batch) == pytest.approx(np.mean(wanted), rel=1e-5)
    again = open_validation(replace(config, seed=9), digits, None)
    assert torch.equal(again.held_out.times, batch.times)
    assert torch.equal(again.trained_on.noise, found.trained_on.noise)
    assert torch.equal(found.trained_on.noise, batch.noise)


def test_times_are_spread_evenly_over_the_distribution_that_is_trained_on(digits):
    count = validation.NUM_IMAGES
    even = (np.arange(count) + 0.5) / count
    times = open_validation(TINY, digits, None).held_out.times.numpy()
    assert len(times) == count and np.allclose(np.sort(times), even, atol=1e-6)
    assert abs(np.corrcoef(times, np.arange(count))[0, 1]) < 0.15  # and of no image in particular
    lognormal = open_validation(replace(TINY, weighting="lognormal"), digits, None)
    level = lognormal.held_out.times / (1 - lognormal.held_out.times)
    assert level.log().mean().abs() < 1e-3 and abs(level.log().std() - 1) < 0.02


def test_a_network_that_memorises_is_better_on_what_it_is_trained_on(digits, monkeypatch):
    monkeypatch.setattr(validation, "NUM_IMAGES", 64)
    found = open_validation(TINY, digits, None)
    known = found.trained_on.data

    class Memory(Constant):
        def forward(self, x, t, labels):
            sides = t.view(-1, 1, 1, 1)
            apart = (x[:, None] - (1 - sides)[:, None] * known).flatten(2).norm(dim=2)
            nearest = known[apart.argmin(1)]
            return (x - nearest) / sides.clamp_min(1e-3)  # noise - data, were it that one

    memory = Memory(0.0)
    assert found.loss(memory, found.trained_on) < 0.5 * found.loss(memory, found.held_out)


def test_both_weights_are_judged_and_left_as_they_are(digits, monkeypatch):
    monkeypatch.setattr(validation, "NUM_IMAGES", 8)
    state = tiny_state()
    with torch.no_grad():
        state.model.final_layer.linear.bias += 1.0
    before = {name: tensor.clone() for name, tensor in state.model.state_dict().items()}
    found = open_validation(TINY, digits, None)
    losses = found(state, lambda: False)
    assert losses["held_out"] == found.loss(state.model, found.held_out)
    assert losses["held_out_average"] == found.loss(state.ema, found.held_out)
    assert losses["trained_on"] == found.loss(state.model, found.trained_on)
    assert len(set(losses.values())) == 3
    assert all(torch.equal(t, before[name]) for name, t in state.model.state_dict().items())
    assert state.model.training and not state.ema.training and state.step == 0


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_every_image_is_judged_with_its_label_in_the_runs_precision(digits, monkeypatch, precision):
    monkeypatch.setattr(validation, "NUM_IMAGES", 70)  # more than one chunk
    found = open_validation(replace(TINY, precision=precision), digits, None)
    seen, narrow = [], set()

    class Noting(Constant):
        def forward(self, x, t, labels):
            seen.extend(labels.tolist())
            narrow.add(torch.is_autocast_enabled("cpu"))
            return super().forward(x, t, labels)

    found.loss(Noting(0.0), found.held_out)
    found.loss(Noting(0.0), found.trained_on)
    known = digits.batch(spread(digits.count, 70), np.random.default_rng)
    assert seen == [*held_out_images(digits, 70).labels.tolist(), *known.labels.tolist()]
    assert torch.equal(found.trained_on.data, known.inputs)
    assert narrow == {precision == "bf16"}


def test_held_out_latents_are_encoded_and_drawn_in_the_models_space():
    class Encodes:
        def encode(self, images):
            moments = torch.zeros(len(images), 8, 8, 8)
            moments[:, :4] = images.float().amax((1, 2, 3)).view(-1, 1, 1, 1)
            return moments

    data = PreparedData(held_out_set())
    found = open_validation(TINY, data, Encodes())
    values = found.held_out.data[:, 0, 0, 0]
    assert values.tolist() == [(100 + i - SPACE.bias) / SPACE.scale for i in range(6)]
    assert found.trained_on.data.shape == (6, 4, 8, 8)
    with pytest.raises(SettingError, match=r"autoencoder of the latents \(a-tiny-one\)") as caught:
        open_validation(TINY, data, None)
    assert caught.value.field == "validate_every"


@pytest.mark.parametrize("data", [numbered_data(), PreparedData(numbered_set(latents=False))])
def test_data_without_held_out_images_are_refused_with_what_to_do(data):
    data.name = "mine"
    with pytest.raises(SettingError, match=r"mine has none: prepare .* --held-out") as caught:
        open_validation(TINY, data, None)
    assert caught.value.field == "validate_every"
