import pytest
import torch

from repa.autoencoders.latent_space import PIXELS
from repa.generation.cost import network_rows
from repa.generation.images import images_of
from repa.generation.settings import Protocol
from repa.generation.solvers import MULTISTEP
from repa.models.prediction import Prediction
from samplers.names import ADAPTIVE_METHODS, FIXED_STEP_METHODS


class Counting:
    """A model without motion that counts the rows it is asked for."""

    num_classes = null_label = 5
    in_channels, input_size = 3, 2
    path_type, latent_space, prediction = "linear", PIXELS, Prediction()
    guided_channels = None

    def __init__(self):
        self.model = self.settings = self
        self.rows = 0

    def parameters(self):
        return iter([torch.zeros(1)])

    def velocity_model(self, x, t, labels):
        self.rows += len(x)
        return torch.zeros_like(x)


def test_the_published_protocol_costs_422_rows_an_image():
    # 250 steps, of which 172 start in [0, 0.7]: 1 - k * 0.96 / 249 <= 0.7 from k = 78 to 249.
    assert network_rows(Protocol()) == 250 + 172
    assert network_rows(Protocol(cfg_scale=1)) == 250


@pytest.mark.parametrize("solver", ["sde", *MULTISTEP, *FIXED_STEP_METHODS])
@pytest.mark.parametrize("interval", [(0.0, 0.7), (0.25, 0.75), (0.0, 1.0)])
def test_rows_are_those_that_the_network_is_asked_for(solver, interval):
    protocol = Protocol(solver=solver, num_steps=8, cfg_scale=2, guidance_interval=interval)
    rows = network_rows(protocol)
    if solver == "implicit_adams":  # iterates until its values stand still
        assert rows is None
        return
    model = Counting()
    list(images_of(model, range(3), protocol))
    assert rows == model.rows / 3


def test_rows_of_solvers_that_choose_their_steps_are_unknown():
    for solver in ADAPTIVE_METHODS:
        assert network_rows(Protocol(solver=solver)) is None


@pytest.mark.parametrize("times", ["uniform", "shifted", "logsnr", "karras", (1.0, 0.5, 0.1, 0.0)])
@pytest.mark.parametrize("solver", ["sde", "heun", "dpm++", "ab2"])
@pytest.mark.parametrize("path_type", ["linear", "cosine"])
def test_rows_follow_the_times_and_the_path(solver, times, path_type):
    steps = {} if isinstance(times, tuple) else {"num_steps": 8}
    steps |= {"shift": 0.4} if times == "shifted" else {}
    protocol = Protocol.for_model("digits", solver=solver, times=times, **steps)
    model = Counting()
    model.path_type = path_type
    list(images_of(model, range(2), protocol))
    assert network_rows(protocol, path_type) == model.rows / 2


def test_multistep_solvers_cost_one_evaluation_a_step_and_another_in_the_interval():
    # Of 1, 0.9, ..., 0 seven steps are in [0, 0.7]; of eight steps 0.75 is moved there.
    for num_steps, guided in ((10, 7), (8, 6)):
        protocol = Protocol(solver="dpm++", num_steps=num_steps)
        assert network_rows(protocol) == num_steps + guided


def test_ddpm_costs_another_row_at_times_in_the_closed_interval():
    # Of four, 1000, 667, 334 and 1 of 1000, two are in it, at its very ends.
    protocol = Protocol(solver="ddpm", num_steps=4, guidance_interval=(0.334, 0.667))
    assert network_rows(protocol) == 4 + 2
