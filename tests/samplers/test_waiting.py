"""Samplers and the device: what makes the CPU wait for it, and what a GPU computes."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from samplers import (
    EXPONENTIAL_ORDERS,
    INTERPOLANTS,
    classifier_free_velocity,
    initial_noise,
    sample_adams,
    sample_exponential,
    sample_ode,
    sample_sde,
    step_noise,
)

STEPS = 6
SHAPE = (3, 4, 4)
NEW = ["dpm++", "dpm++sde", "sa", "ab4"]
SAMPLERS = pytest.mark.parametrize("sampler", ["euler", "heun", "sde", *NEW])


class Reads(TorchDispatchMode):
    """Counts tensors' values that are asked for in Python: item, float, bool, a test of one."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count += function is torch.ops.aten._local_scalar_dense.default
        return function(*args, **(kwargs or {}))


def model(x, t, labels):
    time, label = (each.reshape(-1, 1, 1, 1) for each in (t, labels))
    return torch.sin(x + label) * (1 - time) + x * time


def sample(sampler, device="cpu", on_time=lambda t: None):
    noise = initial_noise(1, range(2), SHAPE).to(device)
    labels = torch.tensor([0, 3]).to(device)
    settings = {"num_steps": STEPS, "guidance_interval": (0.2, 0.7), "on_time": on_time}
    velocity = classifier_free_velocity(model, labels, 5, 1.5)
    noises = {
        "interpolant": INTERPOLANTS["linear"],
        "normal": lambda step: step_noise(1, range(2), step, SHAPE),
    }
    if sampler == "ab4":
        return lambda: sample_adams(velocity, noise, order=4, **settings)
    if sampler in EXPONENTIAL_ORDERS:
        return lambda: sample_exponential(velocity, noise, method=sampler, **noises, **settings)
    if sampler != "sde":
        return lambda: sample_ode(velocity, noise, method=sampler, **settings)
    return lambda: sample_sde(velocity, noise, **noises, **settings)


@SAMPLERS
def test_no_value_of_a_tensor_is_read_while_sampling(sampler):
    run = sample(sampler)
    with Reads() as reads:
        run()
    assert reads.count == 0


@pytest.mark.parametrize("sampler", ["euler", "heun", "rk4", "sde", *NEW])
def test_who_asks_is_told_the_time_of_every_evaluation(sampler, monkeypatch):
    told, asked, network = [], [], model

    def spy(x, t, labels):
        asked.append(float(t[0]))
        return network(x, t, labels)

    monkeypatch.setitem(globals(), "model", spy)
    sample(sampler, on_time=told.append)()
    assert len(told) >= STEPS and told[0] == 1
    assert told == pytest.approx(asked, abs=1e-7)  # the network is told in float32


def test_methods_of_torchdiffeq_read_the_time_at_every_evaluation():
    run = sample("rk4")
    with Reads() as reads:
        run()
    assert reads.count >= 4 * STEPS


needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")


@pytest.mark.gpu
@needs_gpu
@SAMPLERS
def test_gpu_is_never_waited_for_while_sampling(sampler):
    run = sample(sampler, "cuda")
    run()  # the first call loads kernels
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        run()
    finally:
        torch.cuda.set_sync_debug_mode(before)


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize("sampler", ["euler", "heun", "sde", "rk4", *NEW])
def test_gpu_ends_where_the_cpu_does(sampler):
    # The velocity is float32: a few units of its rounding, 6e-8, at each of some twenty
    # evaluations, on states of size 1 to 4.
    torch.testing.assert_close(
        sample(sampler, "cuda")().cpu(), sample(sampler)(), atol=2e-5, rtol=0
    )
