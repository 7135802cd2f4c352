"""Quality against the weight of guidance, of every kind, on the digits model.

    repa train --preset digits --steps 1200 --decay-steps 300 --out runs/worse
    python benchmarks/guidance.py [--guide runs/worse] [--minutes 60]
    python benchmarks/solver_plots.py        draws what is known; with --tables prints it

Classifier-free guidance, CFG-Zero*, APG (its defaults: no part along the velocity, no bound, no
momentum) and, with --guide, autoguidance away from that checkpoint, a worse one of the digits. Not
internal guidance: the digits model has no middle head. Each is measured within [0, 0.7], which is
the model's own interval, and over the whole of [0, 1], by the setting of `--fast`: 200 images and
one seed a row.

Each row of docs/solvers/guidance.jsonl is on disk before the next is begun; what is there is not
measured again, so a run that was stopped goes on. Rows say what they cost in rows of the network
and the machine's load. A guide is known by its hash: rows of another one are measured anew.
"""

import argparse
import json
import time
from dataclasses import asdict
from pathlib import Path

import torch
from solvers import Setting
from sweep_rows import FOLDER, Rows, judged_images
from timing import print_machine

from repa.generation.solvers import FAST
from samplers.names import EXPONENTIAL_ORDER

SOLVER = Setting(
    "{solver} {order}".format(**FAST, order=EXPONENTIAL_ORDER),
    "{times} {shift:g}".format(**FAST),
    FAST["num_steps"],
)
WEIGHTS = (1.5, 2.0, 3.0, 4.0)
INTERVALS = ((0.0, 0.7), (0.0, 1.0))
KINDS = ("cfg", "cfg-zero", "apg", "autoguidance")


def settings_of_the_sweep(kinds, intervals=INTERVALS, weights=WEIGHTS):
    """Yield (kind, weight, interval): weight 1 once, as it is the same of all, then by interval."""
    yield "none", 1.0, None
    for interval in intervals:
        for weight in weights:
            for kind in kinds:
                yield kind, weight, interval


def asked_for(kind, weight, interval, guide):
    """Return a row's settings of `repa.generation.SampleConfig`."""
    if kind == "none":
        return {"cfg_scale": 1.0}
    asked = {"cfg_scale": weight, "guidance_interval": interval}
    return asked | ({"guide": guide} if kind == "autoguidance" else {"guidance": kind})


def hash_of(guide):
    from repa.checkpoints import read_checkpoint
    from repa.errors import RepaError

    try:
        return read_checkpoint(guide).sha256[:12]
    except RepaError as error:
        raise SystemExit(f"--guide: {error}") from error


def measure(rows, settings, *, guide=None, count=200, seed=0, until=float("inf")):
    """Add the rows that are missing, and begin none after a time of `time.monotonic`."""
    away_from = hash_of(guide) if guide else None
    for kind, weight, interval in settings:
        key = {"kind": kind, "weight": weight, "interval": interval and list(interval)}
        key |= {"guide": away_from} if kind == "autoguidance" else {}
        key |= {**asdict(SOLVER), "seed": seed, "count": count}
        if rows.has(**key):
            continue
        if time.monotonic() > until:
            print("no time left: repeat the command to go on")
            return
        made = {"num_images": count, "seed": seed, **SOLVER.protocol}
        rows.add(key | judged_images(**made, **asked_for(kind, weight, interval, guide)))
        print(json.dumps(rows.rows[-1]), flush=True)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--guide", help="a worse checkpoint of digits, or a finished run's folder")
    parser.add_argument("--minutes", type=float, default=600, help="begin no row after these")
    parser.add_argument("--count", type=int, default=200, help="images a row")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kinds", nargs="*", default=KINDS, choices=KINDS, help="only these")
    parser.add_argument("--weights", type=float, nargs="*", default=WEIGHTS, help="besides 1")
    parser.add_argument("--own-interval", action="store_true", help="only within [0, 0.7]")
    parser.add_argument("--out", type=Path, default=FOLDER / "guidance.jsonl")
    options = parser.parse_args()
    torch.set_num_threads(1)
    print_machine()
    kinds = [kind for kind in options.kinds if kind != "autoguidance" or options.guide]
    if len(kinds) < len(options.kinds):
        print("autoguidance is left out: it needs --guide")
    intervals = INTERVALS[:1] if options.own_interval else INTERVALS
    settings = settings_of_the_sweep(kinds, intervals, options.weights)
    until = time.monotonic() + 60 * options.minutes
    numbers = {"count": options.count, "seed": options.seed, "until": until}
    measure(Rows(options.out), settings, guide=options.guide, **numbers)


if __name__ == "__main__":
    main()
