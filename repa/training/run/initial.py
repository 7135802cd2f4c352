"""What a run starts from if its settings name a checkpoint, and which file that was.

The run's settings hold the file's SHA-256, so that it is the same one whenever the start is asked
for: a run that goes on from a checkpoint of its own does not need it.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from repa.checkpoints import read_checkpoint
from repa.checkpoints.fitting import fit_weights
from repa.checkpoints.reading import Checkpoint
from repa.checkpoints.settings import CheckpointSettings
from repa.errors import ChecksumError, UntoldError
from repa.models.sit import SiT
from repa.training.run.folder import read_run_config
from repa.training.run.state import TrainState
from repa.training.settings import TrainConfig


def with_recorded_start(config: TrainConfig, out: Path) -> TrainConfig:
    """Return settings with the hash of the checkpoint that the run in a folder started from.

    They stay as they are if the folder holds no run, or one that started from something else.
    """
    stored = read_run_config(out) if config.init and not config.init_sha256 else None
    if stored is None or stored.init != config.init:
        return config
    return replace(config, init_sha256=stored.init_sha256)


def start_from_checkpoint(
    state: TrainState,
    config: TrainConfig,
    what: CheckpointSettings,
    on_note: Callable[[str], None],
) -> TrainConfig:
    """Fill the state before the first step, model and average alike, from `config.init` if any.

    `what` says which network the state holds, and for what.

    Returns:
        The settings with the hash of the checkpoint.

    Raises:
        RepaError: There is no such checkpoint, it is damaged, or it does not fit; see
            `repa.checkpoints.fitting.fit_weights`.
        ChecksumError: It is not the one of the hash in the settings.
    """
    if config.init is None:
        return config
    checkpoint, tensors, notes = _fitted(config.init, config.init_sha256, state.model, what)
    for model in (state.model, state.ema):
        model.load_state_dict(tensors, strict=False)
    said = "; ".join([f"starting from {config.init} (SHA-256 {checkpoint.sha256[:12]})", *notes])
    on_note(f"{said}.")
    return replace(config, init_sha256=checkpoint.sha256)


def check_start(config: TrainConfig, what: CheckpointSettings) -> None:
    """Raise as `start_from_checkpoint` does, of a network that is described and not made."""
    if config.init is not None:
        with torch.device("meta"):
            model = SiT(**what.model)
        _fitted(config.init, config.init_sha256, model, what)


def _fitted(
    init: str, sha256: str | None, model: SiT, what: CheckpointSettings
) -> tuple[Checkpoint, dict[str, Tensor], list[str]]:
    """Return the checkpoint, what the model takes from it, and what is to be said of that."""
    try:
        checkpoint = read_checkpoint(init)
    except UntoldError as error:
        way = "write it anew with repa export, which takes that, and start from what it writes"
        raise UntoldError(f"{str(error).rstrip('.')}: {way}.") from error
    tensors, notes = fit_weights(checkpoint, model.state_dict(), what)
    if sha256 is not None and sha256 != checkpoint.sha256:
        was = f"the run started from another file, of SHA-256 {sha256[:12]}"
        raise ChecksumError(f"{checkpoint.path}: is of SHA-256 {checkpoint.sha256[:12]}; {was}.")
    return checkpoint, tensors, notes
