import pytest
import torch

from repa_base.device import float32_precision, out_of_memory_in_words, resolve_device
from repa_base.errors import NoMemoryError, RepaError

SWITCHES = torch.backends.cuda.matmul, torch.backends.cudnn


@pytest.fixture(params=[(False, True), (True, False)])
def before(request):
    """Set the switches of matrix products and of convolutions, and put them back."""
    found = [switch.allow_tf32 for switch in SWITCHES]
    for switch, value in zip(SWITCHES, request.param, strict=True):
        switch.allow_tf32 = value
    yield list(request.param)
    for switch, value in zip(SWITCHES, found, strict=True):
        switch.allow_tf32 = value


@pytest.mark.parametrize("tf32", [True, False])
def test_both_switches_are_set_and_put_back_even_after_an_error(before, tf32):
    with pytest.raises(ValueError, match="inside"), float32_precision(tf32=tf32):
        assert [switch.allow_tf32 for switch in SWITCHES] == [tf32, tf32]
        raise ValueError("inside")
    assert [switch.allow_tf32 for switch in SWITCHES] == before


def test_devices_that_are_not_there_are_refused_in_words(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert resolve_device("auto") == torch.device("cpu")
    assert resolve_device("cuda:0") == torch.device("cuda:0")
    with pytest.raises(RepaError, match="'cuda:1' is not available: PyTorch sees 1 GPUs"):
        resolve_device("cuda:1")
    with pytest.raises(RepaError, match="unknown device 'gpu': use auto, cpu"):
        resolve_device("gpu")
    with pytest.raises(RepaError, match="'mps' is not known to work: use auto, cpu"):
        resolve_device("mps")


def product(dtype):
    random = torch.Generator().manual_seed(0)
    left, right = (torch.randn(512, 512, generator=random).to("cuda", dtype) for _ in range(2))
    return left @ right


def convolution(dtype):
    random = torch.Generator().manual_seed(0)
    images = torch.randn(8, 64, 32, 32, generator=random).to("cuda", dtype)
    kernels = torch.randn(64, 64, 3, 3, generator=random).to("cuda", dtype)
    return torch.nn.functional.conv2d(images, kernels, padding=1)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
@pytest.mark.parametrize("compute", [product, convolution])
def test_float32_on_a_gpu_is_exact_to_its_last_digits_only_without_tf32(compute):
    exact = compute(torch.float64)
    errors = {}
    for tf32 in (False, True):
        with float32_precision(tf32=tf32):
            difference = compute(torch.float32).double() - exact
        errors[tf32] = (difference.norm() / exact.norm()).item()
    # float32 rounds to 2^-24 and TF32 to 2^-11; sums of about 500 terms leave both near that.
    assert errors[False] < 1e-5
    assert errors[True] > 1e-4, "a GPU without TF32 (before Ampere) cannot show the difference"


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB."),
        RuntimeError("CUDA error: out of memory"),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to"),
        RuntimeError("[enforce fail] DefaultCPUAllocator: not enough memory: you tried to"),
        MemoryError(),
    ],
)
def test_memory_that_does_not_suffice_is_said_in_words(error):
    with pytest.raises(NoMemoryError) as caught, out_of_memory_in_words("here: try less"):
        raise error
    assert str(caught.value) == "out of memory here: try less"
    assert caught.value.__cause__ is error


@pytest.mark.parametrize("error", [RuntimeError("shapes differ"), RepaError("out of memory")])
def test_what_else_goes_wrong_is_not_said_to_be_of_the_memory(error):
    with pytest.raises(type(error)) as caught, out_of_memory_in_words("here"):
        raise error
    assert caught.value is error
