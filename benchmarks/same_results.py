"""Compare what two commits make, side by side on one machine: images of seeds, and a training.

Claim: bit for bit the same. `python benchmarks/same_results.py OLD [NEW]` clones both commits of
this repository and runs with each, one after the other, 24 digits by each solver from the shipped
model and a training of 40 steps from scratch. Other machines round otherwise, so only results of
the same run are compared.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file

ROOT = Path(__file__).resolve().parents[1]
SOLVERS = ("heun", "sde")
SAMPLE = ("sample", "--model", "digits", "--num", "24", "--steps", "10", "--cfg", "2.0")
TRAIN = ("train", "--preset", "digits", "--steps", "40", "--checkpoint-every", "20")
TRAIN += ("--preview-every", "40")
STATE = ("model", "ema", "optimizer")


def clone(commit, folder):
    """Check a commit out in a folder of its own."""
    subprocess.run(["git", "clone", "--quiet", "--no-checkout", ROOT, folder], check=True)
    subprocess.run(["git", "-C", folder, "checkout", "--quiet", commit], check=True)


def make(code, out):
    """Run the commands of one commit; its own files are imported, whatever is installed."""
    environment = {**os.environ, "PYTHONPATH": str(code), "OMP_NUM_THREADS": "1"}
    runs = [(*SAMPLE, "--solver", s, "--out", f"{s}.npz", "--device", "cpu") for s in SOLVERS]
    for arguments in (*runs, (*TRAIN, "--out", "run", "--device", "cpu")):
        command = [sys.executable, "-m", "repa_cli", *arguments]
        subprocess.run(command, cwd=out, env=environment, check=True, capture_output=True)


def results(out):
    """Return every array that is compared, by the name of what it belongs to."""
    made = {}
    for solver in SOLVERS:
        with np.load(out / f"{solver}.npz") as file:
            made[f"images, {solver}"] = {"arr_0": file["arr_0"]}
            made[f"labels, {solver}"] = {"arr_1": file["arr_1"]}
    checkpoint = max((out / "run" / "checkpoints").glob("step-*"))
    for name in STATE:
        tensors = load_file(checkpoint / f"{name}.safetensors")
        arrays = {key: np.atleast_1d(tensor.numpy()) for key, tensor in tensors.items()}
        made[f"{name}, {checkpoint.name}"] = arrays
    return made


def difference(old, new):
    """Say how two dictionaries of arrays differ; an empty text if they do not, bit for bit."""
    if old.keys() != new.keys():
        return f"other names: {', '.join(sorted(old.keys() ^ new.keys())[:3])}"
    largest = None
    for name in old:
        if (old[name].dtype, old[name].shape) != (new[name].dtype, new[name].shape):
            return f"{name} has another type or shape"
        if old[name].tobytes() != new[name].tobytes():
            gap = np.abs(old[name].astype(np.float64) - new[name].astype(np.float64)).max()
            largest = max(gap, largest or 0)
    return "" if largest is None else f"largest difference {largest:.3g}"


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("old", help="commit")
    parser.add_argument("new", nargs="?", default="HEAD", help="commit (default HEAD)")
    options = parser.parse_args()
    made = []
    with tempfile.TemporaryDirectory() as folder:
        for side, commit in (("old", options.old), ("new", options.new)):
            code, out = Path(folder) / side / "code", Path(folder) / side / "out"
            out.mkdir(parents=True)
            name = ["git", "-C", ROOT, "rev-parse", "--short", commit]
            print(f"{side}: {subprocess.check_output(name, text=True).strip()}", flush=True)
            clone(subprocess.check_output(name, text=True).strip(), code)
            make(code, out)
            made.append(results(out))
    old, new = made
    print(f"torch {torch.__version__}, numpy {np.__version__}, one thread\n")
    print(f"{'what':<28}{'arrays':>8}{'numbers':>12}  result")
    failed = old.keys() != new.keys()
    for what in {**old, **new}:
        found = difference(old.get(what, {}), new.get(what, {}))
        failed = failed or bool(found)
        count = sum(array.size for array in new.get(what, {}).values())
        print(f"{what:<28}{len(new.get(what, {})):>8}{count:>12,}  {found or 'equal'}")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
