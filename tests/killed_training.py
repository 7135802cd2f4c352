"""Kill training runs of several processes at random moments, and let them go on to their end.

`python killed_training.py FOLDER SIZE SEED KILL ...` runs one undisturbed, and another of which
`all` processes are killed, or `one`, in this order. A kill counts if it leaves a checkpoint to go
on from, and not the last. Whatever is different at the end is an AssertionError. Processes are
forked from this one, which has loaded everything and computed nothing, so that a kill costs no
second.
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


def kill(children, random_numbers, *, alone):
    """Kill all processes, as when a machine dies, or one of them; return their exit codes."""
    killed = [random_numbers.choice(children)] if alone else children
    for child in killed:
        os.kill(child, signal.SIGKILL)
    found = exit_codes(children)
    spared = [code for child, code in zip(children, found, strict=True) if child not in killed]
    assert -signal.SIGKILL not in spared, found
    assert set(found) <= {0, 3, -signal.SIGKILL}, found
    return found


def main(folder, size, seed, *kills):
    random_numbers, kills = random.Random(seed), list(kills)
    begun = time.monotonic()
    assert exit_codes(fork_world(size, training, folder / "whole")) == [0] * size
    duration, expected = time.monotonic() - begun, last_checkpoint(folder / "whole")
    out = folder / "killed"
    while kills:
        children = fork_world(size, training, out)
        time.sleep(duration * random_numbers.uniform(0.2, 1))
        found = kill(children, random_numbers, alone=kills[0] == "one")
        saved = [path.name for path in out.glob("checkpoints/step-*")]
        if KEPT[-1] in saved:
            assert last_checkpoint(out) == expected
            shutil.rmtree(out)
        elif saved:
            assert set(found) != {0}, found
            kills.pop(0)
    assert exit_codes(fork_world(size, training, out)) == [0] * size
    assert last_checkpoint(out) == expected, "another end"
    left = sorted(path.name for path in (out / "checkpoints").iterdir())
    # A kill that falls after the last save and before the removal leaves one more.
    assert left in (KEPT, ["step-0000016", *KEPT]), left
    steps = [line.split(",")[0] for line in (out / "log.jsonl").read_text().splitlines()]
    assert steps == [f'{{"step": {step}' for step in range(3, 25, 3)], steps


if __name__ == "__main__":
    torch.set_num_threads(1)
    os.fsync = lambda descriptor: None  # nobody pulls the plug here
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), *sys.argv[4:])
