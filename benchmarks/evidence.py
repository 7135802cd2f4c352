"""Does alignment help where a CPU can train? REPA against plain SiT at the same steps, with spread.

    npm pack emoji-datasource-twitter@16.0.0 && tar xf emoji-datasource-twitter-16.0.0.tgz
    python benchmarks/evidence.py --package package --out evidence

Pictures of 64 pixels in ten categories become a set of 32 x 32 pixels with features of lite1; a
tenth is held out and judges by lite0, which no run is trained on. First, factors of the alignment
are tried on one seed, each changed alone, and the best values of two are kept. Then plain SiT and
REPA with those two are trained with several seeds. At each of `--looks` steps the velocity loss on
held-out images and the metrics of samples are measured.

A killed or interrupted run goes on when its command is repeated; what is finished is not done
again. `--minutes` ends it saved, for another time. See docs/evidence.md for what came out.
"""

import argparse
import json
import math
import multiprocessing
import os
import shutil
import signal
import statistics
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch

from metrics import ArrayImages
from repa.checkpoints import load_model
from repa.data.preparation import PrepareConfig, prepare
from repa.evaluation import Measuring, evaluate_file, reference_maker
from repa.generation import Protocol, images_of
from repa.training import Reporting, train
from repa.training.settings import TrainConfig
from repa.training.stopping import Interrupted
from repa_base.device import computes_bf16
from repa_base.files import write_text

ENCODER, JUDGE, METRIC = "efficientnet-lite1", "efficientnet-lite0", "FD-lite0"
CANDIDATES = {
    "coefficient": [{"alignment_weight": 0.25}, {"alignment_weight": 1.0}],
    "block": [{"encoder_depth": 2}, {"encoder_depth": 5}],
    "spatial": [{"normalise_targets": "spatial", "projector": "conv"}],
    "until": [{"align_until": 150}],
}
"""Factors and the values that each is given; what is not changed is that of `Study.base`."""

PLAIN = {"encoder": "none", "projector": "mlp", "normalise_targets": "none", "align_until": 0}


@dataclass(frozen=True)
class Study:
    """What is compared, and how large."""

    data: str
    out: Path
    model: str = "SiT-Ti/4"
    image_size: int = 32
    looks: tuple[int, ...] = (100, 200, 400, 800)
    factor_looks: tuple[int, ...] = (100, 250)
    num_seeds: int = 3
    num_samples: int = 300
    batch_size: int = 32
    precision: str = "fp32"

    def base(self, seed, **changes):
        """Return the settings of a run; the average is short, since early steps are looked at."""
        values = {
            "data": self.data,
            "image_size": self.image_size,
            "model": self.model,
            "num_steps": max(self.looks),
            "encoder": ENCODER,
            "encoder_depth": 3,
            "projector_dim": 256,
            "batch_size": self.batch_size,
            "learning_rate": 1e-3,
            "warmup_steps": 100,
            "ema_decay": 0.99,
            "precision": self.precision,
            "seed": seed,
        }
        return TrainConfig(**{**values, **changes})


@dataclass(frozen=True)
class Job:
    """A run that is looked at, and until when it may take."""

    study: Study
    name: str
    config: TrainConfig
    looks: tuple[int, ...]
    deadline: float

    @property
    def folder(self):
        """Where the run is."""
        return self.study.out / "runs" / self.name


def arrange(package, folder):
    """Copy an unpacked package's pictures, skin tones among them, into folders of categories."""
    if folder.exists():
        return
    partial = folder.with_suffix(".part")
    shutil.rmtree(partial, ignore_errors=True)
    for emoji in json.loads((package / "emoji.json").read_text("utf-8")):
        category = emoji["category"].replace(" & ", "-and-").replace(" ", "-")
        (partial / category).mkdir(parents=True, exist_ok=True)
        for form in (emoji, *emoji.get("skin_variations", {}).values()):
            if form["has_img_twitter"]:
                picture = package / "img/twitter/64" / form["image"]
                shutil.copy(picture, partial / category / form["image"])
    partial.rename(folder)


def prepared(pictures, out, image_size, grid_size):
    """Prepare the set, unless it is: features of lite1, a tenth held out and measured by lite0."""
    config = PrepareConfig(
        source=pictures,
        out=out,
        image_size=image_size,
        encoders=(ENCODER,),
        grid_size=grid_size,
        held_out=0.1,
    )
    how = Measuring(network=JUDGE)
    prepare(config, make_reference=reference_maker(how), on_note=note)
    return str(out.absolute())


def look(job):
    """Train a run from look to look, and measure at each; return what was found, by step."""
    torch.set_num_threads(1)
    found = read_results(job.folder)
    for step in job.looks:
        if str(step) in found:
            continue
        if time.time() > job.deadline:
            return found
        started = time.monotonic()
        reporting = Reporting(
            log_every=10,
            checkpoint_every=200,
            preview_every=0,
            validate_every=max(job.looks),  # at the last step of all that is asked for, that is now
            keep_last=1,
            on_step=lambda number, losses: stop_at(job.deadline),
        )
        try:
            part = replace(job.config, num_steps=step)
            checkpoint = train(part, job.folder, resume=True, reporting=reporting)
        except Interrupted:
            return found
        seconds = time.monotonic() - started
        metrics = measured(checkpoint, job.study)
        found[str(step)] = {**last_losses(job.folder), "metrics": metrics, "seconds": seconds}
        write_text(job.folder / "looks.json", json.dumps(found, indent=2) + "\n")
        note(f"{job.name}, step {step}: {METRIC} {metrics[METRIC]:.1f}")
    return found


def stop_at(deadline):
    """End the run, saved, as a signal does, when the time is over."""
    if time.time() > deadline:
        signal.raise_signal(signal.SIGTERM)


def last_losses(folder):
    """Return the latest losses on held-out images, and on those that are trained on."""
    entries = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    latest = [entry for entry in entries if "held_out" in entry][-1]
    return {name: latest[name] for name in ("held_out", "trained_on")}


def measured(checkpoint, study):
    """Return the metrics of a checkpoint's moving average: samples by --fast, without guidance."""
    file = checkpoint / "ema.safetensors"
    model = load_model(file)
    protocol = Protocol.for_model(file, fast=True, cfg_scale=1.0, batch_size=100)
    batches = list(images_of(model, range(study.num_samples), protocol))
    samples = ArrayImages(np.concatenate([batch.images for batch in batches]), "samples")
    reference = str(Path(study.data) / f"held-out-{JUDGE}.npz")
    found = evaluate_file(samples, reference=reference, how=Measuring(device="cpu"))
    return dict(found.reports["samples"].values)


def read_results(folder):
    path = folder / "looks.json"
    return json.loads(path.read_text()) if path.exists() else {}


def do(jobs, workers):
    """Take jobs side by side, a core each; return what each found, and whether all is there."""
    if workers == 1:
        found = [look(job) for job in jobs]
    else:
        spawn = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(workers, mp_context=spawn) as pool:
            found = list(pool.map(look, jobs))
    complete = all(str(max(job.looks)) in each for job, each in zip(jobs, found, strict=True))
    return found, complete


def factor_jobs(study, deadline):
    """Return a job for the base and one for each value of each factor, all of the first seed."""
    jobs = {"base": {}}
    for factor, values in CANDIDATES.items():
        jobs |= {f"{factor}-{number}": change for number, change in enumerate(values)}
    looks = study.factor_looks
    return [
        Job(study, f"factor-{name}", study.base(0, **change), looks, deadline)
        for name, change in jobs.items()
    ]


def score(found):
    """Return what factors are chosen by: the mean logarithm of the distance over all looks."""
    return statistics.fmean(math.log(look["metrics"][METRIC]) for look in found.values())


def best_two(scores):
    """Choose the best value of the two factors that better the base most; fewer if fewer do.

    `scores` are by the jobs' names without "factor-": "base", and "coefficient-0", ... .
    """
    best = {}
    for factor, values in CANDIDATES.items():
        tried = [(scores[f"{factor}-{i}"], change) for i, change in enumerate(values)]
        best[factor] = min(tried, key=lambda pair: pair[0])
    better = sorted((pair for pair in best.items() if pair[1][0] < scores["base"]), key=value_of)
    return {name: value for _, (_, change) in better[:2] for name, value in change.items()}


def value_of(pair):
    return pair[1][0]


def seed_jobs(study, chosen, deadline):
    """Return plain SiT and REPA with the chosen factors, seed by seed."""
    arms = {"plain": PLAIN, "repa": chosen}
    return [
        Job(study, f"{arm}-{seed}", study.base(seed, **changes), study.looks, deadline)
        for seed in range(1, study.num_seeds + 1)
        for arm, changes in arms.items()
    ]


def table(jobs, found):
    """Return rows by look: mean and spread of both arms' losses and metrics, over seeds."""
    rows = []
    for step in jobs[0].looks:
        row = {"step": step}
        for arm in ("plain", "repa"):
            looks = [
                f[str(step)] for j, f in zip(jobs, found, strict=True) if j.name.startswith(arm)
            ]
            for name in ("held_out", "trained_on"):
                row[f"{arm} {name}"] = mean_and_spread([look[name] for look in looks])
            for name in looks[0]["metrics"]:
                values = [look["metrics"][name] for look in looks]
                row[f"{arm} {name}"] = mean_and_spread(values)
        rows.append(row)
    return rows


def mean_and_spread(values):
    """Return mean and standard deviation (of a sample; 0 of one)."""
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else 0.0


def steps_of_plain(rows, wanted):
    """Return at how many steps plain SiT comes down to a distance; None if it does not.

    Between looks the logarithms lie on straight lines.
    """
    points = [(row["step"], row[f"plain {METRIC}"][0]) for row in rows]
    for (s0, d0), (s1, d1) in pairwise(points):
        if d0 > wanted >= d1:
            share = math.log(d0 / wanted) / math.log(d0 / d1)
            return math.exp(math.log(s0) + share * math.log(s1 / s0))
    return points[0][0] if points[0][1] == wanted else None


def print_rows(rows):
    """Print the table as Markdown, and how many times the steps plain SiT needs."""
    names = [METRIC, "held_out", "trained_on"]
    print("| step | " + " | ".join(f"{arm} {n}" for n in names for arm in ("plain", "repa")) + " |")
    print("| --- |" + " --- |" * (2 * len(names)))
    for row in rows:
        cells = [row[f"{arm} {name}"] for name in names for arm in ("plain", "repa")]
        texts = [f"{m:.1f} ± {s:.1f}" if m > 5 else f"{m:.4f} ± {s:.4f}" for m, s in cells]
        print(f"| {row['step']} | " + " | ".join(texts) + " |")
    for row in rows:
        wanted = row[f"repa {METRIC}"][0]
        steps = steps_of_plain(rows, wanted)
        factor = (
            "is outside of plain's range" if steps is None else f"takes plain {steps:.0f} steps"
        )
        ratio = "" if steps is None else f", {steps / row['step']:.2f} times as many"
        print(f"REPA's {METRIC} of step {row['step']}, {wanted:.1f}, {factor}{ratio}")


def note(text):
    print(f"evidence: {text}", file=sys.stderr, flush=True)


def study_of(arguments):
    """Return the study that was asked for, its set prepared."""
    out = arguments.out
    patch = int(arguments.model.rpartition("/")[2])
    pictures = arguments.pictures
    if arguments.package is not None:
        pictures = out / "pictures"
        arrange(arguments.package, pictures)
    side = arguments.image_size
    data = prepared(pictures, out / "set", side, side // patch)
    return Study(
        data,
        out,
        arguments.model,
        side,
        tuple(arguments.looks),
        tuple(arguments.factor_looks),
        arguments.seeds,
        arguments.samples,
        arguments.batch_size,
        arguments.precision,
    )


def parsed(typed=None):
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--package", type=Path, help="unpacked emoji-datasource-twitter")
    source.add_argument("--pictures", type=Path, help="other pictures in folders of classes")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=75.0, help="of all that is left")
    parser.add_argument("--workers", type=int, default=os.cpu_count())
    parser.add_argument("--model", default=Study.model)
    parser.add_argument("--image-size", type=int, default=Study.image_size)
    parser.add_argument("--looks", type=int, nargs="+", default=Study.looks)
    parser.add_argument("--factor-looks", type=int, nargs="+", default=Study.factor_looks)
    parser.add_argument("--seeds", type=int, default=Study.num_seeds)
    parser.add_argument("--samples", type=int, default=Study.num_samples)
    parser.add_argument("--batch-size", type=int, default=Study.batch_size)
    # A study that goes on elsewhere must name its precision: its runs refuse no other.
    usual = "bf16" if computes_bf16(torch.device("cpu")) else "fp32"
    parser.add_argument("--precision", choices=["fp32", "bf16"], default=usual)
    return parser.parse_args(typed)


def main(typed=None):
    arguments = parsed(typed)
    arguments.out.mkdir(parents=True, exist_ok=True)
    deadline = time.time() + 60 * arguments.minutes
    study = study_of(arguments)
    jobs = factor_jobs(study, deadline)
    found, complete = do(jobs, arguments.workers)
    if complete:
        scores = {
            j.name.removeprefix("factor-"): score(f) for j, f in zip(jobs, found, strict=True)
        }
        chosen = best_two(scores)
        write_text(study.out / "factors.json", json.dumps({"scores": scores, "chosen": chosen}))
        print(f"factors, mean log {METRIC} of one seed: {scores}; chosen: {chosen or 'the base'}")
        jobs = seed_jobs(study, chosen, deadline)
        found, complete = do(jobs, arguments.workers)
    if not complete:
        note("the time is over and all is saved: repeat the command to go on.")
        return 1
    rows = table(jobs, found)
    settings = {k: str(v) if isinstance(v, Path) else v for k, v in asdict(study).items()}
    write_text(study.out / "results.json", json.dumps({"study": settings, "rows": rows}, indent=2))
    print_rows(rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
