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
import sys
import time
from dataclasses import replace
from pathlib import Path

import sklearn.datasets  # noqa: F401 - else each process loads it, for longer than it trains
import torch
import torch._dynamo
from tiny_run import QUIET, TINY, file_bytes
from worlds import exit_codes, fork_world

from repa.errors import OtherProcessError
from repa.training.loop import train
from repa_base.processes import joined_processes

CONFIG = replace(TINY, num_steps=24, batch_size=12, weight_decay=0.1)
REPORTING = replace(QUIET, checkpoint_every=4, log_every=3)
KEPT = ["step-0000020", "step-0000024"]


def training(out):
    """Begin a run in a folder, or go on with it; the code is 3 if another process has ended."""
    try:
        with joined_processes() as world:
            train(CONFIG, out, resume=True, reporting=REPORTING, processes=world)
    except OtherProcessError:
        os._exit(3)


def last_checkpoint(out):
    return file_bytes(out / f"checkpoints/step-{CONFIG.num_steps:07d}")


def kill(children, random_numbers):
    """Kill all processes, as when a machine dies, or one of them; return their exit codes."""
    alone = random_numbers.random() < 0.5
    for child in [random_numbers.choice(children)] if alone else children:
        os.kill(child, signal.SIGKILL)
    return exit_codes(children)


def main(folder, size, kills, seed):
    random_numbers, met = random.Random(seed), 0
    begun = time.monotonic()
    assert exit_codes(fork_world(size, training, folder / "whole")) == [0] * size
    duration, expected = time.monotonic() - begun, last_checkpoint(folder / "whole")
    out = folder / "killed"
    while met < kills:
        children = fork_world(size, training, out)
        time.sleep(duration * random_numbers.uniform(0.2, 1))
        found = kill(children, random_numbers)
        assert set(found) <= {0, 3, -signal.SIGKILL}, found
        met += any(code != 0 for code in found)
        if found == [0] * size and met < kills:
            assert last_checkpoint(out) == expected
            shutil.rmtree(out)
    assert exit_codes(fork_world(size, training, out)) == [0] * size
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
