"""`repa train`: train a SiT with representation alignment."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, get_args

import typer

from repa.training.settings import DATASETS, ENCODERS, PRESETS, Precision, Weighting
from repa_cli.options import Device, Json, choice
from repa_cli.output import print_json, print_note, print_table, progress_bar
from samplers.names import InterpolantName

_DEFAULT = "digits"


def _setting(flag: str, text: str, **limits: Any) -> Any:  # noqa: ANN401
    """A setting of the run: what is not given is the preset's."""
    return typer.Option(flag, help=f"{text} [default: the preset's]", show_default=False, **limits)


def train(
    preset: Annotated[
        str | None,
        typer.Option(
            help=f"Settings to start from: {', '.join(PRESETS)}.  [default: {_DEFAULT}; with "
            "--resume, the run's own]",
            parser=choice("preset", PRESETS),
            show_default=False,
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder of the run.  [default: runs/PRESET]", show_default=False),
    ] = None,
    resume: Annotated[
        bool,
        typer.Option("--resume", help="Go on from the latest checkpoint in --out, as set there."),
    ] = False,
    num_steps: Annotated[int | None, _setting("--steps", "Optimizer steps.", min=1)] = None,
    data: Annotated[
        str | None,
        _setting("--data", f"Data set: {', '.join(DATASETS)}.", parser=choice("data", DATASETS)),
    ] = None,
    image_size: Annotated[
        int | None, _setting("--image-size", "Side of the images in pixels.", min=2)
    ] = None,
    model: Annotated[
        str | None, _setting("--model", "Size of the network, e.g. SiT-Ti/4 or SiT-XL/2.")
    ] = None,
    qk_norm: Annotated[
        bool | None, _setting("--qk-norm/--no-qk-norm", "Normalise queries and keys.")
    ] = None,
    encoder: Annotated[
        str | None,
        _setting(
            "--encoder",
            "Frozen encoder to align with; none trains plain SiT.",
            parser=choice("encoder", ENCODERS),
        ),
    ] = None,
    encoder_depth: Annotated[
        int | None, _setting("--encoder-depth", "Block that is aligned, from 1.", min=1)
    ] = None,
    projector_dim: Annotated[
        int | None, _setting("--projector-dim", "Hidden width of the projector.", min=1)
    ] = None,
    alignment_weight: Annotated[
        float | None, _setting("--alignment-weight", "Weight of the alignment loss.", min=0)
    ] = None,
    path_type: Annotated[
        str | None,
        _setting("--path", "Interpolant.", parser=choice("path", get_args(InterpolantName))),
    ] = None,
    weighting: Annotated[
        str | None,
        _setting(
            "--weighting",
            "Distribution of training times: uniform, lognormal.",
            parser=choice("weighting", get_args(Weighting)),
        ),
    ] = None,
    label_dropout: Annotated[
        float | None,
        _setting("--label-dropout", "Share of labels dropped, for guidance.", min=0, max=1),
    ] = None,
    batch_size: Annotated[int | None, _setting("--batch-size", "Images a step.", min=1)] = None,
    learning_rate: Annotated[
        float | None, _setting("--learning-rate", "Step size of AdamW.", min=0)
    ] = None,
    warmup_steps: Annotated[
        int | None, _setting("--warmup-steps", "Steps of linear warm-up.", min=0)
    ] = None,
    decay_steps: Annotated[
        int | None,
        _setting("--decay-steps", "Last steps of linear decay of the learning rate.", min=0),
    ] = None,
    weight_decay: Annotated[
        float | None, _setting("--weight-decay", "Weight decay of AdamW.", min=0)
    ] = None,
    max_grad_norm: Annotated[
        float | None, _setting("--max-grad-norm", "Bound on the gradient's norm.", min=0)
    ] = None,
    ema_decay: Annotated[
        float | None, _setting("--ema-decay", "Decay of the weights' average.", min=0, max=1)
    ] = None,
    precision: Annotated[
        str | None,
        _setting(
            "--precision",
            "Compute dtype: fp32, bf16.",
            parser=choice("precision", get_args(Precision)),
        ),
    ] = None,
    seed: Annotated[int | None, _setting("--seed", "Seed of everything random.", min=0)] = None,
    log_every: Annotated[int, typer.Option(min=1, help="Steps between lines of log.jsonl.")] = 50,
    checkpoint_every: Annotated[
        int, typer.Option(min=1, help="Steps between checkpoints; the last step has one too.")
    ] = 1000,
    preview_every: Annotated[
        int, typer.Option(min=1, help="Steps between contact sheets of EMA samples.")
    ] = 1000,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Train a SiT with representation alignment.

    Writes a folder with config.json, log.jsonl, checkpoints/ and previews/. Ctrl-C ends the run
    after the step in hand, saved; --resume goes on from there and ends with the same weights.
    """
    # Before any other local is bound: what was typed, by the names of TrainConfig.
    given = {name: value for name, value in locals().items() if value is not None}
    from repa.errors import OutputExistsError
    from repa.training.loop import Interrupted, Reporting
    from repa.training.loop import train as run
    from repa.training.run_folder import read_run_config
    from repa.training.settings import TrainConfig
    from repa_base.device import resolve_device

    folder = out or Path("runs") / (preset or _DEFAULT)
    stored = read_run_config(folder) if resume and preset is None else None
    if resume and preset is None and stored is None:
        raise OutputExistsError(
            f"{folder} holds no run to go on with; see --out, or name a --preset to start one."
        )
    changes = {name: given[name] for name in TrainConfig.__annotations__ if name in given}
    config = replace(stored or PRESETS[preset or _DEFAULT], **changes)

    with progress_bar(config.num_steps, "steps", "training") as bar:

        def show(step: int, losses: dict[str, float]) -> None:
            bar.update(step - bar.n)
            bar.set_postfix({name: f"{value:.3f}" for name, value in losses.items()})

        reporting = Reporting(
            log_every=log_every,
            checkpoint_every=checkpoint_every,
            preview_every=preview_every,
            on_step=show,
            on_note=print_note,
        )
        try:
            checkpoint = run(
                config, folder, resume=resume, device=resolve_device(device), reporting=reporting
            )
        except Interrupted as stop:
            bar.close()
            print_note(f"{stop}; go on with: repa train --out {folder} --resume")
            raise typer.Exit(130) from None

    result = {"steps": config.num_steps, "checkpoint": str(checkpoint), "run": str(folder)}
    if as_json:
        print_json(result)
    else:
        print_table(["training", ""], [(key, str(value)) for key, value in result.items()])
