"""Kinds of guidance and guides, from settings to images, by networks that are known or tiny."""

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from repa.autoencoders.latent_space import PIXELS, SD_LATENTS
from repa.checkpoints import load_model
from repa.errors import SettingError
from repa.generation import Protocol, images_of
from repa.generation.guiding import check_guide, extrapolation_of, guided_by
from repa.generation.images import check_protocol, velocity_of
from repa.generation.integration import solver_of, times_of
from repa.generation.solvers import MULTISTEP
from samplers import PATHS, plain

LABELS = torch.tensor([1, 3])
X, T = torch.ones(2, 3, 4, 4), torch.full((2,), 0.5)
HEUN = Protocol(solver="heun", num_steps=4, cfg_scale=2.0, batch_size=4, labels="balanced")


def known(x, t, labels):
    return x * labels.reshape(-1, 1, 1, 1)


def worse(x, t, labels):
    return x * (10.0 + labels.reshape(-1, 1, 1, 1))


def test_a_guide_is_left_with_the_same_labels_and_the_network_without_a_class_is_not_asked():
    protocol = replace(HEUN, cfg_scale=3.0)
    velocity = guided_by(protocol, known, LABELS, 7, guide=worse)(X, T, True)
    expected = X * torch.tensor([1.0, 3.0]).reshape(-1, 1, 1, 1) - 2 * 10
    assert torch.equal(velocity, expected.double())
    alone = guided_by(protocol, known, LABELS, 7)(X, T, True)
    assert torch.equal(alone, (X * torch.tensor([-11.0, -5.0]).reshape(-1, 1, 1, 1)).double())


def test_a_guide_guides_all_channels_whatever_part_is_guided_without_one():
    """In DiT and SiT classifier-free guidance is of three of four."""
    guided, alone = (
        guided_by(HEUN, known, LABELS, 7, guide=guide, guided_channels=2)(X, T, True)
        for guide in (worse, None)
    )
    assert torch.equal(guided, guided_by(HEUN, known, LABELS, 7, guide=worse)(X, T, True))
    assert torch.equal(alone[:, 2:], known(X, T, LABELS)[:, 2:].double())


@pytest.mark.parametrize(
    "settings",
    [
        {"guidance": "cfg-zero"},
        {"guidance": "apg"},
        {"guidance": "apg", "apg_parallel": 0.5},
        {"guidance": "apg", "apg_bound": 0.1},
        {"guidance": "apg", "apg_momentum": -0.5},
    ],
)
def test_each_setting_of_guidance_changes_the_images(settings):
    model = load_model("digits")
    plainly, otherwise = (
        next(iter(images_of(model, range(2), replace(HEUN, **said)))).images
        for said in ({"guidance": "cfg"}, settings)
    )
    assert not np.array_equal(plainly, otherwise)
    if settings != {"guidance": "apg"} and settings["guidance"] == "apg":
        (bare,) = images_of(model, range(2), replace(HEUN, guidance="apg"))
        assert not np.array_equal(bare.images, otherwise)


def test_a_model_that_is_its_own_guide_changes_nothing_and_neither_does_apg_that_keeps_all():
    model = load_model("digits")
    (unguided,) = images_of(model, range(3), replace(HEUN, cfg_scale=1.0))
    (own,) = images_of(model, range(3), HEUN, guide=model)
    assert np.array_equal(own.images, unguided.images)
    (guided,) = images_of(model, range(3), HEUN)
    (kept,) = images_of(model, range(3), replace(HEUN, guidance="apg", apg_parallel=1.0))
    assert np.array_equal(kept.images, guided.images)
    assert not np.array_equal(unguided.images, guided.images)


def two_heads(velocities):
    network = SimpleNamespace(null_label=7, velocities=velocities)
    settings = SimpleNamespace(guided_channels=None)
    full = lambda x, t, labels: velocities(x, t, labels)[0]  # noqa: E731
    return SimpleNamespace(model=network, settings=settings, velocity_model=full)


@pytest.mark.parametrize(("t", "factor"), [(0.1, 2), (0.2, 2.5), (0.6, 2.5), (0.7, 2)])
def test_internal_guidance_has_the_weight_and_the_interval_of_the_protocol(t, factor):
    model = two_heads(lambda x, t, y: (2 * x, x))
    protocol = replace(HEUN, cfg_scale=1.0, internal_scale=1.5, internal_interval=(0.2, 0.6))
    velocity = velocity_of(model, None, LABELS, protocol)
    times = torch.full((2,), t, dtype=torch.float64)
    assert torch.equal(velocity(X, times, False), (factor * X).double())


def test_momentum_begins_anew_with_every_batch():
    model = load_model("digits")
    protocol = replace(HEUN, guidance="apg", apg_momentum=-0.7, batch_size=2)
    together = [batch.images for batch in images_of(model, range(4), protocol)]
    (alone,) = images_of(model, range(2, 4), protocol)
    assert np.array_equal(together[1], alone.images)


@pytest.mark.parametrize("solver", ["ab2", "ab4", "dpm++"])
@pytest.mark.parametrize("changes", [{}, {"times": "shifted", "shift": 0.5}, {"cfg_scale": 1.5}])
def test_multistep_solvers_begin_afresh_where_cfg_zero_begins_to_move(solver, changes):
    protocol = Protocol(
        solver=solver, num_steps=12, guidance="cfg-zero", guidance_interval=(0.0, 1.0)
    )
    protocol = replace(protocol, **changes)
    velocity = guided_by(protocol, lambda x, t, labels: torch.ones_like(x), LABELS, 7)
    solve = solver_of(protocol, PATHS["linear"], lambda step: pytest.fail("noise"))
    end = solve(velocity, torch.zeros(2, 1, dtype=torch.float64))
    torch.testing.assert_close(end, torch.full_like(end, -0.96))


@pytest.mark.parametrize(
    "settings",
    [
        *({"solver": "ab4"} | changes for changes in ({}, {"times": "shifted", "shift": 0.5})),
        *({"solver": "dpm++"} | changes for changes in ({}, {"times": "uniform"}, {"order": 3})),
    ],
)
@pytest.mark.parametrize(
    ("own", "cfg", "interval", "length", "fewest"),
    [
        ((0.2, 0.63), 1.0, (0.1, 0.7), 1.43, 3),
        ((0.0, 0.5), 1.0, (0.1, 0.7), 1.5, 2),
        ((0.37, 1.0), 1.0, (0.1, 0.7), 1.63, 2),
        ((0.2, 0.63), 1.5, (0.1, 0.4), 1.43 + 0.25, 5),
        ((0.2, 0.63), 1.5, (0.2, 0.63), 1.43 + 0.43, 3),
        ((0.2, 0.63), 1.5, (0.63, 0.9), 1.43 + 0.135, 4),
    ],
)
def test_multistep_solvers_begin_afresh_where_internal_guidance_switches(
    settings, own, cfg, interval, length, fewest
):
    """The velocity is 1, internal guidance doubles it, the other one adds half of what is there."""

    def velocities(x, t, labels):
        full = torch.ones_like(x) * (labels != 7).reshape(-1, 1)
        return full, 0 * full

    for num_steps in (fewest, 12, 25):
        protocol = Protocol(
            num_steps=num_steps, cfg_scale=cfg, guidance_interval=interval, **settings
        )
        protocol = replace(protocol, internal_scale=2.0, internal_interval=own)
        velocity = velocity_of(two_heads(velocities), None, LABELS, protocol)
        solve = solver_of(protocol, PATHS["linear"], lambda step: pytest.fail("noise"))
        end = solve(velocity, torch.zeros(2, 1))
        torch.testing.assert_close(end, torch.full_like(end, -length), rtol=0, atol=1e-5)


@pytest.mark.parametrize("solver", ["dpm++sde", "sa", "heun", "sde"])
def test_only_solvers_for_few_steps_have_times_at_the_ends_of_internal_guidance(solver):
    protocol = Protocol(solver=solver, num_steps=12, internal_interval=(0.2, 0.63))
    path, interval = PATHS["linear"], (0.0, 1.0)
    without = times_of(protocol, path, interval)
    times = times_of(replace(protocol, internal_scale=1.5), path, interval)
    if solver in MULTISTEP:
        assert {round(t, 5) for t in set(times) - set(without)} == {0.2, 0.63}
        assert len(times) == len(without)
    else:
        assert times is without is None


@pytest.mark.parametrize("interval", [(0.0, 0.7), (0.0, 0.96), (0.97, 1.0)])
def test_times_are_those_of_other_guidance_where_nothing_jumps(interval):
    protocol = Protocol(solver="ab2", num_steps=12, guidance_interval=interval)
    star = replace(protocol, guidance="cfg-zero")
    assert times_of(star, PATHS["linear"], interval) == times_of(
        protocol, PATHS["linear"], interval
    )


def test_the_published_guidance_is_the_plain_one():
    assert extrapolation_of(Protocol()) is plain


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"guidance": "agp"}, "guidance"),
        ({"apg_bound": 2.0}, "apg_bound is of guidance apg alone"),
        ({"guidance": "cfg-zero", "apg_momentum": 0.1}, "apg_momentum is of guidance apg alone"),
        ({"guidance": "apg", "apg_parallel": 1.5}, "apg_parallel"),
        ({"guidance": "apg", "apg_momentum": -1.0}, "apg_momentum"),
        ({"guidance": "apg", "cfg_scale": 1.0}, "changes nothing where cfg_scale is 1: give --cfg"),
        ({"guidance": "apg", "solver": "ddpm"}, "of velocities, not ddpm"),
    ],
)
def test_settings_that_do_not_go_together_are_refused_in_one_line(settings, message):
    with pytest.raises(SettingError, match=message) as caught:
        Protocol(**settings)
    assert "\n" not in str(caught.value)


def described(**changes):
    model = {"in_channels": 4, "input_size": 32, **changes.pop("model", {})}
    said = {"num_classes": 1000, "path_type": "linear", "latent_space": SD_LATENTS, **changes}
    return SimpleNamespace(model=model, **said)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_classes": 10}, "the guide's classes: 10, the model's: 1000"),
        ({"model": {"in_channels": 3}}, "channels: 3, the model's: 4"),
        ({"model": {"input_size": 64}}, "positions a side: 64, the model's: 32"),
        ({"path_type": "cosine"}, "path: cosine, the model's: linear"),
        ({"latent_space": PIXELS}, "latent space: pixels"),
        ({"latent_space": replace(SD_LATENTS, scale=2.0)}, r"scale 2\.0"),
    ],
)
def test_a_guide_of_other_samples_is_refused_and_says_what_differs(changes, message):
    check_guide(described(), described())
    with pytest.raises(SettingError, match=message) as caught:
        check_guide(described(), described(**changes))
    assert caught.value.field == "guide" and "\n" not in str(caught.value)


def test_decoders_of_one_encoder_are_one_latent_space():
    spaces = (replace(SD_LATENTS, autoencoder=f"sd-vae-ft-{name}") for name in ("ema", "mse"))
    check_guide(*(described(latent_space=space) for space in spaces))


@pytest.mark.parametrize("settings", [{"cfg_scale": 1.0}, {"solver": "ddpm", "num_steps": 5}])
def test_a_guide_that_would_change_nothing_is_refused(settings):
    own = load_model("digits").settings
    with pytest.raises(SettingError, match="guide"):
        check_protocol(replace(HEUN, **settings), own, own)


def test_the_command_writes_down_kind_and_guide_and_refuses_to_go_on_without(repa, tmp_path):
    from repa.checkpoints import read_checkpoint

    guide = tmp_path / "worse.safetensors"
    assert repa("export", "digits", guide)[0] == 0
    common = ("sample", "--model", "digits", "--num", 2, "--steps", 2, "--out", tmp_path / "a.npz")
    options = ("--guide", guide, "--guidance", "apg", "--apg-bound", 3)
    code, _, error = repa(*common, *options)
    assert code == 0, error
    assert f"apg guidance 2 for t in [0, 0.7] away from {guide}" in error
    with np.load(tmp_path / "a.npz") as file:
        manifest = json.loads(str(file["manifest"]))
    assert (manifest["guidance"], manifest["apg_bound"]) == ("apg", 3.0)
    assert manifest["guide"] == "worse.safetensors"
    assert manifest["guide_sha256"] == read_checkpoint(guide).sha256
    code, _, error = repa(*common, "--guidance", "apg", "--apg-bound", 3)
    assert code == 1 and "guide" in error and error.count("\n") == 1


def test_a_guide_that_is_not_there_is_one_line(repa, tmp_path):
    code, _, error = repa("sample", "--guide", "digitz", "--out", tmp_path / "a.npz")
    assert code == 2 and "digits" in error and error.count("\n") == 1
