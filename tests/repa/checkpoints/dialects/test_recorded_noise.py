"""Dialects that predict noise against what their own code recorded (tests/goldens/dialects)."""

import functools
import json

import numpy as np
import pytest
import torch
from golden_files import GOLDENS_DIR

from repa.checkpoints import load_model
from samplers import (
    PATHS,
    classifier_free_output,
    classifier_free_velocity,
    sample_ddpm,
    sample_ode,
)
from samplers.ddpm import _schedule, respaced_times

FOLDER = GOLDENS_DIR / "dialects"
DIALECTS = {"dit_release": "dit", "dit_train": "dit", "sra_dit": "sra"}
OUTPUT = 2e-5  # absolute; the recording itself is good to 2e-6
SAMPLE = 5e-5  # of the largest value of a sample

EVERY = pytest.mark.parametrize("name", DIALECTS)


@functools.cache
def recorded(name):
    with np.load(FOLDER / f"{name}.npz", allow_pickle=False) as file:
        arrays = {key: file[key] for key in file.files}
    return arrays, json.loads(str(arrays.pop("meta_json")))


@functools.cache
def load(name):
    said = {"dialect": "dit"} if name == "dit_release" else {}
    heads = recorded(name)[1]["config"]["num_heads"]
    return load_model(FOLDER / f"{name}.pt", num_heads=heads, **said)


def outputs_of(name):
    """Raw output and the recorded one, at whole times."""
    arrays, _ = recorded(name)
    loaded = load(name)
    x, labels = torch.from_numpy(arrays["x"]), torch.from_numpy(arrays["y"])
    for k, expected in zip(arrays["t_native"], arrays["out_native"], strict=True):
        with torch.no_grad():
            found = loaded.model(x, torch.full((len(x),), int(k)), labels)
        yield found, torch.from_numpy(expected)


@EVERY
def test_raw_output_is_the_recorded_one_at_whole_times(name):
    loaded = load(name)
    assert (loaded.dialect, loaded.prediction) == (DIALECTS[name], "noise")
    assert loaded.settings.guided_channels == 3
    pairs = list(outputs_of(name))
    assert len(pairs) == len(recorded(name)[0]["t_native"])
    for found, expected in pairs:
        assert found.shape == expected.shape
        torch.testing.assert_close(found, expected, atol=OUTPUT, rtol=0)


def cases_of(name):
    return [case for case in recorded(name)[1]["cases"] if "ddpm" in case]


def sampled(loaded, name, case):
    arrays, meta = recorded(name)
    said = meta["cases"][case]
    key = f"noise_seq/{case.split('/')[1]}"
    normals = torch.from_numpy(arrays[key if key in arrays else "noise_seq/ddpm8"])
    labels, scale = torch.from_numpy(arrays["labels"]), said["cfg_scale"]
    network, channels = loaded.model, loaded.settings.guided_channels
    output = classifier_free_output(
        network, labels, network.null_label, scale, guided_channels=channels
    )
    noise = torch.from_numpy(arrays["noise"])
    return sample_ddpm(output, noise, num_steps=8, normal=lambda step: normals[step])


@pytest.mark.parametrize(("name", "case"), [(n, case) for n in DIALECTS for case in cases_of(n)])
def test_ddpm_with_the_recorded_noise_gives_the_recorded_sample(name, case):
    found = sampled(load(name), name, case)
    expected = torch.from_numpy(recorded(name)[0][case]).double()
    bound = SAMPLE * expected.abs().max().item()
    torch.testing.assert_close(found, expected, atol=bound, rtol=0)


@EVERY
def test_visited_times_are_the_recorded_ones(name):
    assert respaced_times(8) == recorded(name)[0]["timestep_map_8"].tolist()


@pytest.mark.parametrize("name", ["dit_release", "dit_train"])
def test_path_meets_the_recorded_signal_at_every_time(name):
    t = torch.arange(1, 1001, dtype=torch.float64) / 1000
    at = PATHS["ddpm"].coefficients(t)
    signal = torch.from_numpy(recorded(name)[0]["alphas_cumprod_1000"])
    torch.testing.assert_close(at.alpha**2, signal, atol=0, rtol=1e-9)
    torch.testing.assert_close(at.alpha**2 + at.sigma**2, torch.ones_like(t))


def ddim(network, noise, labels, num_steps):
    """DDIM without noise, by hand: the data that the noise implies, carried to the time before."""
    signal = torch.from_numpy(recorded("dit_train")[0]["alphas_cumprod_1000"])
    times = respaced_times(num_steps)
    x = noise.double()
    for place in reversed(range(num_steps)):
        k = times[place]
        now, before = signal[k], signal[times[place - 1]] if place else torch.tensor(1.0)
        with torch.no_grad():
            eps = network(x.float(), torch.full((len(x),), k), labels)[:, :4].double()
        data = (x - (1 - now).sqrt() * eps) / now.sqrt()
        x = before.sqrt() * data + (1 - before).sqrt() * eps
    return x


@pytest.mark.parametrize("name", ["dit_release", "dit_train"])
def test_ddim_by_hand_is_the_recorded_one(name):
    arrays, _ = recorded(name)
    noise, labels = torch.from_numpy(arrays["noise"]), torch.from_numpy(arrays["labels"])
    found = ddim(load(name).model, noise, labels, 8)
    expected = torch.from_numpy(arrays["sample/ddim8_cfg1.0"]).double()
    torch.testing.assert_close(found, expected, atol=SAMPLE * expected.abs().max().item(), rtol=0)


def test_solvers_of_the_velocity_end_where_ddim_of_all_times_does():
    # Either end is known to within what twice the steps moved it: DDIM is of first order, and
    # Heun's error falls faster.
    arrays, _ = recorded("dit_train")
    loaded = load("dit_train")
    noise, labels = (torch.from_numpy(arrays[name][:1]) for name in ("noise", "labels"))
    coarse, fine = (ddim(loaded.model, noise, labels, steps) for steps in (500, 1000))
    velocity = classifier_free_velocity(loaded.velocity_model, labels, loaded.model.null_label, 1.0)
    ends = [sample_ode(velocity, noise, num_steps=steps, method="heun") for steps in (200, 400)]
    bound = (fine - coarse).abs().max() + (ends[1] - ends[0]).abs().max()
    assert bound < 0.03 * fine.abs().max()
    assert (ends[1] - fine).abs().max() < bound


@pytest.mark.parametrize("name", ["dit_release", "dit_train"])
def test_velocity_stands_for_the_noise_recorded_at_the_time_that_it_is_asked_for(name):
    arrays, _ = recorded(name)
    loaded = load(name)
    x, labels = torch.from_numpy(arrays["x"]), torch.from_numpy(arrays["y"])
    for k, expected in zip(arrays["t_native"][1:], arrays["out_native"][1:], strict=True):
        t = torch.full((len(x),), (int(k) + 1) / 1000)
        with torch.no_grad():
            velocity = loaded.velocity_model(x, t, labels).double()
        at = PATHS["ddpm"].coefficients(t[0].double())
        share = at.d_alpha / at.alpha
        found = (velocity - share * x) / (at.d_sigma - share * at.sigma)
        # 1000 t is a whole number to within 6e-5 in float32; a time off by one is off by 0.01.
        torch.testing.assert_close(
            found, torch.from_numpy(expected[:, :4]).double(), atol=1e-3, rtol=0
        )


@pytest.mark.parametrize("name", ["dit_release", "dit_train"])
def test_steps_between_visited_times_have_the_recorded_signal_and_least_variance(name):
    arrays, _ = recorded(name)
    schedule = _schedule(respaced_times(8))
    for found, key in (
        (schedule.signal, "respaced_alphas_cumprod_8"),
        (schedule.log_posterior, "posterior_log_variance_clipped_8"),
    ):
        torch.testing.assert_close(found, torch.from_numpy(arrays[key]), atol=0, rtol=1e-9)
