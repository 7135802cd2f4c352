"""A dry run as tables: all settings, then what the run would need."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import typer

from repa_base.files import size_text
from repa_base.settings import rules
from repa_cli.output import print_table
from repa_cli.showing.bars import duration

if TYPE_CHECKING:
    from repa.training.planning.dry_run import DryRun


def print_dry_run(plan: "DryRun", reporting: Mapping[str, Any]) -> None:
    """Print settings as a file for --config names them, and sizes, memory and time."""
    known = {*rules(plan.config), *reporting}  # of all that is stored, what a person may set
    sections = {**plan.config.sections(), "reporting": reporting}
    rows = [
        (f"{section}.{name}", "" if value is None else str(value))
        for section, values in sections.items()
        for name, value in values.items()
        if name in known
    ]
    print_table(("setting", "value"), rows)
    typer.echo("")
    print_table(("dry run, nothing is written", ""), _needs(plan))


def _needs(plan: "DryRun") -> list[tuple[str, str]]:
    sizes, config = plan.sizes, plan.config
    shape = " x ".join(map(str, plan.data["input"]))
    images = f"{plan.data['count']:,} of {plan.data['num_classes']:,} classes"
    epochs = config.num_steps / plan.steps_per_epoch
    return [
        ("images", f"{images}, an input {shape}"),
        ("parameters", _millions(sizes.num_parameters)),
        ("of the projectors", _millions(sizes.num_projector_parameters)),
        ("tokens an image", str(sizes.num_tokens)),
        ("steps an epoch", f"{plan.steps_per_epoch:,.1f}"),
        ("epochs", f"{epochs:,.1f}"),
        ("images at once", f"{plan.share:,} of a batch of {config.batch_size:,}"),
        ("memory, about", size_text(plan.memory_bytes)),
        ("  weights, gradients, optimizer, average", size_text(sizes.state_bytes)),
        ("  an image at once", size_text(sizes.image_bytes)),
        ("a checkpoint", size_text(sizes.checkpoint_bytes)),
        *_times(plan),
    ]


def _times(plan: "DryRun") -> list[tuple[str, str]]:
    timing = plan.timing
    if timing is None or plan.seconds is None:
        return [("time", f"not measured: {plan.unmeasured}")]
    fastest = f"the fastest of {timing.measured_steps} on {timing.measured_images} at once"
    how = f"from {fastest}" if timing.measured_images < plan.share else fastest
    rows = [("a step", f"{timing.step * plan.config.accumulate:.3g} s, {how}")]
    if timing.features:
        how = f"from {timing.encoded_images} at once"
        rows.append(("features, once", f"about {duration(timing.features)}, {how}"))
    if timing.reading > timing.step:
        rows.append(("reading", f"{timing.reading:.3g} s for what is at once, in one process"))
    steps = f"the {plan.steps_left:,} steps left" if plan.steps_taken else "all steps"
    rows.append((steps, f"about {duration(plan.seconds)}"))
    rows.append(("times", "estimated from what this machine did just now"))
    return rows


def _millions(count: int) -> str:
    return f"{count / 1e6:,.1f} million"
