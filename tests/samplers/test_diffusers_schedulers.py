"""Whole runs and single steps beside the schedulers of diffusers, which compute in float32."""

from math import exp, pi, tan

import mixtures
import pytest
import torch
from diffusers import DPMSolverMultistepScheduler, SASolverScheduler

from samplers import INTERPOLANTS, sample_exponential
from samplers.exponential import _PROCESSES, _levels, _of_data
from samplers.multistep import History

# diffusers gives numpy torch tensors, of which numpy 2 complains.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

NOISE = torch.linspace(-2, 2, 7).reshape(-1, 1)
FLOW = {"prediction_type": "flow_prediction", "use_flow_sigmas": True}


def normals(step):
    generator = torch.Generator().manual_seed(step)
    return torch.randn(7, 1, generator=generator)


def run_of_theirs(scheduler, times, predicted):
    x = NOISE.clone()
    for step, (timestep, t) in enumerate(zip(scheduler.timesteps, times, strict=False)):
        out = predicted(x, torch.full((7,), t))
        x = scheduler.step(out, timestep, x, variance_noise=normals(step)).prev_sample
    return x


@pytest.mark.parametrize(
    ("method", "order"), [("dpm++", 1), ("dpm++", 2), ("dpm++sde", 1), ("dpm++sde", 2)]
)
@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_dpm_is_diffusers_on_the_grid_of_flow_matching(method, order, shift):
    scheduler = DPMSolverMultistepScheduler(
        algorithm_type="dpmsolver++" if method == "dpm++" else "sde-dpmsolver++",
        solver_order=order,
        flow_shift=shift,
        **FLOW,
    )
    scheduler.set_timesteps(12)
    times = scheduler.sigmas.tolist()
    velocity = mixtures.velocity()
    theirs = run_of_theirs(scheduler, times, lambda x, t: velocity(x.double(), t, False).float())
    ours = sample_exponential(
        velocity,
        NOISE,
        times=times,
        method=method,
        order=order,
        interpolant=INTERPOLANTS["linear"],
        normal=normals,
    )
    torch.testing.assert_close(ours, theirs.double(), atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("method", "order"), [("dpm++", 1), ("dpm++", 2), ("dpm++sde", 1), ("dpm++sde", 2)]
)
def test_dpm_is_diffusers_on_a_variance_preserving_path(method, order):
    """On the cosine path its velocity is pi / 2 of what "v_prediction" calls v."""
    times = [0.97, 0.8, 0.72, 0.5, 0.33, 0.2, 0.1, 0.0]
    scheduler = DPMSolverMultistepScheduler(
        algorithm_type="dpmsolver++" if method == "dpm++" else "sde-dpmsolver++",
        solver_order=order,
        prediction_type="v_prediction",
    )
    scheduler.set_timesteps(len(times) - 1)
    scheduler.sigmas = torch.tensor([tan(pi / 2 * t) for t in times])
    velocity = mixtures.velocity("cosine")
    theirs = run_of_theirs(
        scheduler, times, lambda x, t: (velocity(x.double(), t, False) * 2 / pi).float()
    )
    ours = sample_exponential(
        velocity,
        NOISE,
        times=times,
        method=method,
        order=order,
        interpolant=INTERPOLANTS["cosine"],
        normal=normals,
    )
    torch.testing.assert_close(ours, theirs.double(), atol=1e-4, rtol=0)


@pytest.mark.parametrize(("method", "tau"), [("dpm++", 0.0), ("dpm++sde", 1.0)])
@pytest.mark.parametrize("corrector", [False, True])
def test_third_order_is_the_step_of_diffusers_sa_solver_for_a_constant_tau(method, tau, corrector):
    """Its first and second orders differ by design; of its third, predictor and corrector."""
    times = [0.9, 0.7, 0.55, 0.35, 0.3]
    scheduler = SASolverScheduler(predictor_order=3, corrector_order=3, **FLOW)
    scheduler.set_timesteps(len(times))
    scheduler.sigmas = torch.tensor(times, dtype=torch.float64)
    scheduler._step_index = 3 if corrector else 2
    data = [normals(k).double() for k in range(4)]
    x, noise = NOISE.double(), normals(9).double()
    history = History(3)
    history.begin(True)
    places = times[1:4] if corrector else times[:3]
    for t, value in zip(places, data[1:] if corrector else data[:3], strict=True):
        history.add(_levels([t], INTERPOLANTS["linear"])[0].log_ratio, value)
    settings = {"order": 3, "tau": torch.tensor(tau, dtype=torch.float64)}
    scheduler.model_outputs = data[:3]
    if corrector:
        theirs = scheduler.stochastic_adams_moulton_update(
            this_model_output=data[3], last_sample=x, last_noise=noise, this_sample=x, **settings
        )
    else:
        theirs = scheduler.stochastic_adams_bashforth_update(
            model_output=data[2], sample=x, noise=noise, **settings
        )
    start, end = _levels(times[2:4], INTERPOLANTS["linear"])
    kept = _PROCESSES[method].kept_noise(start, end)
    ours = kept * end.sigma / start.sigma * x + end.sigma * (1 - kept**2) ** 0.5 * noise
    ours = ours + _of_data(_PROCESSES[method], start, end, history)
    torch.testing.assert_close(ours, theirs, atol=1e-9, rtol=0)


def test_diffusers_dpm_of_third_order_leaves_out_half_of_the_curvature():
    """Data that are the square of the log ratio: what is missing of their exact integral."""
    times = [0.9, 0.7, 0.55, 0.35]
    scheduler = DPMSolverMultistepScheduler(solver_order=3, **FLOW)
    scheduler.set_timesteps(len(times))
    scheduler.sigmas, scheduler._step_index = torch.tensor(times, dtype=torch.float64), 2
    levels = _levels(times, INTERPOLANTS["linear"])
    history = History(3)
    history.begin(True)
    for level in levels[:3]:
        history.add(level.log_ratio, torch.tensor([level.log_ratio**2], dtype=torch.float64))
    nothing = torch.zeros(1, dtype=torch.float64)
    theirs = scheduler.multistep_dpm_solver_third_order_update(history.values[::-1], sample=nothing)
    ours = _of_data(_PROCESSES["dpm++"], levels[2], levels[3], history)
    h = levels[3].log_ratio - levels[2].log_ratio
    missing = levels[3].alpha * (h**2 / 2 - (h - 1 + exp(-h)))
    assert (ours - theirs).item() == pytest.approx(missing, rel=1e-9)
