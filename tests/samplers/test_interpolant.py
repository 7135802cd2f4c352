from typing import get_args

import pytest
import torch

from samplers import INTERPOLANTS, CosineInterpolant, LinearInterpolant, score_from_velocity
from samplers.names import InterpolantName

BOTH = pytest.mark.parametrize("interpolant", INTERPOLANTS.values(), ids=INTERPOLANTS.keys())
TIMES = torch.linspace(0, 1, 101, dtype=torch.float64)


@BOTH
def test_path_starts_at_data_and_ends_at_noise(interpolant):
    ends = interpolant.coefficients(torch.tensor([0.0, 1.0], dtype=torch.float64))
    torch.testing.assert_close(ends.alpha, torch.tensor([1.0, 0.0], dtype=torch.float64))
    torch.testing.assert_close(ends.sigma, torch.tensor([0.0, 1.0], dtype=torch.float64))


def test_linear_coefficients_sum_to_one():
    at = LinearInterpolant().coefficients(TIMES)
    torch.testing.assert_close(at.alpha + at.sigma, torch.ones_like(TIMES))


def test_cosine_coefficients_preserve_variance():
    at = CosineInterpolant().coefficients(TIMES)
    torch.testing.assert_close(at.alpha**2 + at.sigma**2, torch.ones_like(TIMES))
    assert at.alpha[50].item() == pytest.approx(0.5**0.5)


@BOTH
def test_derivatives_are_those_of_the_coefficients(interpolant):
    for name in ("alpha", "sigma"):
        times = TIMES.clone().requires_grad_()
        value = getattr(interpolant.coefficients(times), name)
        (derivative,) = torch.autograd.grad(value.sum(), times)
        expected = getattr(interpolant.coefficients(TIMES), f"d_{name}")
        torch.testing.assert_close(expected, derivative)


@pytest.mark.parametrize("name", ["loss_a", "loss_b"])
@pytest.mark.parametrize("weighting", ["uniform", "lognormal"])
@BOTH
def test_point_and_velocity_equal_those_of_the_reference_loss(golden, interpolant, name, weighting):
    arrays, _ = golden(name)
    path = "linear" if isinstance(interpolant, LinearInterpolant) else "cosine"
    case = {
        key.removeprefix(f"{path}_{weighting}/"): torch.from_numpy(array)
        for key, array in arrays.items()
        if key.startswith(f"{path}_{weighting}/") and array.ndim > 0
    }
    data = torch.from_numpy(arrays["images"])
    ends = data, case["noises"], case["time_input"]
    torch.testing.assert_close(interpolant.interpolate(*ends), case["model_input"])
    squared_error = (case["model_output"] - interpolant.velocity(*ends)) ** 2
    torch.testing.assert_close(squared_error.flatten(1).mean(1), case["denoising_loss"])


@BOTH
def test_each_row_follows_its_own_time(interpolant):
    data, noise = torch.randn(2, 3, 4, 2, 2, dtype=torch.float64)
    t = torch.tensor([0.0, 1.0, 0.3], dtype=torch.float64)
    x = interpolant.interpolate(data, noise, t)
    torch.testing.assert_close(x[0], data[0])
    torch.testing.assert_close(x[1], noise[1])
    torch.testing.assert_close(x[2:], interpolant.interpolate(data[2:], noise[2:], t[2:]))


@BOTH
@pytest.mark.parametrize("one_time_for_all", [True, False])
def test_score_of_gaussian_data_is_minus_the_deviation_over_the_variance(
    interpolant, one_time_for_all
):
    mean, std = 0.7, 0.5
    x = torch.linspace(-2, 2, 21, dtype=torch.float64).reshape(7, 3)
    t = torch.linspace(0.04, 1, 7, dtype=torch.float64)
    t = t[2] if one_time_for_all else t
    at = interpolant.coefficients(t if one_time_for_all else t[:, None])
    deviation = x - at.alpha * mean
    variance = (at.alpha * std) ** 2 + at.sigma**2
    growth = (at.alpha * at.d_alpha * std**2 + at.sigma * at.d_sigma) / variance
    velocity = at.d_alpha * mean + growth * deviation
    score = score_from_velocity(velocity, x, t, interpolant)
    torch.testing.assert_close(score, -deviation / variance)


def test_every_named_path_is_there():
    assert tuple(INTERPOLANTS) == get_args(InterpolantName)
