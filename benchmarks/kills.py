"""Kill real runs of `sample`, `train`, `fid` and `stats` at random moments, and repeat them.

Claim: whoever is killed, and whenever, the same command, repeated until it ends, gives the result
of a run that nobody disturbed, byte for byte, and leaves nothing else behind: no unfinished file,
no hidden folder, and a minute after a kill no process.

Runs are processes as a person starts them, alone or two or three under torchrun. A life is a folder
in which one command is started, killed (SIGKILL) at a moment drawn uniformly from the time that an
undisturbed run takes, and repeated, perhaps with another number of processes, up to six times, and
then let end. Under torchrun the launcher alone is killed, or one worker, or the launcher and the
first worker, or all; the repetition starts at once, beside what lives on, and again when that has
gone, if it was told to wait. A quarter of the lives of `sample` begin with the kill of a run of
another seed, whose output `--overwrite` then replaces. Needs Linux (/proc).

What is compared says `small_runs.result_of`. Sums that several processes share differ from those of
one in the last digits: `fid` and `stats` must equal an undisturbed run by as many processes as took
part; where a life of `fid` had several numbers, within 1e-9 of each number ("last digits").
"""

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import small_runs
from small_runs import arguments, difference, files_of, print_table, result_of
from started_run import WHO, StartedRun
from timing import print_machine
from tqdm import tqdm

SHARES = {"sample": 4, "train": 3, "train aligned": 1, "fid": 2, "stats": 2}
"""Of the lives, by command."""
SIZES = {"train": (1,), "train aligned": (1,)}
"""Numbers of processes to draw from, of the commands that are tried by one process alone."""
SHARED = (1, 1, 2, 3)
"""The same of the others: half of the runs are a single process, which is started soonest."""
IMAGES = {"sample": 160, "fid": 24, "stats": 24}
WHO_SHARES = (0.35, 0.35, 0.2, 0.1)
"""Of the kills under torchrun, in the order of `WHO`; a single process is all that there is."""
MOST_KILLS, OTHER_SEED_SHARE = 6, 0.25
LONGEST = 300.0
"""Seconds after which a run that is not killed hangs."""
IN_USE = ("by another run", "another run's by now", "another process trains")
"""Of the messages that tell to wait for a run that lives on."""

BAD = ("different", "errors", "leftovers", "orphans")
COLUMNS = ("lives", "kills", "resumes", "waits", "identical", "last digits", *BAD)


class Undisturbed:
    """What a command does when nobody disturbs it, by the number of processes."""

    def __init__(self, command, parent):
        self.command, self.seconds, self.results = command, {}, {}
        for size in sorted(set(SIZES.get(command, SHARED))):
            folder, start = new_folder(parent, command), time.monotonic()
            run = StartedRun(folder, typed(command), size)
            ended, self.seconds[size] = run.ends_within(LONGEST), time.monotonic() - start
            out, err = run.texts()
            if not ended or run.process.returncode:
                raise SystemExit(f"{command} by {size} processes fails undisturbed: {err}")
            self.results[size], self.files = result_of(command, folder, out), files_of(folder)
            print(f"{command} by {size}: {self.seconds[size]:.1f} s undisturbed", file=sys.stderr)
            remove(folder)


class Counts:
    """What happened: by command, and by command and who was killed; kills by size as well."""

    def __init__(self):
        self.kills, self.rows, self.notes = Counter(), {}, []

    def add(self, command, column, count=1, who=("",)):
        """Count something of a command, once for every name in `who`; no name is its total."""
        for name in who:
            self.rows.setdefault((command, name), Counter())[column] += count

    def total(self):
        """Return the counts of all commands."""
        return sum((row for (_, who), row in self.rows.items() if not who), Counter())


class Life:
    """A folder in which one command is started, killed and repeated until it ends."""

    def __init__(self, number, seed, undisturbed, counts, turn, parent):
        self.undisturbed, self.counts, self.turn = undisturbed, counts, turn
        self.command, self.number = undisturbed.command, number
        self.random = np.random.default_rng([seed, number])
        self.folder = new_folder(parent, self.command)
        self.inputs = files_of(self.folder)
        self.killed, self.sizes, self.who, self.story = [], set(), {""}, []

    def live(self):
        """Go through all kills to the end, and count."""
        most, more, waits = int(self.random.integers(1, MOST_KILLS + 1)), (), 0
        if self.command == "sample" and self.random.random() < OTHER_SEED_SHARE:
            self.start(("--seed", "1"), killed=True)
            more = ("--overwrite",)
        while True:
            run = self.start(more, killed=len(self.killed) < most)
            if run.killed_at is not None:
                continue
            code, (out, err) = run.process.poll(), run.texts()
            if code and waits < 2 * MOST_KILLS and any(text in err for text in IN_USE):
                waits += 1
                self.counts.add(self.command, "waits", who=self.who)
                self.end_orphans()
                continue
            break
        if code:
            self.fault("errors", f"exit {code}: {' '.join(err.split())[-600:]}")
        self.end_orphans()
        if not code:
            self.compare(result_of(self.command, self.folder, out))
        self.counts.add(self.command, "lives", who=self.who)

    def start(self, more, *, killed):
        """Start the command, and kill it, at a moment that may come too late."""
        size = int(self.random.choice(SIZES.get(self.command, SHARED)))
        who = str(self.random.choice(WHO, p=WHO_SHARES))
        moment = self.random.uniform(0, self.undisturbed.seconds[size])
        with self.turn:
            if self.killed and files_of(self.folder) - self.inputs:
                self.counts.add(self.command, "resumes", who=self.who)
            run = StartedRun(self.folder, typed(self.command, *more), size)
            self.sizes.add(size)
            if run.ends_within(moment if killed else LONGEST):
                self.story.append(f"{size} ended")
                return run
            who = run.kill(who, self.random)
        self.killed.append(run)
        self.who.add(who)
        self.story.append(f"{size} killed ({who}) at {moment:.2f} s")
        if killed:
            self.counts.kills[self.command, who, size] += 1
            self.counts.add(self.command, "kills", who=("", who))
        else:
            self.fault("errors", f"hangs: no end within {LONGEST:.0f} s")
        return run

    def end_orphans(self):
        """Wait for what lives on of killed runs; a minute after the kill it is a fault."""
        for run in self.killed:
            if orphans := run.end_orphans():
                self.fault("orphans", f"{orphans} processes lived a minute after a kill", orphans)

    def compare(self, found):
        """Compare the result with undisturbed runs, and the folder with theirs."""
        results = self.undisturbed.results
        wanted = [results[size] for size in sorted(self.sizes)]
        if found in wanted:
            self.counts.add(self.command, "identical", who=self.who)
        elif self.command == "fid" and len(wanted) > 1 and is_close(found, wanted[0]):
            self.counts.add(self.command, "last digits", who=self.who)
        else:
            self.fault("different", difference(found, wanted[0]))
        files, wanted_files = files_of(self.folder), self.undisturbed.files
        odd = sorted(files - wanted_files) + [f"no {n}" for n in sorted(wanted_files - files)]
        if odd:
            self.fault("leftovers", ", ".join(odd[:6]), len(odd))

    def fault(self, column, what, count=1):
        """Count something that must not happen, and tell it with the life's story."""
        self.counts.add(self.command, column, count, who=self.who)
        note = f"life {self.number} of {self.command}: {column}: {what} [{'; '.join(self.story)}]"
        self.counts.notes.append(note)
        print(note, file=sys.stderr, flush=True)


def new_folder(parent, command):
    folder = Path(tempfile.mkdtemp(prefix=f"{command.split()[0]}-", dir=parent))
    small_runs.make_inputs(folder, IMAGES.get(command, 2))
    return folder


def typed(command, *more):
    return (*arguments(command, images=IMAGES.get(command, 2)), *more)


def remove(folder):
    """Remove a folder, into which a process that was just killed may have written."""
    subprocess.run(["rm", "-rf", str(folder)], check=False)


def is_close(found, wanted):
    """Whether plain values are equal but for a billionth of their numbers."""
    if isinstance(found, dict) and isinstance(wanted, dict):
        return found.keys() == wanted.keys() and all(is_close(found[k], wanted[k]) for k in found)
    if isinstance(found, float) and isinstance(wanted, float):
        return bool(np.isclose(found, wanted, rtol=1e-9, atol=1e-12))
    return found == wanted


def all_lives(commands, options, parent):
    """Live until there were enough kills; more lives than runs at once, so that one can wait."""
    undisturbed = {command: Undisturbed(command, parent) for command in commands}
    counts, begun, choosing = Counts(), Counter(), threading.Lock()
    progress = tqdm(total=options.kills, unit=" kills", mininterval=1)
    turn = threading.Semaphore(options.at_once)

    def lives():
        while counts.total()["kills"] < options.kills:
            with choosing:
                command = min(commands, key=lambda name: begun[name] / SHARES[name])
                number = begun.total()
                begun[command] += 1
                life = Life(number, options.seed, undisturbed[command], counts, turn, parent)
            life.live()
            remove(life.folder)
            progress.update(counts.total()["kills"] - progress.n)

    with ThreadPoolExecutor(options.at_once + 2) as pool:
        for future in [pool.submit(lives) for _ in range(options.at_once + 2)]:
            future.result()
    progress.close()
    return counts


def report(counts):
    """Print two tables: what became of each command's lives, and who was killed."""
    keys = sorted(counts.rows)
    rows = [[" / ".join(filter(None, k)), *(counts.rows[k][c] for c in COLUMNS)] for k in keys]
    total = counts.total()
    print_table(("command / killed", *COLUMNS), [*rows, ["all", *(total[c] for c in COLUMNS)]])
    print("(a life counts in the row of everyone who was killed in it)\n")
    sizes = sorted({size for _, _, size in counts.kills})
    by_who = Counter()
    for (_, who, size), kills in counts.kills.items():
        by_who[who, size] += kills
    rows = [[who, *(by_who[who, size] for size in sizes)] for who in WHO]
    print_table(("killed", *(f"processes: {size}" for size in sizes)), rows)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=300, help="at least so many in all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="+", choices=small_runs.COMMANDS, metavar="COMMAND")
    parser.add_argument("--at-once", type=int, default=1, help="runs at a time, on as many cores")
    parser.add_argument("--folder", type=Path, help="where to work; some 300 MB")
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    options = parser.parse_args()
    if not options.json:
        print_machine()
    start = time.monotonic()
    with tempfile.TemporaryDirectory(dir=options.folder, ignore_cleanup_errors=True) as folder:
        commands = options.only or small_runs.COMMANDS
        counts = all_lives(commands, options, Path(folder))
    minutes = (time.monotonic() - start) / 60
    if options.json:
        names = ("command", "killed", "processes", "kills")
        kills = [dict(zip(names, (*key, n), strict=True)) for key, n in counts.kills.items()]
        rows = [
            {"command": c, "killed": who or "any", **row} for (c, who), row in counts.rows.items()
        ]
        found = {"total": counts.total(), "kills": kills, "lives": rows, "faults": counts.notes}
        print(json.dumps({**found, "seed": options.seed, "minutes": minutes}, indent=2))
    else:
        report(counts)
        print(f"\nseed {options.seed}, {minutes:.1f} minutes")
    return int(any(counts.total()[column] for column in BAD))


if __name__ == "__main__":
    sys.exit(main())
