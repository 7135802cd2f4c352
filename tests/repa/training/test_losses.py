"""The losses and three optimizer steps: recorded values of the reference, and identities."""

import copy

import pytest
import torch
from tiny_run import measured

from repa import alignment_loss, velocity_loss
from repa.training.batch import NoisyBatch
from repa.training.losses import spatially_normalised, times_from_draws
from repa.training.run.state import TrainState
from repa.training.settings import settings_of
from repa.training.step import losses_of
from samplers import INTERPOLANTS

CASES = ["linear_uniform", "linear_lognormal", "cosine_uniform", "cosine_lognormal"]
MODELS = {"loss_a": "sit_c", "loss_b": "sit_b"}


@pytest.fixture
def recorded(golden, golden_sit):
    """Load recorded losses as tensors, with the network they were recorded from."""

    def load(name):
        arrays, meta = golden(name)
        tensors = {key: torch.from_numpy(array) for key, array in arrays.items()}
        return golden_sit(MODELS[name]), tensors, meta

    return load


def golden_batch(golden, prefix, labels=None, row=...):
    targets = [golden[key] for key in sorted(golden) if key.startswith("zs/")]
    labels = golden[f"{prefix}/labels_after_drop"][row] if labels is None else labels
    noise, times = golden[f"{prefix}/noises"][row], golden[f"{prefix}/time_input"][row]
    return NoisyBatch(golden["images"], labels, noise, times, targets)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("case", CASES)
def test_losses_and_gradients_equal_the_reference(name, case, recorded):
    model, golden, meta = recorded(name)
    path_type, weighting = case.split("_")
    times = times_from_draws(golden[f"{case}/time_draw"], weighting=weighting, path_type=path_type)
    torch.testing.assert_close(times, golden[f"{case}/time_input"], atol=1e-6, rtol=1e-6)
    batch = golden_batch(golden, case)
    interpolant = INTERPOLANTS[path_type]
    x = interpolant.interpolate(batch.data, batch.noise, batch.times)
    torch.testing.assert_close(x, golden[f"{case}/model_input"], atol=1e-6, rtol=1e-5)
    per_image = velocity_loss(
        golden[f"{case}/model_output"], batch.data, batch.noise, batch.times, interpolant
    )
    torch.testing.assert_close(per_image, golden[f"{case}/denoising_loss"], atol=0, rtol=1e-5)

    velocity, alignment = losses_of(model, batch, interpolant)
    torch.testing.assert_close(velocity, per_image.mean(), atol=0, rtol=1e-5)
    torch.testing.assert_close(alignment, golden[f"{case}/proj_loss"], atol=1e-5, rtol=0)
    (velocity + meta["proj_coeff"] * alignment).backward()
    named = dict(model.named_parameters())
    norms = torch.stack([named[n].grad.double().norm() for n in meta["grad_param_names"]])
    expected = golden[f"{case}/grad_norm_per_param"]
    torch.testing.assert_close(norms, expected, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(norms.norm(), golden[f"{case}/grad_norm"], rtol=1e-4, atol=0)


@pytest.mark.parametrize("name", MODELS)
def test_losses_without_dropped_labels_equal_the_reference(name, recorded):
    model, golden, _ = recorded(name)
    for case in CASES:
        batch = golden_batch(golden, case, labels=golden["y"])
        velocity, alignment = losses_of(model, batch, INTERPOLANTS[case.split("_")[0]])
        expected = golden[f"{case}/denoising_loss_nodrop"].mean()
        torch.testing.assert_close(velocity, expected, atol=0, rtol=1e-5)
        torch.testing.assert_close(alignment, golden[f"{case}/proj_loss_nodrop"], atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", MODELS)
def test_three_training_steps_equal_the_reference(name, recorded):
    model, golden, meta = recorded(name)
    settings = meta["steps3"]
    config = settings_of(
        "digits",
        learning_rate=settings["lr"],
        weight_decay=settings["weight_decay"],
        max_grad_norm=settings["max_grad_norm"],
        ema_decay=settings["ema_decay"],
        alignment_weight=meta["proj_coeff"],
        warmup_steps=0,
        decay_steps=0,
    )
    optimizer = torch.optim.AdamW(
        [p for p in model.parameters() if p.requires_grad],
        lr=settings["lr"],
        weight_decay=settings["weight_decay"],
        betas=tuple(settings["betas"]),
        eps=settings["eps"],
        fused=True,
    )
    ema = copy.deepcopy(model).requires_grad_(False)
    model.train()
    model.label_dropout = 0.0  # the recorded labels are dropped already
    state = TrainState(model, ema, optimizer, step=0)
    for step in range(3):
        losses = measured(config, state, golden_batch(golden, "steps3", row=step))
        expected = golden["steps3/denoising_loss_mean"][step].item()
        assert losses["velocity"] == pytest.approx(expected, rel=1e-5)
        expected = golden["steps3/proj_loss"][step].item()
        assert losses["alignment"] == pytest.approx(expected, abs=1e-5)
        expected = golden["steps3/grad_norm"][step].item()
        assert losses["gradient_norm"] == pytest.approx(expected, rel=1e-4)
    for kind, network in (("param", state.model), ("ema", state.ema)):
        tensors = dict(network.named_parameters())
        for name, expected in zip(meta["param_names"], golden[f"steps3/{kind}_norm"], strict=True):
            # A constant added to all keys cancels in softmax: this bias has no gradient but
            # rounding, which Adam scales up to full steps.
            if not name.endswith("k_norm.bias"):
                norm = tensors[name].detach().double().norm()
                torch.testing.assert_close(norm, expected, rtol=1e-5, atol=1e-6)
        full = [key for key in golden if key.startswith(f"steps3/{kind}/")]
        assert len(full) == 3
        for key in full:
            # Adam divides by the root of tiny second moments, which magnifies rounding.
            actual = tensors[key.removeprefix(f"steps3/{kind}/")].detach()
            torch.testing.assert_close(actual, golden[key], atol=2e-5, rtol=1e-4)


def test_alignment_is_minus_one_for_equal_features_and_averages_over_projectors():
    features = torch.randn(2, 3, 5)
    assert alignment_loss([features], [2 * features]).item() == pytest.approx(-1, abs=1e-6)
    mixed = alignment_loss([features, features], [features, -features])
    assert mixed.item() == pytest.approx(0, abs=1e-6)


def test_alignment_of_half_precision_features_is_computed_in_float32():
    # In float16 the guard against a zero norm underflows, and a zero vector becomes NaN.
    features = torch.zeros(1, 2, 4, dtype=torch.float16)
    features[0, 1] = 300.0
    loss = alignment_loss([features], [features])
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(-0.5, abs=1e-6)


def test_alignment_refuses_features_that_do_not_match():
    features = torch.randn(2, 3, 5)
    with pytest.raises(ValueError, match="at least one, got 0 and 0"):
        alignment_loss([], [])
    with pytest.raises(ValueError, match="got 1 and 2"):
        alignment_loss([features], [features, features])
    with pytest.raises(ValueError, match=r"\(2, 3, 5\) cannot be aligned"):
        alignment_loss([features], [features[:, :1]])


def test_spatial_normalisation_is_irepas_by_hand():
    # Of one image with two tokens: mean 2, deviation sqrt(2); mean -4, deviation 0.
    features = torch.tensor([[[1.0, -4.0], [3.0, -4.0]]], dtype=torch.float64)
    root = 2**0.5
    expected = [[[-0.2 / (root + 1e-6), -1.6e6], [1.8 / (root + 1e-6), -1.6e6]]]
    found = spatially_normalised(features)
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64))


def test_spatial_normalisation_is_of_each_image_by_itself():
    features = torch.randn(3, 16, 5)
    alone = torch.cat([spatially_normalised(image[None]) for image in features])
    torch.testing.assert_close(spatially_normalised(features), alone)
