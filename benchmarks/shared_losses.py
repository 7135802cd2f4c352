"""How far losses differ when a batch is shared: 1, 2 and 3 processes, and parts of a batch.

Runs `repa train` on the digits with a tiny network in float32, without alignment and with it up to
three fifths of the steps, each time by several processes (gloo, on this machine's CPU) or with
`--accumulate`, and prints the largest difference to one process, over all steps, of any loss and of
the gradient norm. Run: `python benchmarks/shared_losses.py [--steps 50]` (a few minutes)
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from timing import print_machine

MEASURED = ("loss", "velocity", "alignment", "gradient_norm")
TINY = "--model SiT-Pico/8 --image-size 32 --encoder-depth 1 --batch-size 24 --warmup-steps 0"
QUIET = "--decay-steps 0 --preview-every 0 --log-every 1 --device cpu"
WAYS = {
    "2 processes": ("--processes", "2"),
    "3 processes": ("--processes", "3"),
    "4 parts": ("--accumulate", "4"),
    "2 processes, 4 parts each": ("--processes", "2", "--accumulate", "4"),
}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=50)
    steps = parser.parse_args().steps
    print_machine()
    until = ("--projector-dim", "16", "--align-until", str(max(3 * steps // 5, 1)))
    kinds = {"none": (), "efficientnet-lite1": until}
    with tempfile.TemporaryDirectory() as folder:
        for encoder, options in kinds.items():
            asked = ("--steps", str(steps), "--encoder", encoder, *options)
            alone = losses(Path(folder) / encoder, *asked)
            for number, (way, more) in enumerate(WAYS.items()):
                found = losses(Path(folder) / f"{encoder}-{number}", *asked, *more)
                print(f"encoder {encoder}, {way}: {largest(found, alone):.1e}", flush=True)


def losses(out, *options):
    """Return what every step of a run measured."""
    command = [sys.executable, "-m", "repa_cli", "train", *TINY.split(), *QUIET.split()]
    subprocess.run([*command, "--out", out, *options], check=True, stdout=subprocess.DEVNULL)
    entries = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    return [[entry[name] for name in MEASURED] for entry in entries]


def largest(found, alone):
    """Return the largest difference of any number at any step; each has all of them."""
    pairs = zip(found, alone, strict=True)
    return max(abs(a - b) for ours, theirs in pairs for a, b in zip(ours, theirs, strict=True))


if __name__ == "__main__":
    main()
