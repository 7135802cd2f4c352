from itertools import pairwise
from math import log2

import pytest
import torch

from samplers import INTERPOLANTS, initial_noise, sample_sde, step_noise
from samplers.schedule import sde_times

MEAN = 0.7
BOTH = pytest.mark.parametrize("path", INTERPOLANTS)


def gaussian_coefficients(path, t, std):
    """alpha', marginal mean and variance, and dv/dx of the exact velocity of N(MEAN, std^2)."""
    at = INTERPOLANTS[path].coefficients(torch.tensor(t, dtype=torch.float64))
    variance = (at.alpha * std) ** 2 + at.sigma**2
    gain = (at.alpha * at.d_alpha * std**2 + at.sigma * at.d_sigma) / variance
    return at.d_alpha.item(), (at.alpha * MEAN).item(), variance.item(), gain.item()


def gaussian_velocity(path, std):
    def velocity(x, t, guided):
        d_alpha, mean, _, gain = gaussian_coefficients(path, t[0].item(), std)
        return d_alpha * MEAN + gain * (x - mean)

    return velocity


def recursion(path, std, num_steps):
    """Mean and variance before and after the last step, by hand: x is Gaussian all the way.

    The drift is v + t (x - m) / V, so a step multiplies the deviation by 1 + dt (gain + t / V),
    shifts by dt alpha' MEAN, and adds variance 2 t |dt|, except for the last.
    """
    mean, variance, history = 0.0, 1.0, []
    for t, t_next in pairwise(sde_times(num_steps)):
        history.append((mean, variance))
        d_alpha, marginal_mean, marginal_variance, gain = gaussian_coefficients(path, t, std)
        dt = t_next - t
        rate = gain + t / marginal_variance
        mean += dt * (d_alpha * MEAN + rate * (mean - marginal_mean))
        variance *= (1 + dt * rate) ** 2
        variance += 2 * t * -dt if t_next > 0 else 0
    return history[-1], (mean, variance)


class Impulses:
    """Noise and normals that are zero but for one source of randomness in each row.

    For an affine velocity the result is affine in them: row 0, without any, is the mean, and the
    squared differences of the other rows from it add up to the variance, with no sampling error.
    """

    def __init__(self, num_steps):
        self.rows = torch.eye(num_steps + 1, dtype=torch.float64)[:, 1:]
        self.noise = self.rows[:, :1]
        self.steps = []

    def normal(self, step):
        self.steps.append(step)
        return self.rows[:, 1 + step : 2 + step]

    @staticmethod
    def moments(x):
        return x[0].item(), ((x[1:] - x[0]) ** 2).sum().item()


@BOTH
@pytest.mark.parametrize("std", [0.1, 0.5, 2.0])
@pytest.mark.parametrize("num_steps", [1, 2, 7, 60])
def test_mean_and_variance_follow_the_recursion_exactly(path, std, num_steps):
    states = []
    exact = gaussian_velocity(path, std)

    def velocity(x, t, guided):
        states.append(x)
        return exact(x, t, guided)

    impulses = Impulses(num_steps)
    end = sample_sde(
        velocity,
        impulses.noise,
        num_steps=num_steps,
        interpolant=INTERPOLANTS[path],
        normal=impulses.normal,
    )
    before, after = recursion(path, std, num_steps)
    assert impulses.moments(states[-1]) == pytest.approx(before, rel=1e-10, abs=1e-13)
    assert impulses.moments(end) == pytest.approx(after, rel=1e-10, abs=1e-13)
    assert impulses.steps == list(range(num_steps - 1))


@BOTH
def test_mean_and_variance_of_drawn_samples_follow_the_recursion(path):
    std, num_steps, size = 0.5, 20, 40_000
    end = sample_sde(
        gaussian_velocity(path, std),
        initial_noise(3, [0], [size]).double(),
        num_steps=num_steps,
        interpolant=INTERPOLANTS[path],
        normal=lambda step: step_noise(3, [0], step, [size]),
    )
    _, (mean, variance) = recursion(path, std, num_steps)
    # Five standard errors: of a mean, sqrt(V / n); of a Gaussian's variance, V sqrt(2 / n).
    assert end.mean().item() == pytest.approx(mean, abs=5 * (variance / size) ** 0.5)
    assert end.var().item() == pytest.approx(variance, rel=5 * (2 / size) ** 0.5)


@BOTH
@pytest.mark.parametrize("std", [0.1, 0.5])
def test_recursion_approaches_the_marginals_with_order_one_before_its_last_step(path, std):
    _, exact_mean, exact_variance, _ = gaussian_coefficients(path, 0.04, std)
    mean_errors, variance_errors = [], []
    for num_steps in (1001, 2001, 4001):
        (mean, variance), _ = recursion(path, std, num_steps)
        mean_errors.append(abs(mean - exact_mean))
        variance_errors.append(abs(variance - exact_variance))
    assert order_of_last(variance_errors) == pytest.approx(1, abs=0.05)
    if path == "linear":  # The mean falls on a straight line, which Euler's steps follow exactly.
        assert max(mean_errors) < 1e-12
    else:
        assert order_of_last(mean_errors) == pytest.approx(1, abs=0.05)


def order_of_last(errors):
    return log2(errors[-2] / errors[-1])


@pytest.mark.parametrize(("std", "ratio"), [(0.5, 0.978), (0.1, 0.60)])
def test_published_protocol_ends_with_too_little_variance(std, ratio):
    """250 steps, the last one long and without noise: worse, the narrower the data."""
    _, (_, variance) = recursion("linear", std, 250)
    assert variance / std**2 == pytest.approx(ratio, abs=0.005)


def test_times_are_those_of_the_published_schedule():
    times = sde_times(250)
    assert len(times) == 251
    assert (times[0], times[249], times[250]) == (1.0, 0.04, 0.0)
    steps = torch.tensor([t - t_next for t, t_next in pairwise(times[:250])])
    torch.testing.assert_close(steps, torch.full_like(steps, 0.96 / 249))


def test_published_protocol_guides_172_of_250_steps():
    flags = []

    def velocity(x, t, guided):
        flags.append(guided)
        return x

    noise = torch.zeros(1, 1)
    sample_sde(
        velocity,
        noise,
        num_steps=250,
        interpolant=INTERPOLANTS["linear"],
        guidance_interval=(0.0, 0.7),
        normal=lambda step: noise,
    )
    # Steps of 0.96 / 249 from 1: the first 78 start above 0.7, as the step 0.3 / 0.003855 = 77.8.
    assert flags == [False] * 78 + [True] * 172


def test_velocity_sees_the_dtype_of_the_noise_and_the_state_is_float64():
    seen = set()

    def velocity(x, t, guided):
        seen.update([(x.dtype, tuple(x.shape)), (t.dtype, tuple(t.shape))])
        return x

    noise = torch.ones(3, 4)
    end = sample_sde(
        velocity,
        noise,
        num_steps=3,
        interpolant=INTERPOLANTS["linear"],
        normal=lambda step: noise,
    )
    assert seen == {(torch.float32, (3, 4)), (torch.float32, (3,))}
    assert end.dtype == torch.float64


def test_no_gradient_is_recorded_and_the_noise_is_left_alone():
    weight = torch.ones((), requires_grad=True)
    noise = torch.ones(3, 4)
    end = sample_sde(
        lambda x, t, guided: weight * x,
        noise,
        num_steps=3,
        interpolant=INTERPOLANTS["linear"],
        normal=lambda step: torch.ones(3, 4),
    )
    assert not end.requires_grad
    assert torch.equal(noise, torch.ones(3, 4))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"num_steps": 0}, r"num_steps must be at least 1, got 0\."),
        (
            {"num_steps": None},
            "exactly one of num_steps and times .* got None and None",
        ),
        ({"times": [1.0, 0.0]}, "exactly one of num_steps and times must be given, got 4 and"),
        ({"num_steps": None, "times": [1.0, 0.5]}, "times must be two or more that fall from at"),
        ({"guidance_interval": (0.7, 0.2)}, r"0 <= low <= high <= 1, got \(0\.7, 0\.2\)"),
        ({"normal": lambda step: torch.zeros(4)}, r"noise's shape \(3, 4\), got \(4,\)"),
        ({"normal": lambda step: torch.zeros(1, 4)}, r"noise's shape \(3, 4\), got \(1, 4\)"),
    ],
)
def test_wrong_argument_is_refused_with_the_rule_and_the_value(wrong, message):
    settings = {
        "num_steps": 4,
        "interpolant": INTERPOLANTS["linear"],
        "normal": lambda step: torch.zeros(3, 4),
    }
    with pytest.raises(ValueError, match=message):
        sample_sde(lambda x, t, guided: x, torch.zeros(3, 4), **{**settings, **wrong})


def test_published_times_given_by_hand_are_the_default_to_the_bit():
    settings = {
        "interpolant": INTERPOLANTS["cosine"],
        "guidance_interval": (0.0, 0.7),
        "normal": lambda step: step_noise(5, range(3), step, [4]),
    }
    velocity, noise = gaussian_velocity("cosine", 0.5), initial_noise(5, range(3), [4])
    default = sample_sde(velocity, noise, num_steps=9, **settings)
    given = sample_sde(velocity, noise, times=sde_times(9), **settings)
    assert torch.equal(given, default)


def test_steps_go_where_the_times_say_and_the_last_one_adds_no_noise():
    """By hand for velocity 0 on the straight path, where the score is -(x / t)."""
    steps = []

    def normal(step):
        steps.append(step)
        return torch.full((2, 1), 0.5, dtype=torch.float64)

    noise = torch.tensor([[1.0], [-2.0]], dtype=torch.float64)
    end = sample_sde(
        lambda x, t, guided: torch.zeros_like(x),
        noise,
        times=[1.0, 0.75, 0.25, 0.0],
        interpolant=INTERPOLANTS["linear"],
        normal=normal,
    )
    # The drift is 0 - t * -(x / t) = x.
    x = noise * (1 - 0.25) + (2 * 1.0 * 0.25) ** 0.5 * 0.5
    x = x * (1 - 0.5) + (2 * 0.75 * 0.5) ** 0.5 * 0.5
    torch.testing.assert_close(end, x * (1 - 0.25), atol=1e-14, rtol=0)
    assert steps == [0, 1]
