"""Runs that `test_processes` compares, as one of the processes that it starts.

`python training_in_processes.py FOLDER` trains in several folders and writes which errors it met.
"""

import json
import os
import sys
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import torch
from tiny_run import QUIET, TINY, numbered_data, stand_in_encoder

import repa.training.loop as loop
import repa.training.previews as previews
import repa.training.run.opening as opening
import repa.training.targets as targets
from repa.errors import RepaError
from repa_base.processes import joined_processes

PLAIN = replace(TINY, num_steps=50, batch_size=24)
ALIGNED = replace(
    PLAIN, encoder="efficientnet-lite1", projector_dim=16, weight_decay=0.1, align_until=30
)
SHORT = replace(ALIGNED, align_until=4, num_steps=7)
EVERY = replace(QUIET, checkpoint_every=50)
WATCHED = replace(EVERY, validate_every=3, preview_every=5)
PATIENCE = timedelta(minutes=2)
"""How long processes that do not call the same functions wait for each other."""

NOT_FINITE = 3
"""The step whose data one process cannot compute with, where that is tried."""


def with_numbered_images():
    """Let runs be on numbered images, the same at every process, with a stand-in encoder.

    Their previews are small.
    """
    torch.manual_seed(0)
    data = numbered_data(40)
    opening.open_training_data = lambda name, size: data
    targets.load_encoder = stand_in_encoder
    previews._ROWS = previews._STEPS = 1


def runs(folder, world):
    """Train what is compared with other numbers of processes, and with itself in two goes."""

    def run(name, config, reporting=EVERY, **options):
        return loop.train(config, folder / name, reporting=reporting, processes=world, **options)

    run("plain", PLAIN)
    run("accumulated", replace(PLAIN, accumulate=4, recompute=True))
    run("aligned", ALIGNED)
    run("aligned, accumulated", replace(ALIGNED, accumulate=4))
    run("short", SHORT)
    run("watched", SHORT, WATCHED)
    run("computed", SHORT, keep_features="nowhere")
    run("parts", replace(SHORT, num_steps=3))
    run("parts", SHORT, resume=True)
    with not_finite_at(world.size - 1, world):
        run("damaged", replace(PLAIN, num_steps=5))
    run("skipped", replace(PLAIN, num_steps=5), skip=[NOT_FINITE])


@contextmanager
def not_finite_at(rank, world):
    """Let one process alone have a loss that is not finite in the step `NOT_FINITE`."""
    take = loop.train_step

    def step(config, state, parts, **options):
        if world.rank == rank and state.step + 1 == NOT_FINITE:
            parts = [replace(part, data=part.data * float("nan")) for part in parts]
        return take(config, state, parts, **options)

    loop.train_step = step
    yield
    loop.train_step = take


def errors(folder, world):
    """Return what is said where it cannot be trained; of other arguments the last process has."""
    other = world.rank == world.size - 1
    cases = {
        "divided": (replace(PLAIN, batch_size=7), {}),
        "settings": (replace(PLAIN, learning_rate=2e-3) if other else PLAIN, {}),
        "arguments": (PLAIN, {"skip": [3]} if other else {}),
        "watching": (PLAIN, {"reporting": replace(EVERY, checkpoint_every=5) if other else EVERY}),
        "keeping": (PLAIN, {"keep_features": "nowhere"} if other else {}),
        "there": (PLAIN, {"out": folder / "plain"}),
        "apart": (ALIGNED, {"out": Path("apart")}),
    }
    place = folder / "elsewhere" if other and world.size > 1 else folder
    place.mkdir(exist_ok=True)
    os.chdir(place)  # what is called alike is not the same folder, as without a shared disk
    said = {}
    for name, (config, options) in cases.items():
        try:
            loop.train(config, **{"out": folder / name, "processes": world, **options})
        except RepaError as error:
            said[name] = str(error)
    return said


if __name__ == "__main__":
    torch.set_num_threads(1)
    with_numbered_images()
    with joined_processes(patience=PATIENCE) as world:
        runs(Path(sys.argv[1]), world)
        sys.stdout.write(json.dumps(errors(Path(sys.argv[1]), world)))
