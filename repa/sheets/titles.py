"""What stands above a contact sheet, and the names of classes."""

import re
from collections.abc import Callable, Mapping
from typing import Any

from repa.errors import RepaError
from repa.registry import class_names_of_dataset

_STEP = re.compile(r"(.+)/step-0*(\d+)")
_PUBLISHED, _CFG, _FLOAT32 = "published", "cfg", "float32"


def sampling_title(made: Mapping[str, Any]) -> str:
    """Say in one line how images were made: model, step, solver, times, guidance, seed.

    `made` is the manifest of an NPZ, or values by the same names; what it lacks is left out, and so
    is what is as published: order, times, kind of guidance, precision.
    """
    model, seed = str(made.get("model", "")), made.get("seed")
    step = _STEP.fullmatch(model)  # how a run's folder is named
    parts = [f"{step[1]} · step {step[2]}" if step else model, *sampling_words(made)]
    parts.append("" if seed is None else f"seed {seed}")
    return " · ".join(filter(None, parts))


def sampling_words(made: Mapping[str, Any]) -> tuple[str, str]:
    """Say how images are made: the solver with its steps and times, and the guidance.

    What is said of the values is as of `sampling_title`.
    """
    steps, order, times = made.get("num_steps"), made.get("order"), made.get("times", _PUBLISHED)
    solver = str(made.get("solver") or "")
    solver += f" of order {order}" if order else ""
    solver += f" in {steps} steps" if steps else ""
    if isinstance(times, list | tuple):
        solver += f" at {','.join(map(_number, times))}"
    elif times != _PUBLISHED:
        solver += f", {times} times"
    solver += f" (shift {_number(made.get('shift'))})" if times == "shifted" else ""
    kind, dtype = made.get("guidance", _CFG), made.get("dtype", _FLOAT32)
    solver += "" if dtype == _FLOAT32 else f", {dtype}"
    interval = made.get("guidance_interval")
    parts = [_strength("guidance" if kind == _CFG else f"{kind} guidance", made.get("cfg_scale"))]
    if made.get("cfg_scale") not in (None, 1):
        parts[0] += _where(interval)
        parts[0] += f" away from {made['guide']}" if made.get("guide") else ""
    if made.get("internal_scale", 1) != 1:
        internal = _strength("internal guidance", made["internal_scale"])
        parts.append(internal + _where(made.get("internal_interval")))
    return solver, ", ".join(filter(None, parts))


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


def _strength(kind: str, scale: object) -> str:
    if scale is None:
        return ""
    return "no guidance" if scale == 1 else f"{kind} {_number(scale)}"


def _where(interval: object) -> str:
    is_interval = isinstance(interval, list | tuple)
    return f" for t in [{', '.join(map(_number, interval))}]" if is_interval else ""


def _number(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
