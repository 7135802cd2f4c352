"""Which solvers a network of predicted noise is sampled by: none ends where it is infinite."""

import pytest
import torch
from golden_files import GOLDENS_DIR

from repa.checkpoints import load_model
from repa.errors import SettingError
from repa.generation import Protocol
from repa.generation.images import check_protocol, states_of
from repa.generation.solvers import ASKING_AT_DATA, SOLVERS
from samplers import ADAPTIVE_METHODS, ODE_METHODS, sample_ode


@pytest.fixture(scope="module")
def dit():
    return load_model(GOLDENS_DIR / "dialects" / "dit_train.pt", num_heads=3)


@pytest.mark.parametrize("solver", SOLVERS)
def test_solver_makes_finite_images_of_predicted_noise_or_is_refused_before(dit, solver):
    protocol = Protocol(solver=solver, num_steps=3, cfg_scale=1.0)
    if solver == "sa" or solver in ASKING_AT_DATA:
        with pytest.raises(SettingError) as caught:
            check_protocol(protocol, dit.settings)
        assert caught.value.field == "solver" and "use " in str(caught.value)
    else:
        assert torch.isfinite(states_of(dit, range(1), protocol)).all()


@pytest.mark.parametrize("method", ODE_METHODS)
def test_those_that_are_refused_are_those_that_ask_at_the_data(method):
    asked = []

    def velocity(x, t, guided):
        asked.append(float(t.min()))
        return -x

    steps = {"rtol": 1e-2, "atol": 1e-2} if method in ADAPTIVE_METHODS else {"num_steps": 2}
    sample_ode(velocity, torch.ones(1, 1), method=method, **steps)
    assert (min(asked) == 0) == (method in ASKING_AT_DATA)
