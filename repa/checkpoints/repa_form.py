"""Write a checkpoint in the form that REPA's own generate.py loads, so that it samples our models.

That script loads a file of torch.save and takes its key "ema", strictly, for a network that its
options describe. What it cannot be told is refused.

Source:
    REPA generate.py and models/sit.py at 67f7145.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from repa.autoencoders.latent_space import SD_LATENTS
from repa.checkpoints.reading import Checkpoint, read_checkpoint
from repa.checkpoints.settings import CheckpointSettings
from repa.errors import CheckpointFormatError, NonFiniteError, SettingError
from repa.models.sit import SIT_SIZES
from repa_base.files import check_output, replacing

MODELS = {name: size for name, size in SIT_SIZES.items() if name.split("-")[1][0] in "XLB"}
"""Networks that its scripts can build, by their names there; those of width S fail in its code."""
RESOLUTIONS = {32: 256, 64: 512}
"""Images by the side of their latents."""
_PROJECTOR_DIM = 2048  # no option of the script tells another
_NULL_LABEL = 1000  # whatever --num-classes says
_DECODERS = {"sd-vae-ft-ema": "ema", "sd-vae-ft-mse": "mse"}


@dataclass(frozen=True)
class RepaExport:
    """A file that REPA's generate.py loads, the options that it needs for that, and what to know.

    `notes` say in a line each what was assumed of the file that was read, and where its script will
    not do as the toolkit does.
    """

    path: Path
    options: Mapping[str, str]
    notes: tuple[str, ...]

    @property
    def command(self) -> str:
        """The beginning of the command that samples it."""
        options = " ".join(f"{name} {value}".strip() for name, value in self.options.items())
        return f"torchrun --nproc_per_node=1 generate.py {options}"


def export_to_repa(
    source: str | Path,
    out: Path,
    *,
    overwrite: bool = False,
    **hints: Any,  # noqa: ANN401
) -> RepaExport:
    """Write the weights as REPA's generate.py loads them: a dict of `ema`, `args` and `format`.

    The arguments are a plain dict, so that `torch.load` reads the file without running code. A
    network without projectors of the script's shape gets some of zeros, which samples do not
    depend on.

    Args:
        source: Name in the registry, checkpoint file of any dialect, or folder of a training run.
        out: File to write, ending in .pt.
        overwrite: Whether an existing file may be replaced.
        hints: What is said of a file that does not tell it, as of `load_model`.

    Raises:
        OutputExistsError: `out` exists.
        SettingError: `out` does not end in .pt.
        CheckpointFormatError: It is something that the script cannot be told.
        NonFiniteError: A weight is NaN or infinite.
        RepaError: The checkpoint cannot be read, see `repa.checkpoints.reading.load_model`.
    """
    if out.suffix != ".pt":
        raise SettingError("out", f"out must end in .pt, got {out}.")
    check_output(out, overwrite=overwrite, option="name")
    checkpoint = read_checkpoint(source, **hints)
    checkpoint.check()
    if reason := _hindrance(checkpoint.settings):
        raise CheckpointFormatError(
            f"{checkpoint.path}: cannot be written in REPA's form: {reason}."
        )
    tensors, dims = _state_dict(checkpoint)
    options = _options(checkpoint.settings, dims, out)
    args = {
        "model": options["--model"],
        "resolution": int(options["--resolution"]),
        "vae": options["--vae"],
        "path_type": checkpoint.settings.path_type,
        **{name: checkpoint.settings.model[name] for name in ("num_classes", "encoder_depth")},
        "qk_norm": "--qk-norm" in options,
    }
    with replacing(out) as partial:
        torch.save({"ema": tensors, "args": args, "format": "repa-toolkit"}, partial)
    return RepaExport(out, options, tuple(_notes(checkpoint, dims)))


def _hindrance(settings: CheckpointSettings) -> str | None:
    """Return why the script cannot sample such a checkpoint, or None."""
    model, space = settings.model, settings.latent_space
    if _name(model) is None:
        width = f"of width {model['hidden_size']}, {model['depth']} blocks"
        known = "SiT-XL, SiT-L and SiT-B with patches of 2, 4 or 8"
        return f"its scripts build {known}, and this is one {width}"
    if model["in_channels"] != 4 or model["input_size"] not in RESOLUTIONS:
        side = model["input_size"]
        shape = f"{model['in_channels']} x {side} x {side}"
        return f"its script samples latents of 4 x 32 x 32 or 4 x 64 x 64, and these are {shape}"
    if settings.prediction.target != "velocity" or settings.path_type not in ("linear", "cosine"):
        return f"it predicts the {settings.prediction.target} on the path {settings.path_type}"
    if model.get("internal_head"):
        return "its middle head has no place there"
    if (space.scale, space.bias) != (SD_LATENTS.scale, SD_LATENTS.bias):
        return "its latents have another scale than Stable Diffusion's, which is that of the script"
    if space.autoencoder not in (None, *_DECODERS):
        return f"its script decodes by sd-vae-ft-ema or sd-vae-ft-mse, not by {space.autoencoder}"
    return None


def _name(model: Mapping[str, Any]) -> str | None:
    named = ((name, size) for name, size in MODELS.items())
    return next((n for n, s in named if all(model[key] == s[key] for key in s)), None)


def _state_dict(checkpoint: Checkpoint) -> tuple[dict[str, Tensor], list[int]]:
    """Return the tensors in float32 with projectors, and the widths that these project to."""
    tensors, model = {}, checkpoint.settings.model
    kept = _has_its_projectors(model)
    for name, tensor in checkpoint.tensors.items():
        if not name.startswith("projectors.") or kept:
            if not torch.isfinite(tensor).all():
                what = f"{checkpoint.path}: tensor {name} holds NaN or infinite weights"
                raise NonFiniteError(f"{what}, which make no images.")
            tensors[name] = tensor.detach().to(torch.float32).contiguous()
    if kept:
        return tensors, list(model["target_dims"])
    sizes = (model["hidden_size"], _PROJECTOR_DIM), (_PROJECTOR_DIM,) * 2, (_PROJECTOR_DIM, 1)
    for layer, (inputs, outputs) in zip((0, 2, 4), sizes, strict=True):
        tensors[f"projectors.0.{layer}.weight"] = torch.zeros(outputs, inputs)
        tensors[f"projectors.0.{layer}.bias"] = torch.zeros(outputs)
    return tensors, [1]


def _has_its_projectors(model: Mapping[str, Any]) -> bool:
    mlp = model.get("projector", "mlp") == "mlp"
    return bool(model["target_dims"]) and mlp and model.get("projector_dim") == _PROJECTOR_DIM


def _options(settings: CheckpointSettings, dims: list[int], out: Path) -> dict[str, str]:
    model = settings.model
    options = {
        "--ckpt": str(out),
        "--model": _name(model) or "",
        "--resolution": str(RESOLUTIONS[model["input_size"]]),
        "--num-classes": str(model["num_classes"]),
        "--encoder-depth": str(model["encoder_depth"]),
        "--projector-embed-dims": ",".join(map(str, dims)),
        "--path-type": settings.path_type,
        "--vae": _DECODERS.get(settings.latent_space.autoencoder or "", "ema"),
    }
    return options | ({"--qk-norm": ""} if model.get("qk_norm") else {})


def _notes(checkpoint: Checkpoint, dims: list[int]) -> Iterator[str]:
    settings = checkpoint.settings
    yield from (f"assumed {taken}" for taken in checkpoint.assumed)
    if not _has_its_projectors(settings.model):
        yield f"its projectors are zeros of width {dims[0]}, which its script runs and samples lack"
    if settings.guided_channels is not None:
        yield f"its script guides all channels, not the first {settings.guided_channels}"
    if settings.num_classes != _NULL_LABEL:
        label = f"takes {_NULL_LABEL} for no label, not {settings.num_classes}"
        yield f"its script {label}: sample without guidance (--cfg-scale=1)"
