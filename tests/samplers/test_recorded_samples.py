"""Whole samplers against values recorded from REPA: results, model calls, rows and times."""

from math import cos, pi, sin

import numpy as np
import pytest
import torch

from samplers import INTERPOLANTS, classifier_free_velocity, sample_ode, sample_sde


class RecordingModel:
    """Passes calls on and keeps the number of rows and the time of each."""

    def __init__(self, model):
        self.model, self.rows, self.times = model, [], []

    def __call__(self, x, t, labels):
        assert x.dtype == t.dtype
        assert (t == t[0]).all()
        self.rows.append(len(x))
        self.times.append(t[0].item())
        return self.model(x, t, labels)


def gaussian_model(mean, std, path):
    """The exact velocity of data ~ N(mean[label], std[label]^2), from its definition."""

    def model(x, t, labels):
        time = t[0].item()
        if path == "linear":
            alpha, sigma, d_alpha, d_sigma = 1 - time, time, -1.0, 1.0
        else:
            alpha, sigma = cos(time * pi / 2), sin(time * pi / 2)
            d_alpha, d_sigma = -sigma * pi / 2, alpha * pi / 2
        variance = (std[labels] ** 2).reshape(-1, 1, 1, 1)
        deviation = x - alpha * mean[labels]
        gain = (alpha * d_alpha * variance + sigma * d_sigma) / (alpha**2 * variance + sigma**2)
        return d_alpha * mean[labels] + gain * deviation

    return model


def run_case(case, model, arrays, null_label):
    noise = torch.from_numpy(arrays["latents"])
    velocity = classifier_free_velocity(
        model, torch.from_numpy(arrays["y"]), null_label, case["cfg_scale"]
    )
    settings = {
        "num_steps": case["num_steps"],
        "guidance_interval": (case["guidance_low"], case["guidance_high"]),
    }
    if case["sampler"] != "sde":
        return sample_ode(velocity, noise, method=case["sampler"], **settings)
    normals = torch.from_numpy(arrays[f"noise_{case['num_steps']}"])
    interpolant = INTERPOLANTS[case["path"]]
    return sample_sde(
        velocity, noise, interpolant=interpolant, normal=lambda step: normals[step], **settings
    )


def check_cases(arrays, meta, build_model, atol, time_rtol):
    for case in meta["cases"]:
        model = RecordingModel(build_model(case["path"]))
        out = run_case(case, model, arrays, meta["null_label"])
        expected = torch.from_numpy(arrays[f"out/{case['id']}"])
        torch.testing.assert_close(out, expected, atol=atol, rtol=0, msg=str(case))
        assert model.rows == case["rows_per_call"], case
        assert len(model.rows) == case["n_forward"], case
        np.testing.assert_allclose(
            model.times, case["t_per_call"], rtol=time_rtol, err_msg=str(case)
        )


def test_every_analytic_case_equals_the_reference(golden):
    arrays, meta = golden("sampler_analytic")
    assert len(meta["cases"]) == 84
    mean, std = (torch.from_numpy(arrays[key]) for key in ("mean", "std"))
    check_cases(
        arrays, meta, lambda path: gaussian_model(mean, std, path), atol=1e-10, time_rtol=1e-15
    )


def test_every_float64_network_case_equals_the_reference(golden, golden_sit):
    arrays, meta = golden("sampler_tiny_f64")
    assert len(meta["cases"]) == 9
    model = golden_sit("sit_c").double()
    check_cases(arrays, meta, lambda _: model, atol=1e-10, time_rtol=1e-15)


@pytest.mark.parametrize(
    ("name", "network"), [("sampler_tiny_ode", "sit_b"), ("sampler_tiny_sde", "sit_c")]
)
def test_every_float32_network_case_equals_the_reference(golden, golden_sit, name, network):
    arrays, meta = golden(name)
    assert len(meta["cases"]) == 28
    model = golden_sit(network)
    check_cases(arrays, meta, lambda _: model, atol=5e-5, time_rtol=1e-7)
