"""What a checkpoint holds, fact by fact, and where each is from."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from repa.autoencoders.latent_space import LatentSpace
from repa.checkpoints import Checkpoint, read_checkpoint
from repa.checkpoints.hints import ASSUMED
from repa.generation import Protocol, defaults_of
from repa.models.sit import SIT_SIZES

_PARTS = {
    "x_embedder": "embedders",
    "t_embedder": "embedders",
    "y_embedder": "embedders",
    "blocks": "blocks",
    "final_layer": "last layer",
    "final_layer_xr": "middle head",
    "projectors": "projectors",
}
_PRINTED = (str, int, float, bool, type(None))


@dataclass(frozen=True)
class Fact:
    """Something known of a checkpoint: its name, its value, and where that is from.

    The value is one that JSON has; `source` is None where the tensors themselves say it.
    """

    name: str
    value: Any
    source: str | None = None

    @property
    def is_assumed(self) -> bool:
        """Whether nothing in the file says it, nor a person."""
        return self.source is not None and self.source.startswith(ASSUMED)


@dataclass(frozen=True)
class Inspection:
    """What a checkpoint holds.

    Args:
        name: Registered name, or the file's.
        path: The file.
        facts: What is known of it, in the order in which it is worth reading.
        parameters: Numbers of parameters by part of the network, and "all".
        arguments: A trainer's arguments that stand in the file, by name.
        sampling: The settings of sampling that are its defaults, by name.
        sampling_source: Whose they are.
    """

    name: str
    path: Path
    facts: tuple[Fact, ...]
    parameters: Mapping[str, int]
    arguments: Mapping[str, Any]
    sampling: Mapping[str, Any]
    sampling_source: str

    @property
    def assumed(self) -> list[Fact]:
        """What nothing in the file says, nor a person."""
        return [fact for fact in self.facts if fact.is_assumed]

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON has it."""
        return {
            "name": self.name,
            "file": str(self.path),
            **{fact.name: fact.value for fact in self.facts},
            "sources": {fact.name: fact.source for fact in self.facts if fact.source},
            "assumed": [fact.name for fact in self.assumed],
            "parameters": dict(self.parameters),
            "sampling": dict(self.sampling),
            "sampling_source": self.sampling_source,
            "arguments": dict(self.arguments),
        }


def inspect_checkpoint(name_or_path: str | Path, **hints: Any) -> Inspection:  # noqa: ANN401
    """Tell what a checkpoint holds and where that is from; no network is built.

    Args:
        name_or_path: Name in the registry, file, or folder of a training run.
        hints: What is said of a file that does not tell it, as of `repa.checkpoints.load_model`.

    Raises:
        RepaError: As of `repa.checkpoints.load_model`.
    """
    checkpoint = read_checkpoint(name_or_path, **hints)
    checkpoint.check()
    given = {name: value for name, value in hints.items() if value is not None}
    protocol = Protocol.for_model(name_or_path, **given)
    own = defaults_of(name_or_path, **given)
    names = ("solver", "num_steps", "cfg_scale", "guidance_interval", "labels", "quantizer")
    names += ("internal_scale", "internal_interval") if protocol.internal_scale != 1 else ()
    whose = "REPA's published protocol"
    if own.registered:
        whose = f"those of {own.registered} in the registry"
    elif own.dialect:
        whose = f"those of the authors of {own.dialect}"
        whose = "what the file itself says" if own.dialect == "ours" else whose
    return Inspection(
        checkpoint.name,
        checkpoint.path,
        tuple(_facts(checkpoint)),
        _parameters(checkpoint),
        {str(k): v if isinstance(v, _PRINTED) else str(v) for k, v in checkpoint.args.items()},
        {name: getattr(protocol, name) for name in names},
        whose,
    )


def _facts(checkpoint: Checkpoint) -> Iterator[Fact]:
    settings, told = checkpoint.settings, checkpoint.told
    model, every = settings.model, told.get("settings")

    def fact(name: str, value: Any, key: str | None = None) -> Fact:  # noqa: ANN401
        return Fact(name, value, told.get(key or name, every))

    yield fact("dialect", checkpoint.dialect)
    yield Fact("architecture", _architecture(model), every)
    yield fact("num_heads", model["num_heads"])
    yield Fact("num_classes", model["num_classes"], every)
    yield Fact("input", [model["in_channels"], model["input_size"], model["input_size"]], every)
    predicted = told.get("prediction", every or "its dialect")
    yield Fact("prediction", _prediction(checkpoint), predicted)
    yield fact("path_type", settings.path_type)
    yield fact("latent_space", _space(checkpoint.latent_space))
    if settings.guided_channels is not None:
        yield Fact("guided_channels", settings.guided_channels, every or "its dialect")
    if model.get("internal_head"):
        yield fact("middle_head_after_block", model["encoder_depth"], "encoder_depth")
    elif model["target_dims"]:
        yield fact("alignment_after_block", model["encoder_depth"], "encoder_depth")
        yield Fact("projectors_to", list(model["target_dims"]), every)
    if settings.dataset is not None:
        yield fact("dataset", settings.dataset)


def _architecture(model: Mapping[str, Any]) -> str:
    """Name the size of a network, or say its width and depth."""
    sizes = ("hidden_size", "depth", "patch_size", "num_heads")
    fitting = (n for n, size in SIT_SIZES.items() if all(model[k] == size[k] for k in sizes))
    shape = f"width {model['hidden_size']}, {model['depth']} blocks"
    name = next(fitting, f"SiT of {shape}, patches of {model['patch_size']}")
    extras = ["qk-norm"] if model.get("qk_norm") else []
    extras += [f"{model['out_channels']} channels out"] if model.get("out_channels") else []
    extras += ["a middle head"] if model.get("internal_head") else []
    return ", ".join([name, *extras])


def _prediction(checkpoint: Checkpoint) -> str:
    """Say what the network predicts, as it is held in memory."""
    prediction = checkpoint.settings.prediction
    if prediction.target == "velocity" and not prediction.reversed_time:
        return "velocity (t = 1 is noise)"
    words = prediction.target
    if prediction.num_times is not None:
        words += f" at {prediction.num_times} whole times"
    return words + (", in reversed time" if prediction.reversed_time else "")


def _space(space: LatentSpace) -> dict[str, Any] | str:
    if space.is_pixels:
        return "pixels"
    numbers = {name: getattr(space, name) for name in ("scale", "bias")}
    return {"autoencoder": space.autoencoder, **numbers}


def _parameters(checkpoint: Checkpoint) -> dict[str, int]:
    """Count the parameters of each part; the position embedding is fixed, and not counted."""
    counts: dict[str, int] = {}
    for name, tensor in checkpoint.tensors.items():
        if (part := _PARTS.get(name.split(".")[0])) is not None:
            counts[part] = counts.get(part, 0) + tensor.numel()
    if checkpoint.autoencoder:
        counts["autoencoder"] = sum(t.numel() for t in checkpoint.autoencoder.values())
    network = sum(count for part, count in counts.items() if part != "autoencoder")
    return {"network": network, **counts}
