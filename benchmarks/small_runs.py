"""The small real runs that `kills.py` and `corruption.py` disturb: inputs, commands, results.

A run works in a folder of its own, with its own feature cache and temporary files, on one thread.
What is compared of its result is `result_of`; what else it leaves is told by `files_of`.
"""

import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from repa import SIT_SIZES, SiT

ROOT = Path(__file__).resolve().parents[1]
COMMANDS = ("sample", "train", "train aligned", "fid", "stats")
"""Names of the runs; `train` is without an encoder, whose features the aligned one makes first."""

_METRIC = ("--features", "efficientnet-lite0", "--batch-size", "4", "--device", "cpu")
_TRAINING = ("--model", "SiT-Pico/8", "--image-size", "32", "--encoder-depth", "1")
_TRAINING += ("--batch-size", "8", "--checkpoint-every", "4", "--log-every", "1")
_TRAINING += ("--preview-every", "0", "--encoder")
_ENCODERS = {"train": ("none",), "train aligned": ("efficientnet-lite1", "--projector-dim", "32")}


def make_inputs(folder: Path, images: int) -> None:
    """Write a checkpoint, `images` samples and as many real images, the same at every call."""
    torch.manual_seed(0)
    sizes = {"input_size": 16, "in_channels": 3, "num_classes": 5, "encoder_depth": 1}
    settings = {**SIT_SIZES["SiT-Pico/4"], **sizes, "target_dims": []}
    model = SiT(**settings)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    description = {"format": 1, "model": settings, "path_type": "linear", "dataset": "digits"}
    tensors = model.state_dict()
    save_file(tensors, folder / "tiny.safetensors", metadata={"repa": json.dumps(description)})
    random = np.random.default_rng(0)
    for name, darkest in (("some.npz", 0.0), ("real.npz", 0.4)):
        noise = random.integers(0, 256, (images, 16, 16, 3))
        bright = random.uniform(darkest, 1, (images, 1, 1, 1))
        np.savez(folder / name, (noise * bright).astype(np.uint8))


def arguments(command: str, *, images: int = 48, steps: int = 24) -> tuple[str, ...]:
    """Return what is typed after `repa`: the same line starts a run and goes on with it.

    `images` are those to sample, `steps` those to train; fid and stats take what `make_inputs`
    made. fid resamples, so that every feature moves a number; stats may replace its output, because
    a kill can come when that is there already.
    """
    if command == "sample":
        protocol = ("--num", str(images), "--steps", "10", "--batch-size", "8")
        return ("sample", "--model", "tiny.safetensors", *protocol, *_place("out.npz"))
    if command.startswith("train"):
        settings = ("--steps", str(steps), *_TRAINING, *_ENCODERS[command])
        return ("train", "--preset", "digits", *settings, "--resume", *_place("run"))
    if command == "fid":
        return ("fid", "some.npz", "--ref", "real.npz", "--bootstrap", "3", *_METRIC, "--json")
    return ("stats", "real.npz", "--out", "ref.npz", "--overwrite", *_METRIC)


def environment_of(folder: Path) -> dict[str, str]:
    """Return the environment of a run in a folder; makes its folder of temporary files."""
    (folder / "tmp").mkdir(exist_ok=True)
    own = {"REPA_CACHE": str(folder / "cache"), "TMPDIR": str(folder / "tmp")}
    return {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **own}


def result_of(command: str, folder: Path, stdout: str, *, log: bool = True) -> dict[str, object]:
    """Return what must be the same after every disturbance, by name; empty if it is not there.

    Of sample and stats that is the NPZ, byte for byte; of fid the JSON but for `run`, which says
    how many processes measured, and for warnings of damaged features; of train the newest
    checkpoint's weights, moving average and optimizer, byte for byte, and with `log` the losses of
    every step.
    """
    if command in ("sample", "stats"):
        path = folder / ("out.npz" if command == "sample" else "ref.npz")
        return {path.name: path.read_bytes()} if path.exists() else {}
    if command == "fid":
        report = json.loads(stdout)["samples"] if stdout.strip() else {}
        said = [w for w in report.get("warnings", ()) if w["check"] != "feature-cache"]
        return _without({**report, "warnings": said}, "run") if report else {}
    newest = max((folder / "run/checkpoints").glob("step-*"), default=None)
    if newest is None:
        return {}
    found: dict[str, object] = {
        f"{newest.name}/{name}": (newest / f"{name}.safetensors").read_bytes()
        for name in ("model", "ema", "optimizer")
    }
    if log:
        lines = (folder / "run/log.jsonl").read_text().splitlines()
        found["losses"] = [_without(json.loads(line), "steps_per_second") for line in lines]
    return found


def difference(found: Mapping[str, object], wanted: Mapping[str, object]) -> str:
    """Name what of a result is not as wanted; an empty text if all is."""
    names = sorted(n for n in {**found, **wanted} if found.get(n) != wanted.get(n))
    return ", ".join(name if name in found else f"no {name}" for name in names)


def files_of(folder: Path) -> set[str]:
    """Return files and folders below a folder, without torchrun's own logs."""
    paths = (path.relative_to(folder).as_posix() for path in folder.rglob("*"))
    return {path for path in paths if not re.match(r"tmp/torchelastic_", path)}


def print_table(headings: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print a table, first column to the left, numbers to the right."""
    texts = [[str(cell) for cell in row] for row in (headings, *rows)]
    widths = [max(len(row[i]) for row in texts) for i in range(len(headings))]
    for row in texts:
        cells = [cell.rjust(width) for cell, width in zip(row, widths, strict=True)]
        print("  ".join([row[0].ljust(widths[0]), *cells[1:]]).rstrip())


def _place(out: str) -> tuple[str, ...]:
    return ("--out", out, "--device", "cpu")


def _without(values: Mapping[str, object], name: str) -> dict[str, object]:
    return {key: value for key, value in values.items() if key != name}
