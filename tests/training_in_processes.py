"""Runs that `test_processes` compares, as one of the processes that it starts.

`python training_in_processes.py FOLDER` trains in several folders and writes which errors it met.
"""

import json
import sys
from dataclasses import replace
from pathlib import Path

import torch
from tiny_run import QUIET, TINY, numbered_data, stand_in_encoder

import repa.training.run.opening as opening
import repa.training.targets as targets
from repa.errors import RepaError
from repa.training.loop import train
from repa_base.processes import joined_processes

PLAIN = replace(TINY, num_steps=50, batch_size=12)
ALIGNED = replace(
    TINY, encoder="efficientnet-lite1", projector_dim=16, weight_decay=0.1, batch_size=12
)
ALIGNED = replace(ALIGNED, align_until=4, num_steps=7)
EVERY = replace(QUIET, checkpoint_every=4)


def with_numbered_images():
    """Let runs be on numbered images, the same at every process, with a stand-in encoder."""
    torch.manual_seed(0)
    data = numbered_data(40)
    opening.open_training_data = lambda name, size: data
    targets.load_encoder = lambda name, device: stand_in_encoder(name)


def runs(folder, world):
    """Train what is compared with other numbers of processes, and with itself in two goes."""

    def run(name, config, **options):
        return train(config, folder / name, reporting=EVERY, processes=world, **options)

    run("plain", PLAIN)
    run("accumulated", replace(PLAIN, accumulate=2, recompute=True))
    run("aligned", ALIGNED)
    run("computed", ALIGNED, keep_features="nowhere")
    run("parts", replace(ALIGNED, num_steps=3))
    run("parts", ALIGNED, resume=True)


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
    }
    said = {}
    for name, (config, options) in cases.items():
        try:
            train(config, **{"out": folder / name, "processes": world, **options})
        except RepaError as error:
            said[name] = str(error)
    return said


if __name__ == "__main__":
    torch.set_num_threads(1)
    with_numbered_images()
    with joined_processes() as world:
        runs(Path(sys.argv[1]), world)
        sys.stdout.write(json.dumps(errors(Path(sys.argv[1]), world)))
