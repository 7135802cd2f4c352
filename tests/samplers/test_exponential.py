from itertools import pairwise
from math import exp, inf, log, log2, prod, sqrt

import mixtures
import pytest
import torch
from scipy.integrate import quad

from samplers import INTERPOLANTS, PATHS, sample_exponential
from samplers.exponential import _PROCESSES, _levels, _of_data
from samplers.multistep import History
from samplers.names import EXPONENTIAL_ORDERS
from samplers.schedule import sde_times

LINEAR = INTERPOLANTS["linear"]
SOLVERS = [
    (method, order) for method, most in EXPONENTIAL_ORDERS.items() for order in range(1, most + 1)
]
EACH = pytest.mark.parametrize(("method", "order"), SOLVERS)
GRID = [1.0, 0.93, 0.8, 0.74, 0.5, 0.33, 0.2, 0.05, 0.0]


class Recorded:
    """A velocity that keeps the states and times it is asked at."""

    def __init__(self, velocity):
        self.velocity, self.states, self.times, self.flags = velocity, [], [], []

    def __call__(self, x, t, guided):
        self.states.append(x)
        self.times.append(t[0].item())
        self.flags.append(guided)
        return self.velocity(x, t, guided)


def impulses(num_steps):
    """Noise and normals with one source of randomness a row; see test_sde.py."""
    rows = torch.eye(num_steps + 1, dtype=torch.float64)[:, 1:]
    return rows[:, :1], lambda step: rows[:, 1 + step : 2 + step]


def moments(x):
    return x[0].item(), ((x[1:] - x[0]) ** 2).sum().item()


def towards(data, path):
    """The velocity of data that are all the same: whatever the state, `data` are expected."""

    def velocity(x, t, guided):
        at = path.coefficients(t.reshape(-1, 1))
        return at.d_alpha * data + at.d_sigma * (x - at.alpha * data) / at.sigma

    return velocity


@EACH
@pytest.mark.parametrize("name", PATHS)
def test_data_that_are_one_point_are_met_exactly_with_the_path_s_noise_at_every_time(
    method, order, name
):
    if method == "sa" and name != "linear":
        return
    path = PATHS[name]
    velocity = Recorded(towards(0.7, path))
    noise, normal = impulses(len(GRID) - 1)
    noise = noise * path.coefficients(torch.tensor(1.0)).sigma
    settings = {"times": GRID, "method": method, "order": order, "interpolant": path}
    end = sample_exponential(velocity, noise, normal=normal, **settings)
    torch.testing.assert_close(end, torch.full_like(end, 0.7), atol=1e-12, rtol=0)
    for t, x in zip(velocity.times[1:], velocity.states[1:], strict=True):
        at = path.coefficients(torch.tensor(t, dtype=torch.float64))
        # DDPM's path leaves 0.0064 of the data in what should be pure noise.
        first = path.coefficients(torch.tensor(1.0, dtype=torch.float64))
        slack = 1e-12 if name != "ddpm" else first.alpha.item()
        assert moments(x) == pytest.approx((0.7 * at.alpha.item(), at.sigma.item() ** 2), abs=slack)


STD, MEAN = 0.4, 0.7


def gaussian(x, t, guided):
    """The velocity of N(MEAN, STD^2) on the linear path."""
    return (x - expected(x, t.reshape(-1, 1))) / t.reshape(-1, 1)


def expected(x, t):
    return MEAN + (1 - t) * STD**2 / (((1 - t) * STD) ** 2 + t**2) * (x - (1 - t) * MEAN)


def first_order(method, x, data, t, t_next):
    """One step by hand on the linear path, and the variance of its noise."""
    r = t_next / t
    if method == "dpm++":
        return r * x + (1 - r) * data, 0.0
    if method == "sa":
        state = (1 - t_next) * data + r**2 * (x - (1 - t) * data)
        return state, t_next**2 * (1 - r**2)
    step = log((1 - t_next) / t_next) - log((1 - t) / t) if t < 1 else inf
    kept = exp(-step)
    return r * kept * x + (1 - t_next) * (1 - kept**2) * data, t_next**2 * (1 - kept**2)


@pytest.mark.parametrize("method", EXPONENTIAL_ORDERS)
def test_first_order_is_the_closed_recursion(method):
    velocity = Recorded(gaussian)
    noise, normal = impulses(len(GRID) - 1)
    settings = {"times": GRID, "method": method, "order": 1, "interpolant": LINEAR}
    end = sample_exponential(velocity, noise, normal=normal, **settings)
    x = noise
    for step, (t, t_next) in enumerate(pairwise(GRID)):
        torch.testing.assert_close(velocity.states[step], x, atol=1e-13, rtol=0)
        data = expected(x, t)
        if t_next > 0:
            x, variance = first_order(method, x, data, t, t_next)
            x = x + sqrt(variance) * normal(step)
    torch.testing.assert_close(end, data, atol=1e-13, rtol=0)


def exact_path(t, z=1.3):
    """The ODE's solution for N(MEAN, STD^2) on the linear path, and the data expected along it."""
    t = torch.tensor(t, dtype=torch.float64)
    x = (1 - t) * MEAN + (((1 - t) * STD) ** 2 + t**2).sqrt() * z
    return x, expected(x, t)


def remembered(places, order):
    history = History(order)
    history.begin(True)
    for t in places:
        history.add(_levels([t], LINEAR)[0].log_ratio, exact_path(t)[1])
    return history


@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize("earlier", [(1.0, 1.0), (0.4, 1.7), (1.9, 0.6)])
def test_a_step_of_the_ode_from_exact_history_errs_by_one_order_more(order, earlier):
    errors = []
    for h in (0.02, 0.01, 0.005):
        t, t_next = 0.6, 0.6 - h
        places = [t + h * (earlier[0] + earlier[1]), t + h * earlier[0], t]
        start, end = _levels([t, t_next], LINEAR)
        found = t_next / t * exact_path(t)[0]
        found = found + _of_data(_PROCESSES["dpm++"], start, end, remembered(places, order))
        errors.append(abs(found - exact_path(t_next)[0]).item())
    assert log2(errors[-2] / errors[-1]) == pytest.approx(order + 1, abs=0.15)


@pytest.mark.parametrize("order", [2, 3])
def test_shares_of_repas_sde_are_its_integral(order):
    """x = t^2 y turns the SDE into dy = -(2 - t) D / t^3 dt + ..., which quadrature integrates."""
    places = [0.75, 0.62, 0.5, 0.43][-1 - order :]
    start, end = _levels(places[-2:], LINEAR)

    def ratio(t):
        return log((1 - t) / t)

    for nodes in ([*places[:-1]][-order:], places[-order:]):  # of the predictor, the corrector
        if nodes[-1] == 0.5 and order == 2:
            continue  # takes the middle of the step, as DPM-Solver++
        for one in nodes:
            history = History(order)
            history.begin(True)
            for t in nodes:
                history.add(ratio(t), torch.tensor(float(t == one), dtype=torch.float64))

            def of_one(s, one=one, nodes=nodes):
                others = [m for m in nodes if m != one]
                polynomial = prod((ratio(s) - ratio(m)) / (ratio(one) - ratio(m)) for m in others)
                return (2 - s) / s**3 * polynomial

            by_hand = end.t**2 * quad(of_one, end.t, start.t, epsabs=1e-13)[0]
            found = _of_data(_PROCESSES["sa"], start, end, history).item()
            assert found == pytest.approx(by_hand, abs=1e-11)


@pytest.mark.parametrize("method", EXPONENTIAL_ORDERS)
def test_what_is_kept_of_the_noise_belongs_to_tau(method):
    process = _PROCESSES[method]
    start, end = _levels([0.8, 0.3], LINEAR)
    lost = quad(
        lambda at: float(process.tau_squared(torch.tensor(at).numpy())), *ratios(start, end)
    )
    assert process.kept_noise(start, end) == pytest.approx(exp(-lost[0]))
    if method == "sa":
        assert process.tau_squared(torch.tensor(start.log_ratio).double().numpy()) == pytest.approx(
            1 - 0.8
        )


def ratios(start, end):
    return start.log_ratio, end.log_ratio


def sobol_normals(dimensions, count):
    engine = torch.quasirandom.SobolEngine(dimensions, scramble=True, seed=5)
    points = engine.draw(count, dtype=torch.float64).clamp(1e-9, 1 - 1e-9)
    return points, torch.special.ndtri(points)


def weak_errors(method, order, count=1 << 16):
    """Errors of mean and variance at t = 0.2 after 8, 16 and 32 steps from the marginal at t = 0.9.

    They are of the same points, and two short steps have the noise of the long one that they are.
    """
    points, normals = sobol_normals(32 + 3, count)
    which = (points[:, 0] > mixtures.WEIGHTS[0]).long()
    data = mixtures.MEANS[which] + mixtures.STDS[which] * normals[:, 1]
    noise = (0.1 * data + 0.9 * normals[:, 2]).reshape(-1, 1)
    of_step = normals[:, 3:].unbind(1)
    mean, variance = 0.8 * mixtures.MEAN, 0.8**2 * mixtures.VARIANCE + 0.2**2
    errors = []
    for num_steps in (32, 16, 8):
        velocity = Recorded(mixtures.velocity())
        times = torch.linspace(0.9, 0.2, num_steps + 1, dtype=torch.float64).tolist()
        sample_exponential(
            velocity,
            noise,
            times=[*times, 0.0],
            method=method,
            order=order,
            interpolant=LINEAR,
            normal=lambda step, of_step=of_step: of_step[step].reshape(-1, 1),
        )
        x = velocity.states[-1]
        errors.append((x.mean().item() - mean, x.var().item() - variance))
        of_step = noises_of_two(method, times, of_step)
    return errors[::-1]


def noises_of_two(method, times, normals):
    """The normals of steps that are two each of these."""
    levels, found = _levels(times, LINEAR), []
    for k in range(0, len(normals), 2):
        first, then = (_PROCESSES[method].kept_noise(*levels[i : i + 2]) for i in (k, k + 1))
        both = then * sqrt(1 - first**2) * normals[k] + sqrt(1 - then**2) * normals[k + 1]
        found.append(both / sqrt(1 - (first * then) ** 2))
    return found


SDES = pytest.mark.parametrize(
    ("method", "order", "weak"),
    [("dpm++sde", 1, 1), ("dpm++sde", 2, 2), ("sa", 1, 1), ("sa", 2, 2), ("sa", 3, 2)],
)


@SDES
def test_sde_approaches_the_moments_of_a_mixture_with_its_weak_order(method, order, weak):
    means, variances = zip(*weak_errors(method, order), strict=True)
    # The points leave an error of about 0.001 in either, and a tenth of it in the differences.
    assert log2(abs((means[0] - means[1]) / (means[1] - means[2]))) > weak - 0.4
    assert log2(abs(variances[0] / variances[1])) > weak - 0.6
    assert abs(means[1]) < 0.01 / weak**2
    assert abs(variances[1]) < 0.08 / weak**3


@SDES
def test_sde_approaches_a_gaussian_s_variance_with_its_weak_order(method, order, weak):
    """Without any sampling error; its mean is met exactly."""
    errors = []
    for num_steps in (80, 160):
        rows = torch.eye(num_steps + 2, dtype=torch.float64)[:, 1:]
        start, end = ((1 - t) ** 2 * STD**2 + t**2 for t in (0.9, 0.2))
        velocity = Recorded(gaussian)
        times = torch.linspace(0.9, 0.2, num_steps + 1, dtype=torch.float64).tolist()
        sample_exponential(
            velocity,
            0.1 * MEAN + start**0.5 * rows[:, :1],
            times=[*times, 0.0],
            method=method,
            order=order,
            interpolant=LINEAR,
            normal=lambda step, rows=rows: rows[:, 1 + step : 2 + step],
        )
        mean, variance = moments(velocity.states[-1])
        assert mean == pytest.approx(0.8 * MEAN, abs=1e-13)
        errors.append(abs(variance - end))
    assert log2(errors[0] / errors[1]) > weak - 0.1
    assert errors[1] < 0.5 / 160**weak


@pytest.mark.parametrize("order", [1, 2, 3])
def test_ode_s_whole_run_approaches_the_exact_path(order):
    """Order 2 at best, for the first step has no history; of one point in time, not two runs."""
    first, exact = mixtures.ladder("cosine", 0.9, 0.2)
    errors = []
    for num_steps in (40, 80):
        velocity = Recorded(mixtures.velocity("cosine"))
        times = torch.linspace(0.9, 0.2, num_steps + 1, dtype=torch.float64).tolist()
        settings = {"times": [*times, 0.0], "order": order, "interpolant": INTERPOLANTS["cosine"]}
        sample_exponential(velocity, first, normal=None, **settings)
        errors.append((velocity.states[-1] - exact).abs().max().item())
    assert log2(errors[0] / errors[1]) > min(order, 2) - 0.15
    assert errors[1] < (0.05, 0.002, 0.0005)[order - 1]


@EACH
def test_guidance_is_on_for_exactly_its_interval(method, order):
    """Velocity 1 with guidance and 0 without: the expected data jump, and history with them."""
    if method != "dpm++":
        velocity, settings = Recorded(gaussian), {"normal": impulses(12)[1]}
        noise = impulses(12)[0]
    else:
        velocity = Recorded(lambda x, t, guided: torch.full_like(x, float(guided)))
        noise, settings = torch.tensor([[0.3], [-2.0]], dtype=torch.float64), {"normal": None}
    settings |= {"method": method, "order": order, "interpolant": LINEAR}
    for low, high in [(0.23, 0.71), (0.0, 0.7), (0.31, 1.0), (0.5, 0.5), (0.0, 1.0)]:
        velocity.times, velocity.flags = [], []
        end = sample_exponential(
            velocity, noise, num_steps=12, guidance_interval=(low, high), **settings
        )
        assert len(velocity.times) == 12
        steps = list(pairwise([*velocity.times, 0.0]))
        flags = [low <= t_next and t <= high for t, t_next in steps]
        assert velocity.flags == flags
        if method == "dpm++":
            torch.testing.assert_close(noise - end, torch.full_like(noise, high - low))


def test_step_that_straddles_an_end_of_its_own_times_is_guided_by_its_middle():
    velocity = Recorded(gaussian)
    sample_exponential(
        velocity,
        torch.zeros(1, 1, dtype=torch.float64),
        times=[1.0, 0.8, 0.5, 0.1, 0.0],
        interpolant=LINEAR,
        guidance_interval=(0.2, 0.7),
        normal=None,
    )
    assert velocity.times == [1.0, 0.8, 0.5, 0.1]
    assert velocity.flags == [False, True, True, False]


@pytest.mark.parametrize("order", [2, 3])
def test_a_step_is_not_corrected_by_a_prediction_of_other_guidance(order):
    """Guidance switches at every step, so that nothing is left to correct."""

    def velocity(x, t, guided):
        return gaussian(x, t, guided) + guided

    def ends(interval):
        settings = {"times": [1.0, 0.8, 0.5, 0.3, 0.0], "method": "sa", "order": order}
        noise, normal = impulses(4)
        settings |= {"interpolant": LINEAR, "guidance_interval": interval, "normal": normal}
        options = ({"corrected": True}, {"corrected": False}, {})
        runs = [sample_exponential(velocity, noise, **settings, **said) for said in options]
        return torch.stack(runs)

    corrected, predicted, usual = ends((0.0, 1.0))
    assert torch.equal(usual, corrected) and not torch.equal(usual, predicted)
    # Of the step from 0.8 alone. The last step, from 0.3, ends in the prediction that it begins
    # with, so that nothing could correct the state there.
    assert torch.equal(*ends((0.5, 0.8))[:2])


@EACH
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_velocity_sees_the_noise_s_dtype_once_a_step_and_the_state_is_float64(method, order, dtype):
    seen, told, asked = [], [], []

    def velocity(x, t, guided):
        seen.append((x.dtype, t.dtype, tuple(t.shape)))
        return x

    def normal(step):
        asked.append(step)
        return torch.ones(3, 4)

    noise = torch.ones(3, 4, dtype=dtype)
    settings = {"method": method, "order": order, "interpolant": LINEAR, "on_time": told.append}
    end = sample_exponential(velocity, noise, times=sde_times(7), normal=normal, **settings)
    assert seen == [(dtype, dtype, (3,))] * 7
    assert told == sde_times(7)[:-1]
    assert asked == ([] if method == "dpm++" else list(range(6)))
    assert end.dtype == torch.float64 and torch.equal(noise, torch.ones(3, 4, dtype=dtype))


def test_one_step_ends_in_the_data_expected_of_noise():
    noise = torch.randn(3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    end = sample_exponential(gaussian, noise, num_steps=1, interpolant=LINEAR, normal=None)
    torch.testing.assert_close(end, torch.full_like(noise, MEAN))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"num_steps": 0}, r"num_steps must be at least 1, got 0\."),
        ({"num_steps": None}, "exactly one of num_steps and times"),
        ({"method": "dpm"}, r"method must be one of dpm\+\+, dpm\+\+sde, sa, got 'dpm'"),
        ({"order": 0}, r"order must be from 1 to 3 for dpm\+\+, got 0"),
        ({"order": 4}, r"order must be from 1 to 3 for dpm\+\+, got 4"),
        ({"method": "dpm++sde", "order": 3}, r"order must be from 1 to 2 for dpm\+\+sde, got 3"),
        ({"method": "sa", "interpolant": INTERPOLANTS["cosine"]}, "sa is for the linear path"),
        ({"guidance_interval": (0.7, 0.2)}, "0 <= low <= high <= 1"),
        ({"method": "sa", "normal": None}, "normal must be given for sa, which adds noise"),
        ({"method": "sa", "normal": lambda step: torch.zeros(4)}, r"noise's shape \(3, 4\)"),
    ],
)
def test_wrong_argument_is_refused_with_the_rule_and_the_value(wrong, message):
    settings = {"num_steps": 4, "interpolant": LINEAR, "normal": lambda step: torch.zeros(3, 4)}
    with pytest.raises(ValueError, match=message):
        sample_exponential(gaussian, torch.zeros(3, 4), **{**settings, **wrong})
