"""What stands above a contact sheet, and the names of classes."""

import re
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

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
        pair = interval if isinstance(interval, list | tuple) and _is_pair(interval) else ()
        where = f" in [{', '.join(map(_number, pair))}]" if pair else ""
        parts.append(f"guidance {_number(scale)}{where}")
    if made.get("seed") is not None:
        parts.append(f"seed {made['seed']}")
    return " · ".join(filter(None, parts))


def class_namer(dataset: object) -> Callable[[int], str]:
    """Return what writes a class of a data set: its number, with its name where one is known.

    Those of ImageNet come from torchvision, imported when the first is asked for; a digit is its
    own name.
    """
    if isinstance(dataset, str) and re.match("imagenet", dataset, re.IGNORECASE):
        return _imagenet_class
    return str


def _imagenet_class(label: int) -> str:
    names = _imagenet_names()
    return f"{label} {names[label]}" if 0 <= label < len(names) else str(label)


@cache
def _imagenet_names() -> list[str]:
    from torchvision.models import ResNet50_Weights

    return ResNet50_Weights.DEFAULT.meta["categories"]


def _is_pair(value: object) -> bool:
    return isinstance(value, list | tuple) and len(value) == 2


def _number(value: object) -> str:
    return f"{value:g}" if isinstance(value, int | float) else str(value)
