"""Every dialect against what its repository's own code recorded (tests/goldens/dialects)."""

import functools
import json
import re

import numpy as np
import pytest
import torch
from golden_files import GOLDENS_DIR

from repa.checkpoints import load_model
from repa.errors import CheckpointFormatError
from samplers import (
    INTERPOLANTS,
    classifier_free_velocity,
    internally_guided,
    sample_ode,
    sample_sde,
)

FOLDER = GOLDENS_DIR / "dialects"
VELOCITY = 2e-5  # absolute, at velocities of up to 3.6; the recording itself is good to 2e-6
SAMPLE = 5e-5  # of the largest value of a sample

DIALECTS = {
    "sit_release": "sit",
    "sit_train": "sit",
    "repa_release": "repa",
    "repa_train": "repa",
    "repa_legacy": "repa",
    "repa_qknorm": "repa",
    "irepa_conv": "irepa",
    "irepa_mlp": "irepa",
    "repae_e2e": "repa-e",
    "repae_ldm": "repa-e",
    "sra_release": "sra",
    "sra_train": "sra",
    "sra_dts_as": "sra",
    "ig_train": "internal-guidance",
    "haste_train": "haste",
    "selfflow_release": "self-flow",
    "selfflow_wrapped": "self-flow",
}
SAID = {"sit_release": {"dialect": "sit"}, "ig_train": {"encoder_depth": 2}}
"""What a file does not tell of itself."""

EVERY = pytest.mark.parametrize("name", DIALECTS)


@functools.cache
def load(name, **hints):
    heads = recorded(name)[1]["config"]["num_heads"]
    said = {**SAID.get(name, {}), **hints}
    if (file := FOLDER / f"{name}_latents_stats.pt").exists():
        said.setdefault("latents", file)
    return load_model(FOLDER / f"{name}.pt", num_heads=heads, **said)


@functools.cache
def recorded(name):
    with np.load(FOLDER / f"{name}.npz", allow_pickle=False) as file:
        arrays = {key: file[key] for key in file.files}
    return arrays, json.loads(str(arrays.pop("meta_json")))


def tensor(array):
    return torch.from_numpy(np.asarray(array))


def velocities_of(name):
    """Velocity and the recorded one, at every time with labels and without."""
    arrays, _ = recorded(name)
    loaded = load(name)
    x, labels = tensor(arrays["x"]), tensor(arrays["y"])
    null = torch.full_like(labels, loaded.model.null_label)
    cases = [(arrays["t_common"], arrays["v_common"], labels)]
    if "v_common_null" in arrays:
        cases.append((arrays["t_common"], arrays["v_common_null"], null))
    else:
        cases.append((1 - arrays["t_native"], -arrays["out_native_null"], null))
    for times, velocities, asked in cases:
        for t, velocity in zip(times, velocities, strict=True):
            with torch.no_grad():
                yield loaded.model(x, torch.full((len(x),), float(t)), asked), tensor(velocity)


@EVERY
def test_velocity_is_the_recorded_one_at_every_time_with_labels_and_without(name):
    assert (load(name).dialect, load(name).prediction) == (DIALECTS[name], "velocity")
    pairs = list(velocities_of(name))
    assert len(pairs) == 10  # five times, twice
    for found, velocity in pairs:
        assert found.shape == velocity.shape
        torch.testing.assert_close(found, velocity, atol=VELOCITY, rtol=0)


def case_of(name, meta):
    """A recorded case as arguments: solver, steps, scale and interval."""
    case = meta["cases"][name]
    low, high = case.get("guidance_low", 0.0), case.get("guidance_high", 1.0)
    steps, scale = case["num_steps"], case.get("cfg_scale", 1.0)
    kind = case.get("sampler", case.get("mode", "sde")).lower()
    if "mode" in case:  # SiT counts the times, not the steps between them
        steps -= case["mode"] == "ODE"
    method = "heun" if case.get("heun") else case.get("sampling_method", "euler")
    solver = "sde" if "maruyama" in kind or kind == "sde" else method
    return solver, steps, scale, (low, high)


def noises_of(name, arrays, case):
    key = f"noise_seq/{name.split('/')[1]}"
    key = key if key in arrays else re.sub("/sde_euler_", "/sde_", key)
    found = tensor(arrays[key if key in arrays else "noise_seq/7"])
    return lambda step: found[step, : len(arrays["noise"])]


def samples_of(name):
    """Every recorded case that this file's samplers cover."""
    cases = recorded(name)[1]["cases"]
    return list(cases)


def sampled(loaded, name, case):
    arrays, meta = recorded(name)
    solver, steps, scale, interval = case_of(case, meta)
    noise, labels = tensor(arrays["noise"]), tensor(arrays["labels"])
    model, said = loaded.model, meta["cases"][case]
    if "sg_scale" in said:
        times = said.get("sg_guidance_low", 0.0), said.get("sg_guidance_high", 1.0)
        model = internally_guided(model.velocities, said["sg_scale"], times)
    velocity = classifier_free_velocity(
        model,
        labels,
        loaded.model.null_label,
        scale,
        guided_channels=loaded.settings.guided_channels,
    )
    shared = {"num_steps": steps, "guidance_interval": interval}
    if solver == "sde":
        path, normal = INTERPOLANTS["linear"], noises_of(case, arrays, meta["cases"][case])
        return sample_sde(velocity, noise, interpolant=path, normal=normal, **shared)
    return sample_ode(velocity, noise, method=solver, **shared)


@pytest.mark.parametrize(
    ("name", "case"), [(name, case) for name in DIALECTS for case in samples_of(name)]
)
def test_whole_samples_with_the_recorded_noise_are_the_recorded_ones(name, case):
    arrays, _ = recorded(name)
    found, expected = sampled(load(name), name, case), tensor(arrays[case]).double()
    bound = SAMPLE * expected.abs().max().item()
    torch.testing.assert_close(found, expected, atol=bound, rtol=0)


@pytest.mark.parametrize("name", [n for n in DIALECTS if n.startswith(("repa_", "irepa", "haste"))])
def test_projected_features_are_the_recorded_ones(name):
    arrays, _ = recorded(name)
    expected = [key for key in sorted(arrays) if key.startswith("zs_t0.5/")]
    # A bare file does not tell the depth.
    said = {"encoder_depth": 2} if name == "repa_release" else {}
    model = load(name, **said).model
    assert len(model.projectors) == len(expected) > 0
    x, labels = tensor(arrays["x"]), tensor(arrays["y"])
    with torch.no_grad():
        _, features = model(x, torch.full((len(x),), 0.5), labels, return_features=True)
    for key, found in zip(expected, features, strict=True):
        torch.testing.assert_close(found, tensor(arrays[key]), atol=VELOCITY, rtol=0)


@pytest.mark.parametrize("name", [name for name in DIALECTS if name.startswith(("irepa", "repae"))])
def test_latents_after_the_dialect_s_own_scaling_are_the_recorded_ones(name):
    arrays, _ = recorded(name)
    space = load(name).latent_space
    for key in (key for key in arrays if key.startswith("vae_latents/")):
        case = key.replace("vae_latents", "sample")
        found = space.to_autoencoder(tensor(arrays[case]).float())
        bound = 1e-6 * np.abs(arrays[key]).max()  # float32 of the same two operations
        torch.testing.assert_close(found, tensor(arrays[key]), atol=float(bound), rtol=0)


def test_middle_head_predicts_the_recorded_velocity_at_every_time():
    arrays, _ = recorded("ig_train")
    x, labels = tensor(arrays["x"]), tensor(arrays["y"])
    for t, expected in zip(arrays["t_common"], arrays["v_internal_common"], strict=True):
        with torch.no_grad():
            _, found = load("ig_train").model.velocities(x, torch.full((4,), float(t)), labels)
        torch.testing.assert_close(found, tensor(expected), atol=VELOCITY, rtol=0)


def test_place_of_the_middle_head_is_assumed_in_words_unless_it_is_said():
    assert "head after block 3" in load_model(FOLDER / "ig_train.pt", num_heads=4).assumed[-1]
    assert not any("head" in taken for taken in load("ig_train").assumed)
    with pytest.raises(CheckpointFormatError, match="has 3 blocks, so nothing after block 9"):
        load("ig_train", encoder_depth=9)
