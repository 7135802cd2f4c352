import copy
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny_run import TINY, Unread, measured, numbered_data, stand_in_encoder, tiny_state
from torch._inductor.exc import InductorError

import repa.training.step as module
from repa.errors import OtherProcessError, RepaError
from repa.models.sit import SiT
from repa.training.batch import Batches, NoisyBatch
from repa.training.losses import spatially_normalised
from repa.training.step import is_finite, losses_of, read_measured, step_network, train_step
from repa.training.targets import EncoderTargets, StoredTargets
from repa_base.processes import Processes
from samplers import INTERPOLANTS


def batch_of(step, config=TINY):
    return Batches(config, numbered_data(), StoredTargets([]), "cpu")(step)


def aligned_batch(step, config=TINY):
    data = numbered_data()
    targets = EncoderTargets(stand_in_encoder(), data, 2, "cpu")
    return Batches(config, data, targets, "cpu")(step)


def test_initial_weights_depend_on_the_seed_alone():
    before = torch.get_rng_state()
    first, again, other = (
        tiny_state(replace(TINY, seed=seed)).model.x_embedder.proj.weight for seed in (1, 1, 2)
    )
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("asked", ["recompute", "compile"])
def test_blocks_are_computed_again_or_compiled_where_that_is_asked(asked, monkeypatch):
    model, compiled = tiny_state().model, []
    monkeypatch.setattr(SiT, "compile_blocks", lambda model: compiled.append(model))
    assert step_network(model, replace(TINY, **{asked: True}), Processes()) is model
    assert model.recomputed == (asked == "recompute")
    assert compiled == ([model] if asked == "compile" else [])


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("g++"), reason="there is no compiler")
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")  # PyTorch's own
@pytest.mark.parametrize("recompute", [False, True])
def test_a_compiled_step_is_the_plain_one_but_for_rounding(recompute):
    torch._dynamo.reset()
    config = replace(TINY, projector_dim=16, learning_rate=1e-3)
    steps = [aligned_batch(step, config) for step in range(3)]
    found = []
    for changes in ({}, {"compile": True, "recompute": recompute}):
        own = replace(config, **changes)
        state = tiny_state(own, target_dims=[3])
        network = step_network(state.model, own, Processes())
        taken = [train_step(own, state, [batch], network=network) for batch in steps]
        found.append((read_measured(taken), state))
    assert found[1][1].model.blocks[0]._compiled_call_impl is not None
    for ours, plain in zip(found[1][0], found[0][0], strict=True):
        assert ours == pytest.approx(plain, abs=1e-4) and is_finite(ours)
    for ours, plain in zip(*(state.model.parameters() for _, state in found[::-1]), strict=True):
        torch.testing.assert_close(ours, plain, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_steps_are_those_of_plain_adamw_with_the_published_betas_and_the_decay_asked_for(
    weight_decay,
):
    config = replace(TINY, weight_decay=weight_decay, max_grad_norm=0.2, learning_rate=1e-2)
    state = tiny_state(config, target_dims=[3])
    plain = copy.deepcopy(state.model)
    optimizer = torch.optim.AdamW(
        [p for p in plain.parameters() if p.requires_grad],
        lr=1e-2,
        betas=(0.9, 0.999),
        eps=1e-8,
        weight_decay=weight_decay,
        fused=True,
    )
    for step in range(3):
        batch = aligned_batch(step, config)
        train_step(config, state, [batch])
        velocity, alignment = losses_of(plain, batch, INTERPOLANTS["linear"])
        optimizer.zero_grad()
        (velocity + 0.5 * alignment).backward()
        assert torch.nn.utils.clip_grad_norm_(plain.parameters(), 0.2) > 0.2
        optimizer.step()
    for ours, theirs in zip(state.model.parameters(), plain.parameters(), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_weights_without_a_gradient_only_decay(weight_decay):
    config = replace(TINY, weight_decay=weight_decay, learning_rate=0.5)
    state = tiny_state(config)
    # A block starts as the identity: what is inside it has a gradient of exactly zero.
    before = state.model.blocks[0].attn.qkv.weight.detach().clone()
    train_step(config, state, [batch_of(0, config)])
    after = state.model.blocks[0].attn.qkv.weight.detach()
    torch.testing.assert_close(after, before * (1 - 0.5 * weight_decay))


def test_ema_follows_the_weights_by_its_decay():
    state = tiny_state()
    before = state.ema.final_layer.linear.bias.clone()
    with torch.no_grad():
        state.model.final_layer.linear.bias += 1
    state.update_ema(0.9, torch.tensor(True))
    expected = 0.9 * before + 0.1 * (before + 1)
    torch.testing.assert_close(state.ema.final_layer.linear.bias, expected)


def test_warm_up_raises_the_learning_rate_linearly():
    config = replace(TINY, warmup_steps=4, learning_rate=0.5)
    state = tiny_state(config)
    rates = []
    for step in range(5):
        train_step(config, state, [batch_of(step, config)])
        rates.append(state.optimizer.param_groups[0]["lr"])
    assert rates == [0.125, 0.25, 0.375, 0.5, 0.5]


def test_the_learning_rate_falls_linearly_to_zero_over_the_last_steps():
    config = replace(TINY, num_steps=6, decay_steps=4, learning_rate=0.5)
    rates = [config.learning_rate_at(step) for step in range(7)]
    assert rates == [0.5, 0.5, 0.5, 0.375, 0.25, 0.125, 0.0]


def test_alignment_trains_the_projectors_and_the_blocks_before_them():
    config = replace(TINY, projector_dim=16, learning_rate=1e-3)
    state = tiny_state(config, target_dims=[3])
    batch = aligned_batch(0, config)
    values = [measured(config, state, batch)["alignment"] for _ in range(20)]
    assert values[-1] < values[0] - 0.01


def tensors_of(state):
    optimizer = [v for p in state.optimizer.state.values() for v in p.values()]
    models = [p for m in (state.model, state.ema) for p in m.state_dict().values()]
    return [tensor.clone() for tensor in (*models, *optimizer)]


def damaged_loss(state, batch):
    return replace(batch, data=batch.data * float("nan"))


def damaged_gradient(state, batch):
    weight = state.model.final_layer.linear.weight
    hook = weight.register_hook(lambda gradient: (hook.remove(), gradient * float("inf"))[1])
    return batch


@pytest.mark.parametrize("damaged", [damaged_loss, damaged_gradient])
def test_a_step_that_is_not_finite_counts_and_changes_nothing(damaged):
    config = replace(TINY, weight_decay=0.1, learning_rate=1e-2)
    state = tiny_state(config)
    train_step(config, state, [batch_of(0, config)])
    before = tensors_of(state)
    found = measured(config, state, damaged(state, batch_of(1, config)))
    assert not is_finite(found) and state.step == 2
    assert all(torch.equal(a, b) for a, b in zip(before, tensors_of(state), strict=True))
    assert all(p.grad is None for p in state.model.parameters())


@pytest.mark.parametrize("damaged", [damaged_loss, damaged_gradient])
def test_a_step_after_one_that_is_not_finite_is_the_good_step_alone(damaged):
    state, alone = tiny_state(), tiny_state()
    train_step(TINY, state, [damaged(state, batch_of(0))])
    alone.step, batch = 1, batch_of(1)
    for each in (state, alone):
        train_step(TINY, each, [batch])
    pairs = zip(tensors_of(state), tensors_of(alone), strict=True)
    assert all(torch.equal(ours, theirs) for ours, theirs in pairs)


def test_bfloat16_training_stays_close_to_float32_without_being_it():
    batch = batch_of(0)
    losses = []
    for config in (TINY, replace(TINY, precision="bf16")):
        state = tiny_state(config)
        torch.manual_seed(0)
        for layer in (state.model.final_layer.linear, state.model.final_layer.adaLN_modulation[1]):
            torch.nn.init.normal_(layer.weight, std=0.2)
        losses.append(measured(config, state, batch)["loss"])
    assert losses[0] != losses[1]
    assert losses[0] == pytest.approx(losses[1], rel=2e-2)


def test_target_features_are_the_encoders_unless_they_are_to_be_normalised():
    data = numbered_data()
    targets = EncoderTargets(stand_in_encoder(), data, 2, "cpu")
    config = replace(TINY, encoder="efficientnet-lite1")
    ((plain,), (spatial,)) = (
        Batches(replace(config, **setting), data, targets, "cpu")(0).target_features
        for setting in ({}, {"normalise_targets": "spatial"})
    )
    indices = Batches(TINY, data, targets, "cpu").order(np.arange(TINY.batch_size))
    assert torch.equal(plain, stand_in_encoder()(data.images(indices), grid_size=2))
    assert torch.equal(spatial, spatially_normalised(plain)) and not torch.equal(plain, spatial)


@pytest.mark.parametrize("changes", [{}, {"precision": "bf16"}, {"accumulate": 2}])
def test_a_step_does_not_wait_for_the_device(changes):
    config = replace(TINY, projector_dim=16, **changes)
    state, batch = tiny_state(config, target_dims=[3]), aligned_batch(0, config)
    with Unread():
        found = train_step(config, state, [batch] * config.accumulate)
    with pytest.raises(AssertionError), Unread():
        found[0].item()


@pytest.mark.parametrize(
    ("error", "kind", "said"),
    [
        (
            RuntimeError("[gloo/transport/tcp/pair.cc:547] Connection closed by peer"),
            OtherProcessError,
            "another process ended early",
        ),
        (
            InductorError(RuntimeError("No working C++ compiler found"), None),
            RepaError,
            r"cannot be compiled on this machine: .*compiler found; leave compilation out",
        ),
        (RuntimeError("shapes differ"), RuntimeError, "^shapes differ$"),
    ],
)
def test_what_ends_a_step_and_is_no_bug_is_said_in_words(monkeypatch, error, kind, said):
    def fail(*arguments):
        raise error

    config = replace(TINY, accumulate=2)
    monkeypatch.setattr(module, "losses_of", fail)
    with pytest.raises(kind, match=said) as caught:
        train_step(config, tiny_state(), [batch_of(0)])
    assert "\n" not in str(caught.value) and isinstance(caught.value, RepaError) == (
        kind is not RuntimeError
    )


def test_buffers_are_averaged_too_and_whole_numbers_are_the_models():
    state = tiny_state()
    for model, value in ((state.model, 3), (state.ema, 1)):
        model.register_buffer("mean", torch.full((2,), float(value)))
        model.register_buffer("count", torch.tensor(value))
    state.update_ema(0.75, torch.tensor(True))
    torch.testing.assert_close(state.ema.mean, torch.full((2,), 1.5))
    assert state.ema.count == 3


def test_parts_of_a_batch_make_the_step_of_the_whole():
    config = replace(TINY, projector_dim=16, max_grad_norm=1e9)
    whole, parted = (tiny_state(config, target_dims=[3]) for _ in range(2))
    batch = aligned_batch(0, config)
    found = measured(config, whole, batch)
    rows = (slice(0, 4), slice(4, 8))
    parts = [
        NoisyBatch(
            *(getattr(batch, name)[part] for name in ("data", "labels", "noise", "times")),
            [features[part] for features in batch.target_features],
        )
        for part in rows
    ]
    (again,) = read_measured([train_step(replace(config, accumulate=2), parted, parts)])
    assert again == pytest.approx(found, abs=1e-6)
