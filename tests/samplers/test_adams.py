from itertools import pairwise
from math import log2

import mixtures
import pytest
import torch

from samplers import sample_adams
from samplers.multistep import combined, integrals

NOISE = torch.linspace(0.5, 1.0, 12, dtype=torch.float64).reshape(3, 4)
ORDERS = pytest.mark.parametrize("order", [1, 2, 3, 4])


def polynomial(degree):
    """Velocity of x = t^(degree + 1), which the step's polynomial meets exactly."""
    return lambda x, t, guided: ((degree + 1) * t**degree).reshape(-1, 1).expand_as(x)


@pytest.mark.parametrize(
    ("order", "published"), [(2, [3 / 2, -1 / 2]), (4, [55 / 24, -59 / 24, 37 / 24, -9 / 24])]
)
def test_equal_steps_have_the_published_coefficients(order, published):
    places = [0.5 + 0.1 * k for k in range(order)]
    shares = [share / -0.1 for share in integrals(places, 0.5, 0.4)]
    assert shares == pytest.approx(published, abs=1e-12)


@ORDERS
@pytest.mark.parametrize("lengths", [(1.0, 1.0, 1.0, 1.0), (0.4, 1.7, 0.9, 2.0)])
def test_a_step_from_exact_history_errs_by_one_order_more_whatever_the_steps(order, lengths):
    """On x = exp(1 / t), whose velocity is -x / t^2."""

    def exact(t):
        return torch.exp(1 / torch.tensor(t, dtype=torch.float64))

    errors = []
    for h in (0.01, 0.005):
        places, t = [], 0.9
        for length in lengths[:order]:
            places.append(t)
            t += length * h
        slopes = [-exact(t) / t**2 for t in places]
        found = exact(0.9) + combined(integrals(places, 0.9, 0.9 - h), slopes)
        errors.append(abs(found - exact(0.9 - h)).item())
    assert log2(errors[0] / errors[1]) == pytest.approx(order + 1, abs=0.2)


@pytest.mark.parametrize("degree", [0, 1, 2, 3])
def test_velocities_of_degree_below_the_order_are_met_exactly_once_the_history_is_full(degree):
    times = [1.0, 0.9, 0.85, 0.6, 0.4, 0.1, 0.0]
    states = []

    def velocity(x, t, guided):
        states.append(x)
        return polynomial(degree)(x, t, guided)

    end = sample_adams(velocity, NOISE, times=times, order=4)
    full = degree  # steps of a lower order than the velocity's degree needs
    torch.testing.assert_close(
        end - states[full], torch.full_like(end, -(times[full] ** (degree + 1))), atol=1e-12, rtol=0
    )


@pytest.mark.parametrize("order", [2, 4])
def test_more_steps_approach_the_exact_path_on_unequal_steps(order):
    first, exact = mixtures.ladder("linear", 1.0, 0.0)
    errors = []
    for num_steps in (20, 40):
        times = [t**1.5 for t in torch.linspace(1, 0, num_steps + 1, dtype=torch.float64).tolist()]
        end = sample_adams(mixtures.velocity(), first, times=times, order=order)
        errors.append((end - exact).abs().max().item())
    assert log2(errors[0] / errors[1]) > 1.8
    assert errors[1] < 0.01


@ORDERS
def test_history_restarts_where_guidance_changes_and_no_step_straddles(order):
    """Velocity 1 with guidance and 0 without: the end tells how long guidance was on."""
    asked = []

    def velocity(x, t, guided):
        asked.append((t[0].item(), guided))
        return torch.full_like(x, float(guided))

    for low, high in [(0.23, 0.71), (0.0, 0.7), (0.31, 1.0), (0.0, 1.0), (0.5, 0.5)]:
        asked.clear()
        end = sample_adams(
            velocity, NOISE, num_steps=10, order=order, guidance_interval=(low, high)
        )
        torch.testing.assert_close(NOISE - end, torch.full_like(NOISE, high - low))
        times = [t for t, _ in asked] + [0.0]
        flags = [low <= after and t <= high for t, after in pairwise(times)]
        assert len(asked) == 10 and [flag for _, flag in asked] == flags


def test_first_order_is_euler_and_velocities_are_asked_in_the_noise_s_dtype():
    seen, told = set(), []

    def velocity(x, t, guided):
        seen.add((x.dtype, t.dtype))
        return x * t.reshape(-1, 1)

    noise = NOISE.float()
    end = sample_adams(velocity, noise, times=[1.0, 0.5, 0.0], order=1, on_time=told.append)
    x = noise.double() * (1 - 0.5)
    torch.testing.assert_close(end, x * (1 - 0.5 * 0.5), atol=1e-7, rtol=0)
    assert seen == {(torch.float32, torch.float32)} and told == [1.0, 0.5]
    assert end.dtype == torch.float64 and torch.equal(noise, NOISE.float())


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"order": 0}, "order must be from 1 to 4 in Adams-Bashforth, got 0"),
        ({"order": 5}, "order must be from 1 to 4 in Adams-Bashforth, got 5"),
        ({"num_steps": 0}, "num_steps must be at least 1, got 0"),
        ({"times": [1.0, 0.0]}, "exactly one of num_steps and times"),
        ({"guidance_interval": (0.7, 0.2)}, "0 <= low <= high <= 1"),
    ],
)
def test_wrong_argument_is_refused_with_the_rule_and_the_value(wrong, message):
    with pytest.raises(ValueError, match=message):
        sample_adams(polynomial(0), NOISE, **{"num_steps": 4, "order": 2, **wrong})
