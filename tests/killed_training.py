"""Kill training runs of several processes at random moments, and let them go on to their end.

`python killed_training.py FOLDER SIZE KILLS SEED` runs one undisturbed, and another that is killed
so many times; it writes how many kills met a living run. Whatever is different at the end is an
AssertionError. Processes are forked from this one, which has loaded everything and computed
nothing, so that a kill costs no second.
"""

import os
import random
import shutil
import signal
import socket
import sys
import time
from dataclasses import replace
from pathlib import Path

import sklearn.datasets  # noqa: F401 - else each process loads it, for longer than it trains
import torch
import torch._dynamo
from tiny_run import QUIET, TINY, file_bytes

from repa.errors import OtherProcessError
from repa.training.loop import train
from repa_base.processes import joined_processes

CONFIG = replace(TINY, num_steps=24, batch_size=12, weight_decay=0.1)
REPORTING = replace(QUIET, checkpoint_every=4, log_every=3)
KEPT = ["step-0000020", "step-0000024"]


def start(out, size):
    """Fork the processes of a run that begins or goes on in a folder; return their ids."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    children = []
    for rank in range(size):
        if (child := os.fork()) == 0:
            os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=port, WORLD_SIZE=str(size))
            os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank))
            try:
                with joined_processes() as world:
                    train(CONFIG, out, resume=True, reporting=REPORTING, processes=world)
            except OtherProcessError:
                os._exit(3)
            except BaseException as error:
                sys.stderr.write(f"{type(error).__name__}: {error}\n")
                os._exit(4)
            os._exit(0)
        children.append(child)
    return children


def codes(children):
    """Wait for all; return their exit codes, negative ones for signals."""
    return [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]


def last_checkpoint(out):
    return file_bytes(out / f"checkpoints/step-{CONFIG.num_steps:07d}")


def kill(children, random_numbers):
    """Kill all processes, as when a machine dies, or one of them; return their exit codes."""
    alone = random_numbers.random() < 0.5
    for child in [random_numbers.choice(children)] if alone else children:
        os.kill(child, signal.SIGKILL)
    return codes(children)


def main(folder, size, kills, seed):
    random_numbers, met = random.Random(seed), 0
    begun = time.monotonic()
    assert codes(start(folder / "whole", size)) == [0] * size
    duration, expected = time.monotonic() - begun, last_checkpoint(folder / "whole")
    out = folder / "killed"
    while met < kills:
        children = start(out, size)
        time.sleep(duration * random_numbers.uniform(0.2, 1))
        found = kill(children, random_numbers)
        assert set(found) <= {0, 3, -signal.SIGKILL}, found
        met += any(code != 0 for code in found)
        if found == [0] * size and met < kills:
            assert last_checkpoint(out) == expected
            shutil.rmtree(out)
    assert codes(start(out, size)) == [0] * size
    assert last_checkpoint(out) == expected, "another end"
    left = sorted(path.name for path in (out / "checkpoints").iterdir())
    # A kill that falls after the last save and before the removal leaves one more.
    assert left in (KEPT, ["step-0000016", *KEPT]), left
    steps = [line.split(",")[0] for line in (out / "log.jsonl").read_text().splitlines()]
    assert steps == [f'{{"step": {step}' for step in range(3, 25, 3)], steps
    sys.stdout.write(f"{met}\n")


if __name__ == "__main__":
    torch.set_num_threads(1)
    os.fsync = lambda descriptor: None  # nobody pulls the plug here
    main(Path(sys.argv[1]), *map(int, sys.argv[2:]))
