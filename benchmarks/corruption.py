"""Damage the files that an interrupted run leaves, one file at a time, and repeat the command.

Claim: the command ends with the result that it has without the damage, byte for byte, or with one
line, "repa: error: ...", and exit code 1 or 2. It never ends silently with another result, with a
traceback, or not at all.

The states are left by real commands, killed when half of the work was done: `sample`; `train`, gone
on with once by another learning rate and a step left out; `fid` at its second set of images; and
the feature cache of a finished `fid`, used by `fid` and `stats`. Every file in them is damaged in
turn in every way of `KINDS`. To be fast, every repetition is the command's own `main()` in a fork
of one warm process, made before any thread starts. What is compared says `small_runs.result_of`:
the NPZ of `sample` and `stats`, `fid`'s JSON, and of a training its last weights, moving average
and optimizer; `log.jsonl`, which tells of a run and decides nothing of it, is not compared.
"""

import argparse
import json
import os
import re
import shutil
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import small_runs
from forked_run import Forked, warm_up
from small_runs import arguments, difference, files_of, print_table, result_of
from timing import print_machine
from tqdm import tqdm

KINDS = ("flip", "digit", "cut", "zero", "fill", "lengthen")
"""One to three bits turned; a digit among the first bytes made another, which leaves JSON whole;
the end cut off, every second time behind a line; a stretch of zeros; a stretch of ones, as marks of
images may be; random bytes behind the end."""
HEAD = 4096
"""Bytes among which digits are sought."""
SHARES = {"sample": 7, "train": 7, "fid killed": 2, "fid cached": 2, "stats cached": 2}
"""Of the trials, by state."""
PATIENCE, SLOWER = 60.0, 20
"""A repetition hangs after so many seconds, and so many times those that it takes undamaged."""
IMAGES = 16
BAD = ("different", "faults", "hangs")
COLUMNS = ("trials", "identical", "refused", *BAD)
RESUME = ("train", "--out", "run", "--resume", "--device", "cpu")


@dataclass
class State:
    """A folder as a run left it, the command that goes on with it, and how that ends."""

    name: str
    folder: Path
    command: tuple
    wanted: dict
    files: list
    seconds: float = 0.0


def stopped(folder, command, is_ready):
    """Run a command until a state is reached, and kill it there."""
    run = Forked(folder, command)
    while not is_ready():
        if run.ends():
            raise SystemExit(f"{command[0]} ended before it was killed: {run.texts()[1]}")
        time.sleep(0.001)
    run.kill()


def completed(folder, command):
    """Run a command to its end; return what it printed on stdout."""
    run = Forked(folder, command)
    if not run.ends_within(5 * PATIENCE) or run.code:
        raise SystemExit(f"{command[0]} fails undamaged: {run.texts()[1]}")
    return run.texts()[0]


def leave(name, folder):
    """Let a run be interrupted in a folder; return the command that goes on with it."""
    command = arguments(name.split()[0], images=48)
    if name == "sample":
        part = folder / "out.npz.part"

        def half_done():
            content = part.read_bytes() if part.exists() else b""
            return len(content) - content.count(0) > len(content) / 2

        stopped(folder, command, half_done)
    elif name == "train":
        checkpoints = folder / "run/checkpoints"
        command = arguments("train aligned")
        stopped(folder, command, (checkpoints / "step-0000004").exists)
        more = ("--learning-rate", "0.0005", "--skip", "15")
        stopped(folder, (*command, *more), (checkpoints / "step-0000008").exists)
        return RESUME
    elif name == "fid killed":
        cache = folder / "cache/features"

        def in_second_set():
            names = [path.name for path in cache.iterdir()] if cache.exists() else []
            entries = [name for name in names if re.fullmatch("[0-9a-f]{32}", name)]
            return len(entries) == 1 and any(name.startswith(".") for name in names)

        stopped(folder, command, in_second_set)
    else:
        completed(folder, arguments("fid"))
    return command


def make_state(name, parent):
    """Leave a state, and go on with a copy of it to know its end."""
    folder = parent / name.replace(" ", "-")
    folder.mkdir()
    small_runs.make_inputs(folder, IMAGES)
    inputs = files_of(folder)
    command = leave(name, folder)
    left = sorted(files_of(folder) - inputs)
    files = [path for path in left if (folder / path).is_file() and not path.startswith("tmp/")]
    copy = folder.with_name(f"{folder.name}-undamaged")
    shutil.copytree(folder, copy)
    start = time.monotonic()
    out = completed(copy, command)
    seconds = time.monotonic() - start
    wanted = result_of(command[0], copy, out, log=False)
    shutil.rmtree(copy)
    return State(name, folder, command, wanted, files, seconds)


def damaged(content, kind, random):
    """Return other bytes than `content`; None where a file has nothing to damage in that way."""
    size = len(content)
    if kind == "lengthen":
        return content + random.bytes(int(10 ** random.uniform(0, 3.5)))
    if size == 0:
        return None
    if kind == "cut":
        lines = [
            0,
            *(i + 1 for i, byte in enumerate(content[:HEAD]) if byte == 10 and i + 1 < size),
        ]
        places = lines if random.random() < 0.5 else range(size)
        return content[: int(random.choice(places))]
    changed = bytearray(content)
    if kind == "digit":
        digits = [i for i, byte in enumerate(content[:HEAD]) if 48 <= byte < 58]
        if not digits:
            return None
        place = int(random.choice(digits))
        changed[place] = 48 + (content[place] - 48 + int(random.integers(1, 10))) % 10
        return bytes(changed)
    if kind == "flip":
        for place in random.choice(size, min(size, int(random.integers(1, 4))), replace=False):
            changed[place] ^= 1 << int(random.integers(8))
        return bytes(changed)
    for _ in range(100):
        length = int(size ** random.uniform(0, 1))
        start = int(random.integers(size - length + 1))
        changed[start : start + length] = (b"\0" if kind == "zero" else b"\1") * length
        if changed != content:
            return bytes(changed)
    return None


def try_once(state, file, content, parent):
    """Go on with a state one of whose files has another content; return outcome and details."""
    folder = Path(tempfile.mkdtemp(dir=parent))
    shutil.copytree(state.folder, folder, dirs_exist_ok=True)
    (folder / file).write_bytes(content)
    run = Forked(folder, state.command)
    if not run.ends_within(PATIENCE + SLOWER * state.seconds):
        run.kill()
        return "hangs", run.texts()[1]
    out, err = run.texts()
    outcome, details = judge(state, folder, run.code, out, err)
    shutil.rmtree(folder)
    return outcome, details


def judge(state, folder, code, out, err):
    """Return the outcome of a repetition, and what is wrong with it."""
    lines = [line for line in err.splitlines() if line.startswith("repa: error:")]
    in_words = code in (1, 2) and len(lines) == 1 and "Traceback" not in err
    if code and not in_words:
        return "faults", f"exit {code}: {' '.join(err.split())[-400:]}"
    found = result_of(state.command[0], folder, out if code == 0 else "", log=False)
    if code:
        # Refused; what stands there under the name of a result must be right all the same.
        found = {**state.wanted, **{n: v for n, v in found.items() if n in state.wanted}}
    if other := difference(found, state.wanted):
        return "different", f"exit {code}: {other} {' '.join(lines)}"
    return ("refused", lines[0]) if code else ("identical", "")


def label(path):
    """Return a file's name in the tables, without what is random in it."""
    path = re.sub(r"features/[0-9a-f]{32}/", "features/ENTRY/", path)
    return re.sub(r"/\.[^/]*(?:[0-9a-f]{16}[^/]*|\.part)/", "/UNFINISHED/", path)


def all_trials(options, parent):
    """Make the states and damage them; return trials as (state, file, kind, outcome, details)."""
    states = [make_state(name, parent) for name in options.only or SHARES]
    shares = sum(SHARES[state.name] for state in states)
    done = []
    progress = tqdm(total=options.trials, unit=" trials", mininterval=1)
    for number, state in enumerate(states):
        order = np.random.default_rng([options.seed, number])
        files = [file for file in state.files if options.file in file]
        cells = [(file, kind) for file in files for kind in KINDS]
        count = -(-options.trials * SHARES[state.name] // shares)
        made = 0
        while made < count:
            for place in order.permutation(len(cells)):
                file, kind = cells[place]
                random = np.random.default_rng([options.seed, number, made])
                content = damaged((state.folder / file).read_bytes(), kind, random)
                if content is None or made == count:
                    continue
                outcome, details = try_once(state, file, content, parent)
                done.append((state.name, label(file), kind, outcome, details))
                made += 1
                progress.update()
                if outcome in BAD:
                    print(f"{outcome}: {' / '.join(done[-1][:3])}: {details}", file=sys.stderr)
    progress.close()
    return done


def report(trials):
    """Print what became of the trials, by file and by kind of damage."""
    by_file, by_kind = {}, {}
    for state, file, kind, outcome, _ in trials:
        rows = (by_file, f"{state}: {file}"), (by_kind, kind), (by_kind, "all")
        for table, key in rows:
            table.setdefault(key, Counter()).update([outcome, "trials"])
    for heading, table in (("state: file", by_file), ("damage", by_kind)):
        rows = [[key, *(row[c] for c in COLUMNS)] for key, row in sorted(table.items())]
        print_table((heading, *COLUMNS), rows)
        print()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=600)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--only", nargs="+", choices=SHARES, metavar="STATE", help=", ".join(SHARES)
    )
    parser.add_argument("--file", default="", help="only files whose path has this in it")
    parser.add_argument("--folder", type=Path, help="where to work; some 100 MB")
    parser.add_argument("--json", action="store_true", help="print every trial as JSON")
    options = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    if not options.json:
        print_machine()
    warm_up()
    start = time.monotonic()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        trials = all_trials(options, Path(folder))
    minutes = (time.monotonic() - start) / 60
    counts = Counter(outcome for *_, outcome, _ in trials)
    if options.json:
        names = ("state", "file", "damage", "outcome", "details")
        listed = [dict(zip(names, trial, strict=True)) for trial in trials]
        total = {"trials": len(trials), **counts, "seed": options.seed, "minutes": minutes}
        print(json.dumps({"total": total, "trials": listed}, indent=2))
    else:
        report(trials)
        print(f"seed {options.seed}, {minutes:.1f} minutes")
    return int(any(counts[outcome] for outcome in BAD))


if __name__ == "__main__":
    sys.exit(main())
