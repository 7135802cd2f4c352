"""Quality against evaluations of every solver, on what is known exactly and on the digits model.

    python benchmarks/solvers.py mixtures    Gaussian mixtures against the exact result
    python benchmarks/solvers.py digits      FD-lite0, precision and recall of the digits model
    python benchmarks/solver_plots.py        draws what is known; with --tables prints it

Each setting is a row of docs/solvers/mixtures.jsonl or digits.jsonl; what is there is not measured
again, so a run that was stopped goes on. Rows say the machine's load when they were made.
"""

import argparse
import json
import time
from dataclasses import asdict, dataclass
from functools import partial

import torch
from sweep_rows import FOLDER, Rows, judged_images

FEW = (8, 12, 16, 25, 50)
COMPARED = (12, 25)
NEW = ("dpm++ 1", "dpm++ 2", "dpm++ 3", "dpm++sde 1", "dpm++sde 2", "sa 1", "sa 2", "sa 3")
NEW += ("ab2", "ab4")
SPACINGS = ("uniform", "shifted 0.5", "shifted 0.3", "logsnr", "karras")


@dataclass(frozen=True)
class Setting:
    """A solver with its order, times (a name and shift, or all), evaluations that it may take."""

    solver: str
    times: str | tuple[float, ...]
    evaluations: int

    @property
    def protocol(self):
        """Settings of `repa.generation.Protocol`."""
        solver, _, order = self.solver.partition(" ")
        named = isinstance(self.times, str)
        times, _, shift = self.times.partition(" ") if named else (self.times, "", "")
        steps = (self.evaluations + 1) // 2 if solver == "heun" else self.evaluations
        settings = {"solver": solver, "num_steps": steps, "times": times}
        settings |= {"order": int(order)} if order else {}
        return settings | ({"shift": float(shift)} if shift else {})


def settings_of_the_sweep():
    """The published solvers at their own times, the new ones at several."""
    for evaluations in (*FEW, 100, 250):
        for solver in ("sde", "heun"):
            yield Setting(solver, "published", evaluations)
    for evaluations in (12, 25, 8, 16, 50):
        spacings = (*SPACINGS, "published") if evaluations in COMPARED else ("uniform", "logsnr")
        for times in spacings:
            for solver in NEW:
                if times != "published" or solver.startswith(("sa", "dpm++sde")):
                    yield Setting(solver, times, evaluations)
            if times != "published" and evaluations in COMPARED:
                yield Setting("heun", times, evaluations)
                yield Setting("sde", times, evaluations)


def solved(setting, guidance, seed, count, velocity, directions):
    """Return the samples that a setting makes of the mixture, and its evaluations."""
    from repa.generation import Protocol
    from repa.generation.integration import solver_of
    from samplers import PATHS

    scale, low, high = guidance
    generator = torch.Generator().manual_seed(seed)
    draw = partial(torch.randn, count, directions, generator=generator, dtype=torch.float64)
    protocol = Protocol(cfg_scale=scale, guidance_interval=(low, high), **setting.protocol)
    times = []
    solve = solver_of(protocol, PATHS["linear"], lambda step: draw())
    return solve(velocity, draw(), on_time=times.append), len(times)


GUIDANCES = {"none": (1.0, 0.0, 1.0), "2 in [0, 0.7]": (2.0, 0.0, 0.7)}
LIMITS = {"ode": "ab4", "sde": "sa 2", "dpm++sde": "dpm++sde 2"}
"""By which solver the exact result of each process is made where guidance is on."""


def limit(process, guidance, seed, count):
    """Return samples of a process in 400 steps, for its exact result.

    The last step, to the expected data, takes away the variance that is left there: it begins at
    1e-4 of noise to signal, far below the narrowest direction.
    """
    import gaussian_mixtures as known

    from samplers.guidance import GuidanceInterval
    from samplers.schedule import grid_times, without_straddling

    times = grid_times("karras", 400, ends=(100.0, 1e-4))
    fitted = without_straddling(times, GuidanceInterval(*guidance[1:]))
    setting = Setting(LIMITS[process], tuple(fitted), len(fitted) - 1)
    return solved(setting, guidance, seed, count, known.velocity(guidance[0]), known.DIRECTIONS)[0]


def process_of(solver):
    name = solver.split()[0]
    return {"sde": "sde", "sa": "sde", "dpm++sde": "dpm++sde"}.get(name, "ode")


def mixtures(options):
    """Measure the mixtures; guided processes differ in their exact results, so each has its own."""
    import gaussian_mixtures as known

    rows = Rows(FOLDER / "mixtures.jsonl")
    for name, guidance in GUIDANCES.items():
        limits, velocity = {}, known.velocity(guidance[0])

        def exact(process, guidance=guidance, limits=limits):
            if guidance[0] == 1:
                return known.exact_moments()
            if process not in limits:
                made = [limit(process, guidance, 1000 + part, 10_000) for part in range(10)]
                limits[process] = known.moments(torch.cat(made))
            return limits[process]

        for setting in settings_of_the_sweep():
            for seed in range(options.seeds):
                key = {**asdict(setting), "guidance": name, "seed": seed}
                if rows.has(**key):
                    continue
                x, asked = solved(
                    setting, guidance, seed, options.count, velocity, known.DIRECTIONS
                )
                found = known.moments(x)
                distances = {}
                for label, process in (("", process_of(setting.solver)), (" of sde", "sde")):
                    end = exact(process)
                    distances |= {
                        f"fd{label}": known.frechet(found, end),
                        f"relative fd{label}": known.frechet(found, end, known.SPECTRUM),
                    }
                rows.add({**key, "asked": asked, "count": options.count, **distances})


def digits(options):
    """Measure the digits model by its own settings, but for solver, times and evaluations."""
    rows, until = Rows(FOLDER / "digits.jsonl"), time.monotonic() + 60 * options.minutes
    for setting in settings_of_the_sweep():
        chosen = not options.only or setting.solver in options.only
        chosen = chosen and (not options.times or setting.times in options.times)
        if not chosen or (options.evaluations and setting.evaluations not in options.evaluations):
            continue
        for seed in range(options.seeds):
            key = {**asdict(setting), "seed": seed, "count": options.count}
            if rows.has(**key):
                continue
            if time.monotonic() > until:
                return
            made = {"num_images": options.count, "seed": seed}
            rows.add(key | judged_images(**made, **setting.protocol))
            print(json.dumps(rows.rows[-1]), flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["mixtures", "digits"])
    parser.add_argument("--count", type=int, help="samples a setting")
    parser.add_argument("--seeds", type=int, help="seeds a setting")
    parser.add_argument("--minutes", type=float, default=600, help="begin no setting after these")
    parser.add_argument("--evaluations", type=int, nargs="*", help="of the digits: only these")
    parser.add_argument("--only", nargs="*", help="of the digits: only these solvers")
    parser.add_argument("--times", nargs="*", help="of the digits: only these times")
    options = parser.parse_args()
    torch.set_num_threads(1)
    usual = {"mixtures": (5000, 3), "digits": (200, 1)}[options.what]
    options.count, options.seeds = options.count or usual[0], options.seeds or usual[1]
    {"mixtures": mixtures, "digits": digits}[options.what](options)


if __name__ == "__main__":
    main()
