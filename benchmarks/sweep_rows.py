"""Rows of a sweep: the file that a stopped one goes on with, and images made and judged for one."""

import json
import os
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

from repa_base.files import replacing

FOLDER = Path(__file__).resolve().parents[1] / "docs" / "solvers"


def read_rows(path):
    """Return the rows of a file, without a last one that a kill has cut short."""
    lines = path.read_text().splitlines() if path.exists() else []
    rows = [json.loads(line) for line in lines[:-1]]
    with suppress(json.JSONDecodeError):
        rows += [json.loads(line) for line in lines[-1:]]
    return rows


class Rows:
    """The rows of a file, by what was measured; a row is on disk before the next is begun."""

    def __init__(self, path):
        self.path, self.rows = path, read_rows(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists() and not path.read_text().endswith("\n"):
            whole = "".join(json.dumps(row) + "\n" for row in self.rows)
            with replacing(path) as partial:
                partial.write_text(whole)

    def has(self, **key):
        """Whether there is a row with these values."""
        return any(all(row.get(k) == v for k, v in key.items()) for row in self.rows)

    def add(self, row):
        """Write a row, with the load of the machine."""
        row = {**row, "load": round(os.getloadavg()[0], 1)}
        self.rows.append(row)
        with self.path.open("a") as file:
            file.write(json.dumps(row) + "\n")


class NoTimeLeftError(Exception):
    """Images were not finished in time; what is done of them is kept."""


def judged_images(model="digits", *, keep=None, until=float("inf"), **settings):
    """Make images by settings of `SampleConfig` on the CPU, judge them, and return a row's values.

    They are kept in the NPZ `keep`, or else forgotten. None is returned if they are not finished at
    a time of `time.monotonic`: those that are done stay in `keep`, and another call goes on.

    They are the network's rows an image, the seconds, and each metric with its standard error of 20
    resamples; images are judged against what the model's data set is judged against.
    """
    from metrics import MetricSettings
    from repa.evaluation.evaluate import evaluate_file
    from repa.generation import SampleConfig, generate, network_rows

    said = time.monotonic()

    def watch(done, total):
        nonlocal said
        if time.monotonic() > until:
            raise NoTimeLeftError
        if time.monotonic() > said + 60:
            said = time.monotonic()
            print(f"{done:.0f} of {total} images", file=sys.stderr, flush=True)

    with tempfile.TemporaryDirectory() as folder:
        out = keep or Path(folder) / "samples.npz"
        out.parent.mkdir(parents=True, exist_ok=True)
        config = SampleConfig.for_model(model, out=out, device="cpu", **settings)
        start = time.monotonic()
        try:
            generate(config, progress=watch)
        except NoTimeLeftError:
            return None
        seconds = time.monotonic() - start
        report = evaluate_file(out, settings=MetricSettings(num_resamples=20)).reports["samples"]
    errors = {f"{label} error": value for label, value in report.standard_errors.items()}
    spent = {"rows": network_rows(config), "seconds": round(seconds, 1)}
    return spent | dict(report.values) | errors
