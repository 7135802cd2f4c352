"""State of a training run: network, moving average and optimizer, saved whole or not at all.

A checkpoint is a folder `step-0001000` of safetensors files (`model`, `ema`, `optimizer`),
`state.json` and SHA256SUMS, the checksums of the others. It is written under another name and
renamed, so a folder of that name is complete; whether it is still as it was written, the checksums
say. Nothing in it is executed when it is read. It needs no generator's state, see
`repa.training.batch`.
"""

import copy
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from repa.checkpoints.export import write_weights
from repa.data import TrainingData
from repa.errors import (
    CheckpointFormatError,
    CheckpointMismatchError,
    ChecksumError,
    RepaError,
    SettingError,
    suggestion,
)
from repa.models.sit import SIT_SIZES, SiT
from repa.training.settings import CHANGEABLE, TrainConfig, settings_by_name
from repa_base.checksums import SUMS, check_folder, parse_json, seal_folder
from repa_base.files import replacing
from repa_base.processes import Processes

_WEIGHTS = ("model.safetensors", "ema.safetensors", "optimizer.safetensors")
_STATE = "state.json"
_UNSEALED, _SEALED = 1, 2  # formats of state.json; the first has no checksums beside it


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
            trained, lr=config.learning_rate, weight_decay=config.weight_decay, fused=True
        )
        for parameter in trained:
            optimizer.state[parameter] = {
                "step": torch.zeros((), device=device),
                "exp_avg": torch.zeros_like(parameter),
                "exp_avg_sq": torch.zeros_like(parameter),
            }
        return cls(model.train(), ema, optimizer, step=0)

    def update(self, learning_rate: float, ema_decay: float, *, applied: Tensor) -> None:
        """Take an optimizer step by the gradients that are there, and move the average.

        `applied` is a boolean scalar on the device: if it is false the step counts and changes
        nothing else. The device is not waited for.
        """
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        # What PyTorch's own scaler of gradients sets: the fused kernels look at it.
        self.optimizer.found_inf = (~applied).float()  # pyright: ignore
        self.optimizer.step()
        self.update_ema(ema_decay, applied)
        self.step += 1

    def update_ema(self, decay: float, applied: Tensor) -> None:
        """Move the average by one step if it is `applied`: decay * ema + (1 - decay) * model.

        Buffers are averaged like parameters, and copied where they are whole numbers.

        Source:
            REPA train.py, update_ema, at 67f7145; REPA-E averages buffers as well.
        """
        pairs = list(zip(_tensors_of(self.ema), _tensors_of(self.model), strict=True))
        averages, values = zip(*(p for p in pairs if p[0].is_floating_point()), strict=True)
        share = torch.full((), 1 - decay, device=averages[0].device) * applied
        torch._foreach_lerp_(averages, values, [share] * len(averages))  # pyright: ignore
        for average, value in pairs:
            if not average.is_floating_point():
                average.copy_(value)

    def copy_from_first(self, processes: Processes) -> None:
        """Make the states of all processes that of the first one."""
        models = [*self.model.state_dict().values(), *self.ema.state_dict().values()]
        processes.copy_from_first([*models, *self._optimizer_tensors().values()])
        self.step = processes.share(self.step)

    @property
    def num_bytes(self) -> int:
        """Bytes of its tensors, which are all but a few thousand of those of a checkpoint."""
        tensors = [*self.model.state_dict().values(), *self.ema.state_dict().values()]
        return sum(t.nbytes for t in [*tensors, *self._optimizer_tensors().values()])

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
            state = {"format": _SEALED, "step": self.step, "config": config.sections()}
            (partial / _STATE).write_text(json.dumps(state, indent=2) + "\n")
            seal_folder(partial)
        return target

    def load(self, checkpoint: Path, config: TrainConfig) -> bool:
        """Read a checkpoint folder written by `save` into this state.

        Returns:
            Whether it has checksums, which those of earlier versions have not.

        Raises:
            CheckpointFormatError: See `check_checkpoint`.
            CheckpointMismatchError: The tensors are not those of this model.
        """
        has_checksums = check_checkpoint(checkpoint, config)
        for name, model in (("model", self.model), ("ema", self.ema)):
            path = checkpoint / f"{name}.safetensors"
            _copy(load_file(path), model.state_dict(), path)
        path = checkpoint / "optimizer.safetensors"
        _copy(load_file(path), self._optimizer_tensors(), path)
        self.step = step_of(checkpoint)
        return has_checksums

    def _optimizer_tensors(self) -> dict[str, Tensor]:
        return {
            f"{key}/{name}": value
            for name, parameter in self.model.named_parameters()
            if parameter.requires_grad
            for key, value in self.optimizer.state[parameter].items()
        }


def _tensors_of(model: SiT) -> list[Tensor]:
    return [*(p.detach() for p in model.parameters()), *model.buffers()]


def check_checkpoint(checkpoint: Path, config: TrainConfig) -> bool:
    """Find out whether a checkpoint is as it was written, by a run of these settings.

    It costs one read of its files. Checkpoints of earlier versions have no checksums; theirs must
    be readable, which a flipped byte does not change.

    Returns:
        Whether it has checksums.

    Raises:
        CheckpointFormatError: A file is missing or damaged, or of another step or run.
    """
    try:
        has_checksums = check_folder(checkpoint, (*_WEIGHTS, _STATE))
        _check_state(checkpoint, config, unsealed=not has_checksums)
        for name in _WEIGHTS:
            with safe_open(checkpoint / name, "pt"):
                pass
    except (ChecksumError, FileNotFoundError, ValueError, SafetensorError) as error:
        raise CheckpointFormatError(f"{checkpoint} is damaged: {error}") from error
    return has_checksums


def step_of(checkpoint: Path) -> int:
    """Return the step in the name of a checkpoint."""
    return int(checkpoint.name.removeprefix("step-"))


def _check_state(checkpoint: Path, config: TrainConfig, *, unsealed: bool) -> None:
    """Raise ValueError if state.json is not that of this step, run and format."""
    state = parse_json((checkpoint / _STATE).read_text("utf-8"))
    if not isinstance(state, dict) or not isinstance(stored := state.get("config"), dict):
        raise ValueError(f"{_STATE} holds no settings")
    step, now = state.get("step"), asdict(config)
    try:
        stored = settings_by_name(stored)
    except RepaError as error:
        raise ValueError(f"{_STATE} holds no settings ({error})") from error
    if type(step) is not int or step != step_of(checkpoint):
        raise ValueError(f"{_STATE} is of step {step!r}")
    if state.get("format") not in (_UNSEALED, _SEALED):
        raise ValueError(f"{_STATE} has the format {state.get('format')!r}")
    if unsealed and state["format"] == _SEALED:
        raise ValueError(f"{SUMS} is missing")
    told = [n for n in now if n in stored and n not in CHANGEABLE]
    others = [n for n in told if _short(n, stored[n]) != _short(n, now[n])]
    if not isinstance(stored.get("data", ""), str):
        others.append("data")
    if others:
        raise ValueError(f"{_STATE} is of a run with other settings ({', '.join(others)})")


def _short(name: str, value: object) -> object:
    """Return a setting without folders of files: earlier versions stored paths as typed."""
    if not isinstance(value, str):
        return value
    if name == "encoder":
        return re.sub(r"\s*=\s*([^,]*/)?", "=", value)
    return Path(value).name if name == "init" else value


def _copy(found: Mapping[str, Tensor], wanted: Mapping[str, Tensor], path: Path) -> None:
    """Fill the wanted tensors in place with those found, of the same names and shapes."""
    for name in (*wanted, *found):
        shapes = [tuple(t[name].shape) if name in t else None for t in (wanted, found)]
        if shapes[0] != shapes[1]:
            reason = f"tensor {name} has the shape {shapes[1]}, not {shapes[0]}"
            raise CheckpointMismatchError(f"{path}: {reason}: another network's.")
    with torch.no_grad():
        for name, tensor in wanted.items():
            tensor.copy_(found[name])


def model_settings(
    config: TrainConfig, data: TrainingData, target_dims: list[int]
) -> dict[str, Any]:
    """Return the keyword arguments of `SiT` that a run's settings and data ask for.

    `target_dims` are the widths of the features to align with, one an encoder.

    Raises:
        SettingError: See `check_model`; or its patches do not divide the data's inputs.
    """
    sizes, side = check_model(config), data.input_size
    if side % sizes["patch_size"]:
        rule = f"has patches of {sizes['patch_size']}, which do not divide {side} x {side} inputs"
        raise SettingError("model", f"model {config.model} {rule} of {data.name}.")
    # Files of the default projector are as earlier versions wrote them.
    other = {"projector": config.projector} if config.projector != "mlp" else {}
    return {
        "input_size": data.input_size,
        "in_channels": data.in_channels,
        "num_classes": data.num_classes,
        **sizes,
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
