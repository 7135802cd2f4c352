"""What a run writes and how often, as its folder remembers it, and which checkpoints stay.

reporting.json stands beside config.json and is no part of what the run is: it may change whenever
the run goes on. "milestones" in it are steps whose checkpoints an earlier `keep_every` kept; they
stay, whatever is asked for later. A folder of an earlier version has no such file.
"""

import json
from collections.abc import Callable, Collection
from dataclasses import replace
from pathlib import Path
from typing import Any

from repa.errors import CheckpointFormatError, RepaError
from repa.evaluation.references import reference_path
from repa.training.run.folder import REPORTING, checkpoints_in, checkpoints_of
from repa.training.run.state import step_of
from repa.training.settings import Reporting
from repa_base.checksums import parse_json, sealed, unsealed
from repa_base.files import write_text
from repa_base.workplace import remove_leftovers, workplace

_MILESTONES = "milestones"


def run_reporting(out: Path) -> Reporting | None:
    """Return what the run in a folder wrote and how often; None where nothing says so.

    Raises:
        CheckpointFormatError: The file that says so is damaged.
    """
    found = _read(out)
    return None if found is None else found[0]


def record_reporting(
    out: Path, reporting: Reporting, step: int, on_note: Callable[[str], None]
) -> frozenset[int]:
    """Remember what a run that has taken `step` steps writes from now on.

    Returns:
        Steps whose checkpoints stay in any case: those that were kept until now at multiples of
        another `keep_every`, or all that are there if the folder does not say which were.
    """
    found, there = _read(out), {s for s in map(step_of, checkpoints_of(out)) if s <= step}
    if found is None:
        kept = there
        if kept:
            shown = ", ".join(map(str, sorted(kept)))
            on_note(f"{out} does not say which checkpoints it keeps: those of steps {shown} stay.")
    else:
        before, kept = found
        kept = there & {*kept, *(s for s in there if _is_multiple(s, before.keep_every))}
    kept = {s for s in kept if not _is_multiple(s, reporting.keep_every)}
    values = {**reporting.plain(), "eval_reference": _whole(reporting.eval_reference)}
    text = json.dumps(sealed({**values, _MILESTONES: sorted(kept)}), indent=2) + "\n"
    path = out / REPORTING
    if not path.exists() or path.read_text("utf-8") != text:
        write_text(path, text)
    return frozenset(kept)


def remove_old_checkpoints(
    folder: Path, *, keep_last: int, keep_every: int, milestones: Collection[int] = ()
) -> None:
    """Remove all checkpoints but those to keep, and what a killed process left of others.

    Nothing that is not called `step-0001000` is touched. What goes is moved away first, so that
    whatever is called so is complete. See `Reporting` for what stays, and besides `milestones`.
    """
    for path in checkpoints_in(folder)[keep_last:]:
        step = step_of(path)
        if not _is_multiple(step, keep_every) and step not in milestones:
            with workplace(path) as place:
                path.rename(place / path.name)
    remove_leftovers(folder)


def _is_multiple(step: int, every: int) -> bool:
    return every > 0 and step % every == 0


def _whole(reference: str | None) -> str | None:
    """Return a reference as it is found from wherever the run is called: a path as a whole one."""
    path = reference_path(reference) if reference else None
    return reference if path is None else str(path.absolute())


def _read(out: Path) -> tuple[Reporting, set[int]] | None:
    """Return what a folder remembers, and the milestones."""
    path = out / REPORTING
    if not path.exists():
        return None
    try:
        values: dict[str, Any] = unsealed(parse_json(path.read_text("utf-8")))
        kept = values.pop(_MILESTONES)
        if not all(type(step) is int for step in kept):
            raise ValueError(f"{_MILESTONES} are no numbers")
        return replace(Reporting(), **values), set(kept)
    except (RepaError, ValueError, TypeError, KeyError, AttributeError) as error:
        what = f"is damaged ({error}); without it all checkpoints stay, and defaults hold"
        raise CheckpointFormatError(f"{path}: {what}.") from error
