"""A dry run of sampling as tables: all settings, then what the run would take."""

from collections.abc import Iterator
from dataclasses import fields
from typing import TYPE_CHECKING, Any

import typer

from repa_base.files import size_text
from repa_base.settings import flag_of
from repa_cli.output import print_note, print_table
from repa_cli.showing.bars import duration

if TYPE_CHECKING:
    from repa.generation.planning.dry_run import DryRun


def print_plan(plan: "DryRun") -> None:
    """Print the settings with where they are from, then cost, time and room; remarks as notes."""
    config, departures = plan.config, plan.departures
    rows = []
    for each in fields(config):
        value, published = getattr(config, each.name), departures.get(each.name)
        other = "" if published is None else _text(published[0])
        rows.append((flag_of(config, each.name)[2:], _text(value), _origin(plan, each), other))
    print_table(("setting", "value", "from", "published protocol"), rows, left=4)
    typer.echo("")
    print_table(("dry run, nothing is written", ""), _needs(plan), left=2)
    for remark in (*plan.remarks, *([plan.own.remark + "."] if plan.own.remark else [])):
        print_note(remark)


def _origin(plan: "DryRun", declared: Any) -> str:  # noqa: ANN401
    """Say whose a value is, as far as the settings tell."""
    value, own = getattr(plan.config, declared.name), plan.own.values
    if declared.name in own and own[declared.name] == value:
        return "the model's own"
    return "default" if value == declared.default else "as asked"


def _needs(plan: "DryRun") -> Iterator[tuple[str, str]]:
    config, made, output = plan.config, plan.manifest, plan.output
    yield "checkpoint", f"{made['model']}, sha256 {made['checkpoint_sha256'][:12]}..."
    if made["autoencoder"]:
        yield "autoencoder", f"{made['autoencoder']}, sha256 {made['autoencoder_sha256'][:12]}..."
    yield "device", f"{made['device']}, {made['dtype']}{', tf32' if made['tf32'] else ''}"
    yield "images", f"{config.num_images:,} of {made['image_size']} x {made['image_size']} pixels"
    yield "published row", _row(plan)
    if plan.evaluations is None:
        yield "evaluations an image", "as many as the solver chooses"
    else:
        total, rows = sum(plan.evaluations), plan.network_rows or 0
        yield "evaluations an image", f"{total:,}, of which {plan.evaluations[1]:,} are guided"
        yield "network rows", f"{rows:,} an image, {rows * config.num_images:,} in all"
    yield from _times(plan)
    if plan.timing is not None:
        yield (
            "weights in memory",
            f"{size_text(plan.timing.weight_bytes)} a process, and more to work",
        )
    part = f"{size_text(output.progress_bytes)} more until then"
    yield "on disk", f"{size_text(output.file_bytes)}, and {part}"
    room = f"{size_text(output.free_bytes)} free at {config.out.parent}"
    yield "room", f"{room}: it does not fit" if output.shortage else room
    if output.was_finished:
        yield "at the output", "finished, with these settings"
    elif output.num_done:
        yield "at the output", f"{output.num_done:,} of {config.num_images:,} images are done"


def _times(plan: "DryRun") -> Iterator[tuple[str, str]]:
    timing, size = plan.timing, min(plan.output.block_size, plan.config.num_images)
    if timing is None:
        yield "time", f"not measured: {plan.unmeasured}"
        return
    guided = plan.config.cfg_scale != 1
    one = timing.evaluation(size, guided=guided)
    yield "an evaluation", f"{_seconds(one)} for {size} images{', guided' if guided else ''}"
    if plan.image_seconds is not None and plan.seconds is not None:
        count = plan.num_processes
        shared = "" if count == 1 else f" by {count} processes here"
        yield "an image", f"{_seconds(plan.image_seconds)}{' in a process' if count > 1 else ''}"
        left = "what is left" if plan.output.num_done else "all images"
        yield left, f"about {duration(plan.seconds)}{shared}"
    rows, needed = timing.network.measured_rows, 2 * size if guided and not timing.guide else size
    # To compile takes longer than all that is measured.
    uncompiled = ", uncompiled," if plan.config.compile else ""
    how = f"the network{uncompiled} on {rows} row{'s' if rows > 1 else ''}"
    if timing.decoder:
        how += f", the decoder on {timing.decoder.measured_rows}"
    how += ", in every process at once" if plan.num_processes > 1 else ""
    far = f"; a batch of {needed} is extrapolated" if rows < needed else ""
    yield "measured", f"{how}{far}"


def _row(plan: "DryRun") -> str:
    row = plan.row
    if row is None:
        return "none is known of this model"
    numbers = ", ".join(f"{label} {value:g}" for label, value in row.metrics.items())
    if row.comparable:
        return f"{row.name} ({numbers})"
    return f"{row.name}, with other settings: {', '.join(map(str, row.differences))}"


def _seconds(value: float) -> str:
    return f"{value:.3g} s" if value < 1000 else f"{value:,.0f} s"


def _text(value: object) -> str:
    if isinstance(value, tuple):
        return ",".join(f"{part:g}" for part in value)
    return "" if value is None else str(value)
