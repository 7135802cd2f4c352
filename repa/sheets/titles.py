"""What stands above a contact sheet, and the names of classes."""

import re
from collections.abc import Callable, Mapping
from typing import Any

from repa.errors import RepaError
from repa.registry import class_names_of_dataset

_STEP = re.compile(r"(.+)/step-0*(\d+)")


def sampling_title(made: Mapping[str, Any]) -> str:
    """Say in one line how images were made: model, step, solver, steps, guidance, seed.

    `made` is the manifest of an NPZ, or values by the same names: model, solver, num_steps (None of
    an adaptive solver), cfg_scale (1 is none), guidance_interval, seed. What it lacks is left out.
    """
    model, solver, steps = str(made.get("model", "")), made.get("solver"), made.get("num_steps")
    step = _STEP.fullmatch(model)  # how a run's folder is named
    parts = [f"{step[1]} · step {step[2]}" if step else model]
    parts.append(", ".join(filter(None, [str(solver or ""), f"{steps} steps" if steps else ""])))
    scale, interval = made.get("cfg_scale"), made.get("guidance_interval")
    if scale == 1:
        parts.append("no guidance")
    elif scale is not None:
        is_interval = isinstance(interval, list | tuple)
        where = f" in [{', '.join(map(_number, interval))}]" if is_interval else ""
        parts.append(f"guidance {_number(scale)}{where}")
    if made.get("seed") is not None:
        parts.append(f"seed {made['seed']}")
    return " · ".join(filter(None, parts))


def class_namer(dataset: object, class_names: object = None) -> Callable[[int], str]:
    """Return what writes a class: its number, with its name where one is known.

    Args:
        dataset: Name of a data set; the registry knows those of ImageNet's classes.
        class_names: By label, in place of the data set's; an empty list is none, None those.
    """
    if isinstance(class_names, list | tuple):
        names = [name if isinstance(name, str) else "" for name in class_names]
    else:
        names = _names_of(dataset)

    def name(label: int) -> str:
        known = names[label] if 0 <= label < len(names) else ""
        return str(label) if known in ("", str(label)) else f"{label} {known}"

    return name


def _names_of(dataset: object) -> list[str]:
    try:
        return [each.words[0] for each in class_names_of_dataset(dataset)]
    except RepaError:  # the package that holds them is not there, and a sheet can do without
        return []


def _number(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
