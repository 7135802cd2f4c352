from math import log2

import pytest
import torch

from samplers import ADAPTIVE_METHODS, FIXED_STEP_METHODS, ODE_METHODS, sample_ode
from samplers.schedule import ode_times

NOISE = torch.linspace(0.5, 1.0, 12, dtype=torch.float64).reshape(3, 4)


def quadratic_velocity(x, t, guided):
    """dx/dt = -t x^2, so that x(0) = 1 / (1 / x(1) - 1/2): not linear in x, not symmetric in t."""
    return -t.reshape(-1, 1) * x**2


QUADRATIC_END = 1 / (1 / NOISE - 0.5)


class RecordingVelocity:
    def __init__(self, velocity=quadratic_velocity):
        self.velocity, self.times, self.flags = velocity, [], []

    def __call__(self, x, t, guided):
        self.times.append(t[0].item())
        self.flags.append(guided)
        return self.velocity(x, t, guided)


def quadratic_error(**settings):
    end = sample_ode(quadratic_velocity, NOISE, **settings)
    return (end - QUADRATIC_END).abs().max().item()


@pytest.mark.parametrize(
    ("method", "order", "num_steps"),
    [
        ("euler", 1, 200),
        ("heun", 2, 100),
        ("midpoint", 2, 100),
        ("heun2", 2, 100),
        ("heun3", 3, 50),
        ("rk4", 4, 25),
        ("explicit_adams", 3, 100),
        ("implicit_adams", 4, 50),
    ],
)
def test_fixed_step_method_converges_with_its_order(method, order, num_steps):
    # The tolerance is for implicit_adams alone: its iteration must not add to the error.
    coarse, fine = (
        quadratic_error(num_steps=n, method=method, rtol=1e-8, atol=1e-8)
        for n in (num_steps, 2 * num_steps)
    )
    assert log2(coarse / fine) == pytest.approx(order, abs=0.15)


@pytest.mark.parametrize("method", ADAPTIVE_METHODS)
def test_adaptive_method_meets_tighter_tolerances_with_smaller_errors(method):
    errors = [
        quadratic_error(num_steps=None, method=method, rtol=tolerance, atol=tolerance)
        for tolerance in (1e-3, 1e-5, 1e-7)
    ]
    # A method that holds its local error of order p at the tolerance ends with an error of about
    # tolerance^(p / (p + 1)): the square root is the worst case, p = 1.
    assert errors[0] < 1e-3**0.5
    assert errors[1] < 1e-5**0.5
    assert errors[2] < 1e-7**0.5
    assert errors[2] < errors[0] / 50


def test_heun_ends_with_an_euler_step():
    velocity = RecordingVelocity()
    sample_ode(velocity, NOISE, num_steps=4, method="heun")
    assert velocity.times == [1.0, 0.75, 0.75, 0.5, 0.5, 0.25, 0.25]


@pytest.mark.parametrize(
    ("method", "evaluations"),
    [("euler", 6), ("heun", 11), ("midpoint", 12), ("heun2", 12), ("heun3", 18), ("rk4", 24)],
)
def test_number_of_evaluations_is_the_documented_one(method, evaluations):
    velocity = RecordingVelocity()
    sample_ode(velocity, NOISE, num_steps=6, method=method)
    assert len(velocity.times) == evaluations


@pytest.mark.parametrize("method", FIXED_STEP_METHODS)
def test_every_stage_has_the_guidance_of_the_start_of_its_step(method):
    """With velocity +1 guided and -1 otherwise the end counts the guided steps."""
    velocity = RecordingVelocity(lambda x, t, guided: torch.full_like(x, 1.0 if guided else -1.0))
    end = sample_ode(velocity, NOISE, num_steps=10, method=method, guidance_interval=(0.0, 0.45))
    # Steps start at 1, 0.9, ..., 0.1; the four from 0.4, 0.3, 0.2 and 0.1 are guided.
    torch.testing.assert_close(NOISE - end, torch.full_like(NOISE, 0.1 * (4 - 6)))


@pytest.mark.parametrize("method", ADAPTIVE_METHODS)
@pytest.mark.parametrize("interval", [(0.0, 1.0), (0.2, 0.6), (0.0, 0.5), (0.5, 1.0), (0.5, 0.5)])
def test_adaptive_method_guides_for_exactly_the_length_of_the_interval(method, interval):
    end = sample_ode(
        lambda x, t, guided: torch.full_like(x, float(guided)),
        NOISE,
        num_steps=None,
        method=method,
        guidance_interval=interval,
    )
    torch.testing.assert_close(NOISE - end, torch.full_like(NOISE, interval[1] - interval[0]))


def test_step_that_starts_exactly_at_the_low_end_is_guided():
    velocity = RecordingVelocity()
    sample_ode(velocity, NOISE, num_steps=5, method="euler", guidance_interval=(0.2, 0.6))
    assert velocity.flags == [False, False, True, True, True]


@pytest.mark.parametrize("method", ADAPTIVE_METHODS)
@pytest.mark.parametrize("interval", [(0.2, 0.6), (0.0, 1.0), (0.3, 0.3), (0.499, 0.501)])
def test_adaptive_method_asks_for_guidance_inside_the_interval_only(method, interval):
    velocity = RecordingVelocity()
    sample_ode(velocity, NOISE, num_steps=None, method=method, guidance_interval=interval)
    low, high = interval
    guided = [t for t, flag in zip(velocity.times, velocity.flags, strict=True) if flag]
    unguided = [t for t, flag in zip(velocity.times, velocity.flags, strict=True) if not flag]
    assert all(low <= t <= high for t in guided)
    assert all(0 <= t <= 1 and not low < t < high for t in unguided)
    assert bool(guided) == (low < high)


@pytest.mark.parametrize("method", ADAPTIVE_METHODS)
def test_adaptive_method_warns_that_it_ignores_num_steps(method):
    ends = []
    for num_steps in (3, 50):
        with pytest.warns(UserWarning, match=f"{method} chooses its steps: num_steps is ignored"):
            ends.append(sample_ode(quadratic_velocity, NOISE, num_steps=num_steps, method=method))
    assert torch.equal(*ends)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("method", ["euler", "heun", "midpoint", "bosh3"])
def test_velocity_sees_the_dtype_of_the_noise_and_the_state_is_float64(method, dtype):
    seen = set()

    def velocity(x, t, guided):
        seen.update([(x.dtype, tuple(x.shape)), (t.dtype, tuple(t.shape))])
        return torch.ones_like(x)

    num_steps = None if method in ADAPTIVE_METHODS else 3
    noise = NOISE.to(dtype)
    end = sample_ode(velocity, noise, num_steps=num_steps, method=method)
    assert seen == {(dtype, (3, 4)), (dtype, (3,))}
    assert end.dtype == torch.float64
    torch.testing.assert_close(end, noise.double() - 1, atol=1e-12, rtol=0)


def test_no_gradient_is_recorded_and_the_noise_is_left_alone():
    weight = torch.ones((), dtype=torch.float64, requires_grad=True)
    noise = NOISE.clone()
    for method in ("heun", "rk4"):
        end = sample_ode(lambda x, t, guided: weight * x, noise, num_steps=2, method=method)
        assert not end.requires_grad
    assert torch.equal(noise, NOISE)


@pytest.mark.parametrize("method", ["euler", "heun", "rk4"])
def test_one_step_is_enough(method):
    end = sample_ode(lambda x, t, guided: torch.ones_like(x), NOISE, num_steps=1, method=method)
    torch.testing.assert_close(end, NOISE - 1)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"num_steps": 0}, r"num_steps must be at least 1, got 0\."),
        (
            {"num_steps": None},
            "exactly one of num_steps and times .* got None and None",
        ),
        ({"times": [1.0, 0.0]}, r"exactly one of num_steps and times .* got 4 and \[1\.0, 0\.0\]"),
        ({"guidance_interval": (0.7, 0.2)}, r"0 <= low <= high <= 1, got \(0\.7, 0\.2\)"),
        ({"guidance_interval": (-0.1, 0.5)}, r"0 <= low <= high <= 1, got \(-0\.1, 0\.5\)"),
        ({"guidance_interval": (0.0, 1.1)}, r"0 <= low <= high <= 1, got \(0\.0, 1\.1\)"),
        ({"guidance_interval": (0.0, float("nan"))}, "0 <= low <= high <= 1"),
        ({"rtol": 0.0}, r"rtol and atol must be above 0, got 0\.0 and 1e-05\."),
        ({"atol": -1.0}, r"rtol and atol must be above 0, got 1e-05 and -1\.0\."),
        ({"method": "huen"}, r"Unknown ODE method 'huen': did you mean 'heun'\?"),
        ({"method": "dopri"}, r"Unknown ODE method 'dopri': did you mean 'dopri[58]'\?"),
        ({"method": "ddim"}, r"Unknown ODE method 'ddim': choose from euler, heun, "),
        ({"method": "scipy_solver"}, "Unknown ODE method 'scipy_solver'"),
    ],
)
def test_wrong_argument_is_refused_with_the_rule_and_the_value(wrong, message):
    with pytest.raises(ValueError, match=message):
        sample_ode(quadratic_velocity, NOISE, **{"num_steps": 4, **wrong})


@pytest.mark.parametrize("method", ADAPTIVE_METHODS)
def test_velocity_that_is_not_finite_ends_an_adaptive_method(method):
    with pytest.raises(ValueError, match=f"{method} failed between t = 1.0 and 0.0"):
        sample_ode(lambda x, t, guided: x * float("nan"), NOISE, num_steps=None, method=method)


def test_steep_velocity_does_not_blow_up_the_multistep_methods():
    """Data of standard deviation 0.1, where torchdiffeq's default Adams order diverges to 1e3."""
    noise = torch.linspace(-3, 3, 64, dtype=torch.float64).reshape(-1, 1)

    def velocity(x, t, guided):
        time = t.reshape(-1, 1)
        return (time - 0.01 * (1 - time)) / (0.01 * (1 - time) ** 2 + time**2) * x

    end = sample_ode(velocity, noise, num_steps=50, method="explicit_adams")
    torch.testing.assert_close(end, 0.1 * noise, atol=1e-3, rtol=0)


def test_method_names_are_known_to_torchdiffeq():
    from torchdiffeq._impl.odeint import SOLVERS

    ours = {"heun"}
    assert set(ODE_METHODS) - ours <= set(SOLVERS)
    assert set(SOLVERS) - set(ODE_METHODS) == {"fixed_adams", "scipy_solver"}


@pytest.mark.parametrize("method", FIXED_STEP_METHODS)
def test_published_times_given_by_hand_are_the_default_to_the_bit(method):
    settings = {"method": method, "guidance_interval": (0.2, 0.6)}
    default = sample_ode(quadratic_velocity, NOISE, num_steps=7, **settings)
    given = sample_ode(quadratic_velocity, NOISE, times=ode_times(7), **settings)
    assert torch.equal(given, default)


def test_steps_go_where_the_times_say():
    times = [1.0, 0.9, 0.2, 0.0]
    velocity = RecordingVelocity(lambda x, t, guided: t.reshape(-1, 1).expand_as(x))
    end = sample_ode(velocity, NOISE, times=times, method="euler", guidance_interval=(0.5, 0.95))
    assert velocity.times == times[:-1]
    assert velocity.flags == [False, True, False]
    torch.testing.assert_close(NOISE - end, torch.full_like(NOISE, 0.1 * 1 + 0.7 * 0.9 + 0.2 * 0.2))


@pytest.mark.parametrize(
    ("method", "order"),
    [("euler", 1), ("heun", 2), ("midpoint", 2), ("heun2", 2), ("heun3", 3), ("rk4", 4)],
)
def test_method_keeps_its_order_on_times_that_are_not_equally_spaced(method, order):
    coarse, fine = (
        # Densest at t = 0, the longest step about twice the mean.
        quadratic_error(times=[t**2 for t in ode_times(n)], method=method)
        for n in (60, 120)
    )
    assert log2(coarse / fine) == pytest.approx(order, abs=0.15)


def test_times_may_begin_below_one_at_the_time_of_the_state():
    start = 1 / (1 / QUADRATIC_END + 0.8**2 / 2)  # the exact solution at t = 0.8
    times = [0.8 * t for t in ode_times(50)]
    end = sample_ode(quadratic_velocity, start, times=times, method="rk4")
    torch.testing.assert_close(end, QUADRATIC_END, atol=1e-7, rtol=0)


@pytest.mark.parametrize(
    "times",
    [[], [0.0], [0.0, 1.0], [1.0, 0.5], [1.1, 0.0], [1.0, 0.5, 0.5, 0.0], [1.0, float("nan"), 0.0]],
)
def test_times_that_do_not_fall_from_one_to_zero_are_refused(times):
    with pytest.raises(ValueError, match="times must be two or more that fall from at most 1 to 0"):
        sample_ode(quadratic_velocity, NOISE, times=times)


@pytest.mark.parametrize("method", ADAPTIVE_METHODS)
def test_adaptive_method_takes_no_times(method):
    with pytest.raises(ValueError, match=f"{method} chooses its steps: times cannot be given"):
        sample_ode(quadratic_velocity, NOISE, times=[1.0, 0.0], method=method)
