"""What the benchmarks share: a stopwatch, the machine, and ratios with their spread."""

import os
import platform
import statistics
import time

import numpy
import scipy
import torch


def seconds(action, *arguments):
    """Run `action` once; return its time in seconds and its result."""
    start = time.perf_counter()
    result = action(*arguments)
    return time.perf_counter() - start, result


def in_turns(kinds, repeats):
    """Time actions by turns, after one of each that is not counted; return seconds by name."""
    times = {name: [] for name in kinds}
    for number in range(repeats + 1):
        for name, action in kinds.items():
            time_of_one, _ = seconds(action)
            if number:
                times[name].append(time_of_one)
    return times


def print_machine():
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else float("nan")
    print(
        f"machine: {platform.processor() or platform.machine()}, {os.cpu_count()} cores, "
        f"{torch.get_num_threads()} torch threads, load {load:.1f} before the run"
    )
    print(
        f"versions: python {platform.python_version()}, torch {torch.__version__}, "
        f"numpy {numpy.__version__}, scipy {scipy.__version__}"
    )


def print_ratio(baseline_name, baseline, name, ours, goal=None):
    """Print both times and the ratio of each repeat's pair: median, least and greatest."""
    width = max(len(baseline_name), len(name))
    for label, times in ((baseline_name, baseline), (name, ours)):
        spread = f"{min(times):.2f} to {max(times):.2f}"
        print(f"{label:{width}}  median {statistics.median(times):.2f} s ({spread})")
    ratios = [theirs / mine for theirs, mine in zip(baseline, ours, strict=True)]
    wanted = "" if goal is None else f"; goal {goal:g}"
    print(
        f"ratio of {baseline_name} to {name}: median {statistics.median(ratios):.2f} "
        f"({min(ratios):.2f} to {max(ratios):.2f}){wanted}"
    )
