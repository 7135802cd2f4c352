"""Run `repa train` in several processes where something fails, for `test_train_failures`.

`python failing_training.py FOLDER` runs each of `CASES` in a folder of its own and writes, as JSON
by their names, what each command gave. The launcher is torch's own, but its workers are forked from
this process, which has loaded everything, instead of started anew: a command takes a second.
"""

import json
import os
import resource
import sys
import time
from collections import namedtuple
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import sklearn.datasets  # noqa: F401 - what each worker would load
import torch
import torch._dynamo
import torch.distributed.launcher.api as launcher
from tiny_command import CLI_TINY
from worlds import new_world

import repa.training.loop as loop
import repa.training.step as step_module
import repa_base.files as files
import repa_base.launcher
from repa_cli import app

TINY = (*CLI_TINY, "--preview-every", "0", "--steps", "6", "--checkpoint-every", "2")
TINY += ("--log-every", "1", "--keep-last", "3", "--out", "run")
FIRST = Path("run/checkpoints/step-0000002")
PATIENCE = 20  # seconds

Usage = namedtuple("Usage", "total used free")
elastic_launch = launcher.elastic_launch


def nothing(rank: int) -> None:
    """Leave the command as it is."""


def before_step(number: int, work: Callable[[], None]) -> None:
    """Let something happen in this process before it takes the step of this number, from 1."""
    take = loop.train_step

    def step(config, state, *arguments, **options):
        if state.step + 1 == number:
            work()
        return take(config, state, *arguments, **options)

    loop.train_step = step


def no_memory_at_the_second(rank: int) -> None:
    """Let the memory of one process not suffice for the third step."""

    def refuse(*arguments):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")

    if rank == 1:
        before_step(3, lambda: setattr(step_module, "losses_of", refuse))


def files_stop_growing(rank: int) -> None:
    """Let no file grow beyond 100 kB after the first checkpoint, whoever writes it."""
    limits = (100_000, resource.getrlimit(resource.RLIMIT_FSIZE)[1])
    before_step(3, lambda: resource.setrlimit(resource.RLIMIT_FSIZE, limits))


def no_room(rank: int) -> None:
    """Let the disk have no room for a second checkpoint once the first one is there."""
    files.shutil.disk_usage = lambda path: Usage(0, 0, 1000 if FIRST.exists() else 10**9)


def wait_for_the_other(rank: int) -> None:
    """Let a run take its first step when a command beside it has ended."""

    def wait():
        deadline = time.monotonic() + PATIENCE
        while not Path("one-has-ended").exists() and time.monotonic() < deadline:
            time.sleep(0.02)

    before_step(1, wait)


@dataclass(frozen=True)
class Case:
    """A command, or several at once, what fails in their processes, and whether one goes on.

    Without a launcher the first process may have options of its own.
    """

    fail: Callable[[int], None] = nothing
    goes_on: bool = False
    at_once: int = 1
    launched: bool = True
    options: tuple[str, ...] = ()
    of_first: tuple[str, ...] = ()


CASES = {
    "whole": Case(),
    "memory": Case(no_memory_at_the_second, goes_on=True),
    "memory, without a launcher": Case(no_memory_at_the_second, launched=False),
    "other resume": Case(launched=False, of_first=("--resume", "--preset", "digits")),
    "other log": Case(launched=False, of_first=("--log-every", "2")),
    "disk": Case(files_stop_growing, goes_on=True),
    "room": Case(no_room),
    "two": Case(wait_for_the_other, at_once=2, options=("--resume", "--preset", "digits")),
}


def forking(fail: Callable[[int], None]) -> Callable[..., Callable[..., None]]:
    """Return what stands for torch's `elastic_launch`, with workers that are forked and fail."""

    def work(arguments):
        repa_base.launcher._PARENT = os.getppid()  # noted at the start by one that is not forked
        app._end = sys.exit  # torch waits for what a forked worker returns
        Path(f"worker-{os.getpid()}").touch()
        fail(int(os.environ["RANK"]))
        app.main(arguments)

    def launch(config, executable):
        config.start_method = "fork"
        return lambda dash_m, package, *arguments: elastic_launch(config, work)(list(arguments))

    return launch


def start(told: str, fail: Callable[[int], None], *arguments: str, **environment: str) -> int:
    """Fork a command that writes to TOLD.out and TOLD.err; return its id."""
    if child := os.fork():
        return child
    try:
        for descriptor, name in ((1, "out"), (2, "err")):
            os.dup2(os.open(f"{told}.{name}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC), descriptor)
        os.environ.update(environment)
        launcher.elastic_launch = forking(fail)
        if "RANK" in environment:
            fail(int(environment["RANK"]))
        app.main(["train", *TINY, *arguments])
    except SystemExit as end:
        os._exit(end.code or 0)
    finally:
        os._exit(99)


def ended(told: str, child: int, begun: float) -> dict[str, object]:
    """Wait for a command; return what it gave, and what it left of checkpoints and processes."""
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    Path("one-has-ended").touch()
    workers = [int(path.name.removeprefix("worker-")) for path in Path().glob("worker-*")]
    return {
        "code": code,
        "seconds": time.monotonic() - begun,
        **{name: Path(f"{told}.{name}").read_text() for name in ("out", "err")},
        "checkpoints": sorted(path.name for path in FIRST.parent.glob("*")),
        "alive": [pid for pid in workers if Path(f"/proc/{pid}").exists()],
    }


def run(case: Case) -> list[dict[str, object]]:
    """Run the commands of a case; return what they gave in the order in which they ended."""
    two, begun, found = ("--processes", "2"), time.monotonic(), []
    children = {start(f"{n}", case.fail, *case.options, *two): f"{n}" for n in range(case.at_once)}
    while children:
        child = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOWAIT).si_pid
        found.append(ended(children.pop(child), child, begun))
    if case.goes_on:
        child = start("on", nothing, "--resume", *two)
        found.append(ended("on", child, time.monotonic()))
    return found


def run_without_launcher(case: Case) -> list[dict[str, object]]:
    """Run two processes that nobody ends when one fails; return what each gave, by rank."""
    world, begun = new_world(2), time.monotonic()
    children = [
        start(rank, case.fail, *own, RANK=rank, LOCAL_RANK=rank, **world)
        for rank, own in (("0", case.of_first), ("1", ()))
    ]
    return [ended(f"{rank}", child, begun) for rank, child in enumerate(children)]


if __name__ == "__main__":
    torch.set_num_threads(1)
    all_found = {}
    for name, case in CASES.items():
        folder = Path(sys.argv[1]) / name
        folder.mkdir()
        os.chdir(folder)
        all_found[name] = run(case) if case.launched else run_without_launcher(case)
    sys.stdout.write(json.dumps(all_found))
