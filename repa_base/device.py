"""What to compute on: the device, its memory, compiler and time, and what numbers may depend on."""

import platform
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path

import numpy as np
import scipy
import torch

from repa_base.errors import NoMemoryError, RepaError, first_line, is_out_of_memory

_COMPILERS = ("torch._dynamo", "torch._inductor")
ENOUGH = 2.0  # seconds of a measurement
FEWEST, MOST = 3, 50  # repetitions
SLOW = 3.0  # seconds of what is not repeated


def resolve_device(name: str) -> torch.device:
    """Return the named device; `auto` is a GPU when there is one, else the CPU.

    Raises:
        RepaError: No such device, or it is not available here; or one of neither kind, such as mps,
            which lacks the float64 that samplers and losses need.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise RepaError(f"unknown device {name!r}: use auto, cpu, cuda or cuda:1.") from error
    if device.type not in ("cpu", "cuda"):
        raise RepaError(f"device {name!r} is not known to work: use auto, cpu, cuda or cuda:1.")
    if device.type == "cuda" and (device.index or 0) >= (count := torch.cuda.device_count()):
        raise RepaError(f"device {name!r} is not available: PyTorch sees {count} GPUs.")
    return device


def computes_bf16(device: torch.device) -> bool:
    """Whether a device has instructions for bfloat16; without them it is slower than float32."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    flags = Path("/proc/cpuinfo")
    if device.type != "cpu" or not flags.exists():
        return platform.machine() == "arm64"  # Apple's
    return any(name in flags.read_text() for name in ("amx_bf16", "avx512_bf16", " bf16 "))


def remarks_on(precision: str, device: torch.device | str) -> list[str]:
    """Return what a person should know of computing in a precision on a device, in words."""
    if precision != "bf16" or computes_bf16(torch.device(device)):
        return []
    return ["precision bf16: this CPU has no instructions for it, and fp32 is faster here."]


def on_device(tensor: torch.Tensor, device: torch.device | str) -> torch.Tensor:
    """Return a tensor where it is computed with; a GPU is not waited for."""
    if torch.device(device).type != "cuda" or tensor.is_cuda:
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


def kernels_of(device: torch.device) -> str:
    """Return whose arithmetic a device has: a GPU's name, or a CPU's widest instructions."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type} ({torch.backends.cpu.get_cpu_capability()})"


@contextmanager
def float32_precision(*, tf32: bool) -> Iterator[None]:
    """Allow or forbid TensorFloat-32, on GPUs, in matrix products and in convolutions.

    Both switches are PyTorch's own and hold for the whole process; they are put back afterwards. A
    CPU computes in full float32 either way.
    """
    switches = torch.backends.cuda.matmul, torch.backends.cudnn
    before = [switch.allow_tf32 for switch in switches]
    try:
        for switch in switches:
            switch.allow_tf32 = tf32  # pyright: ignore[reportAttributeAccessIssue]
        yield
    finally:
        for switch, value in zip(switches, before, strict=True):
            switch.allow_tf32 = value  # pyright: ignore[reportAttributeAccessIssue]


@contextmanager
def compiler_errors_as(kind: type[RepaError]) -> Iterator[None]:
    """Say in one line, as an error of a kind, that a network cannot be compiled on this machine.

    Networks are compiled when they are first called, which is what is to be done in here. All other
    errors stay as they are.
    """
    try:
        yield
    except Exception as error:
        if not type(error).__module__.startswith(_COMPILERS):
            raise
        reason = first_line(error).rstrip(". ")
        said = f"The network cannot be compiled on this machine: {reason}; leave compilation out."
        raise kind(said) from error


@contextmanager
def out_of_memory_in_words(said: str) -> Iterator[None]:
    """Say in one line, "out of memory" and what is `said`, that what is done in here has no room.

    All other errors stay as they are.

    Raises:
        NoMemoryError: The memory does not suffice, of a GPU or of the machine.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise NoMemoryError(f"out of memory {said}") from error


def free_memory(device: torch.device | str) -> int | None:
    """Return the bytes that are free on a device; None where that is unknown."""
    device = torch.device(device)
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    try:
        lines = Path("/proc/meminfo").read_text("ascii").splitlines()
        (line,) = [line for line in lines if line.startswith("MemAvailable:")]
        return 1024 * int(line.split()[1])
    except (OSError, ValueError):
        return None


def fastest(work: Callable[[], object], device: torch.device | str) -> tuple[float, int]:
    """Return the least seconds of some repetitions within a time limit, and how many there were.

    What else the machine does at the moment makes some slower, and none faster. The first, which
    loads and allocates, does not count, unless it is so slow that there is no other.
    """
    first = seconds_of(work, device)
    if first > SLOW:
        return first, 1
    found = []
    while len(found) < FEWEST or (sum(found) < ENOUGH and len(found) < MOST):
        found.append(seconds_of(work, device))
        if sum(found) > 2 * ENOUGH:  # others keep the machine busy
            break
    return min(found), len(found)


def seconds_of(work: Callable[[], object], device: torch.device | str) -> float:
    """Return the seconds until a device has done some work, once."""
    _wait(device)
    start = time.perf_counter()
    work()
    _wait(device)
    return time.perf_counter() - start


def _wait(device: torch.device | str) -> None:
    """Wait until a GPU has done all that it was told; a CPU has."""
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)


def toolkit_version() -> str:
    """Return the version of this toolkit, "unknown" if it is not installed."""
    try:
        return metadata.version("repa-toolkit")
    except metadata.PackageNotFoundError:
        return "unknown"


def environment() -> dict[str, str]:
    """Return what the numbers of this installation may depend on."""
    return {
        "python": platform.python_version(),
        "machine": platform.machine(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "scipy": scipy.__version__,
    }
