"""State of a training run: network, moving average and optimizer, saved whole or not at all.

A checkpoint is a folder `step-0001000` of safetensors files (`model`, `ema`, `optimizer`) and
`state.json`. It is written under another name and renamed, so a folder of that name is complete.
Nothing in it is executed when it is read. It needs no generator's state, see `repa.training.batch`.
"""

import copy
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.optim.swa_utils import get_ema_multi_avg_fn

from repa.checkpoints.export import write_weights
from repa.data import TrainingData
from repa.errors import (
    CheckpointFormatError,
    CheckpointMismatchError,
    RepaError,
    SettingError,
    suggestion,
)
from repa.models.sit import SIT_SIZES, SiT
from repa.training.settings import TrainConfig
from repa_base.files import replacing


@dataclass
class TrainState:
    """What one step of training turns into the next."""

    model: SiT
    ema: SiT
    optimizer: torch.optim.AdamW
    step: int

    @classmethod
    def create(
        cls, config: TrainConfig, settings: Mapping[str, Any], device: torch.device | str
    ) -> "TrainState":
        """Build the state before the first step; initial weights depend on the seed alone.

        `settings` are the keyword arguments of `SiT`, see `model_settings`.

        Raises:
            RepaError: The settings make no network.
        """
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            try:
                # The loop drops labels itself, by draws that are keyed by the step.
                model = SiT(**settings, label_dropout=0.0)
            except ValueError as error:
                raise RepaError(f"{config.model} does not fit these settings: {error}") from error
        model.to(device)
        ema = copy.deepcopy(model).requires_grad_(False).eval()
        trained = [p for p in model.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(
            trained, lr=config.learning_rate, weight_decay=config.weight_decay
        )
        for parameter in trained:
            optimizer.state[parameter] = {
                "step": torch.tensor(0.0),
                "exp_avg": torch.zeros_like(parameter),
                "exp_avg_sq": torch.zeros_like(parameter),
            }
        return cls(model.train(), ema, optimizer, step=0)

    def update_ema(self, decay: float) -> None:
        """Move the average by one step: ema = decay * ema + (1 - decay) * model."""
        average = get_ema_multi_avg_fn(decay)
        average(list(self.ema.parameters()), list(self.model.parameters()), 0)

    def save(self, folder: Path, config: TrainConfig, description: Mapping[str, Any]) -> Path:
        """Write `folder/step-N` at once, with the settings of the run; return its path.

        `description` says what the weights are, for whoever loads them.
        """
        target = folder / f"step-{self.step:07d}"
        with replacing(target) as partial:
            partial.mkdir()
            for name, model in (("model", self.model), ("ema", self.ema)):
                what = {**description, "weights": name, "step": self.step}
                write_weights(partial / f"{name}.safetensors", model.state_dict(), what)
            save_file(self._optimizer_tensors(), partial / "optimizer.safetensors")
            state = {"format": 1, "step": self.step, "config": asdict(config)}
            (partial / "state.json").write_text(json.dumps(state, indent=2) + "\n")
        return target

    def load(self, checkpoint: Path) -> None:
        """Read a checkpoint folder written by `save` into this state.

        Raises:
            CheckpointFormatError: A file is missing or damaged.
            CheckpointMismatchError: The tensors are not those of this model.
        """
        try:
            self.step = json.loads((checkpoint / "state.json").read_text())["step"]
            for name, model in (("model", self.model), ("ema", self.ema)):
                model.load_state_dict(load_file(checkpoint / f"{name}.safetensors"))
            tensors = load_file(checkpoint / "optimizer.safetensors")
            for name, value in self._optimizer_tensors().items():
                value.copy_(tensors[name])
        except RuntimeError as error:
            raise CheckpointMismatchError(f"{checkpoint}: {error}") from error
        except (OSError, ValueError, KeyError, SafetensorError) as error:
            raise CheckpointFormatError(
                f"{checkpoint}: cannot be resumed from ({error}); remove it to resume from the "
                "checkpoint before it."
            ) from error

    def _optimizer_tensors(self) -> dict[str, Tensor]:
        return {
            f"{key}/{name}": value
            for name, parameter in self.model.named_parameters()
            if parameter.requires_grad
            for key, value in self.optimizer.state[parameter].items()
        }


def model_settings(
    config: TrainConfig, data: TrainingData, target_dims: list[int]
) -> dict[str, Any]:
    """Return the keyword arguments of `SiT` that a run's settings and data ask for.

    `target_dims` are the widths of the features to align with, one an encoder. Errors are those of
    `check_model`.
    """
    # Files of the default projector are as earlier versions wrote them.
    other = {"projector": config.projector} if config.projector != "mlp" else {}
    return {
        "input_size": data.input_size,
        "in_channels": data.in_channels,
        "num_classes": data.num_classes,
        **check_model(config),
        "encoder_depth": config.encoder_depth,
        "target_dims": target_dims,
        **other,
        "projector_dim": config.projector_dim,
        "qk_norm": config.qk_norm,
    }


def check_model(config: TrainConfig) -> dict[str, int]:
    """Check, before any data are there, that the settings make a network; return its sizes.

    Raises:
        SettingError: No size has the model's name, it has too few blocks, or its patches do not
            divide the images.
    """
    if config.model not in SIT_SIZES:
        hint = suggestion(config.model, SIT_SIZES)
        raise SettingError("model", f"unknown model {config.model!r}{hint}")
    sizes = SIT_SIZES[config.model]
    depth, patch = sizes["depth"], sizes["patch_size"]
    if config.encoder_depth > depth:
        rule = f"encoder_depth must be from 1 to {depth} for {config.model}"
        raise SettingError("encoder_depth", f"{rule}, got {config.encoder_depth}.")
    if config.image_size % patch:
        rule = f"image_size must be a multiple of {patch} for {config.model}"
        raise SettingError("image_size", f"{rule}, got {config.image_size}.")
    return sizes
