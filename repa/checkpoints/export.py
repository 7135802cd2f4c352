"""Write a checkpoint of any dialect as one small safetensors file for sampling."""

import json
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import save_file

from repa.checkpoints.contents import Extra, Tensors
from repa.checkpoints.reading import read_checkpoint
from repa.checkpoints.settings import describe
from repa.errors import OutputExistsError
from repa_base.files import check_output, replacing


def export_weights(
    source: str | Path,
    out: Path,
    *,
    half: bool = False,
    projectors: bool = False,
    overwrite: bool = False,
) -> Path:
    """Write the weights that sampling needs, with a description of their network; return `out`.

    Args:
        source: Name in the registry, checkpoint file, or folder of a training run.
        out: File to write, ending in .safetensors.
        half: Store float16, half the size; weights are rounded to 11 significant bits.
        projectors: Keep the projectors, which only training needs.
        overwrite: Whether an existing file may be replaced.

    Raises:
        OutputExistsError: `out` exists, or does not end in .safetensors.
        RepaError: The checkpoint cannot be read, see `repa.checkpoints.reading.load_model`.
    """
    if out.suffix != ".safetensors":
        raise OutputExistsError(f"{out}: the output's name must end in .safetensors.")
    check_output(out, overwrite=overwrite, option="name")
    checkpoint = read_checkpoint(source)
    _ = checkpoint.model  # what does not load strictly is not worth writing
    settings = checkpoint.settings
    tensors = {
        name: tensor.to(torch.float16 if half else torch.float32)
        for name, tensor in checkpoint.tensors.items()
        if projectors or not name.startswith("projectors.")
    }
    model = dict(settings.model)
    if not projectors:
        model["target_dims"] = []
        model.pop("projector", None)
    description = describe(replace(settings, model=model))
    with replacing(out) as partial:
        write_weights(partial, tensors, description)
    return out


def write_weights(path: Path, tensors: Tensors, description: Extra) -> None:
    """Write a SiT's tensors with a JSON description that `repa.checkpoints.load_model` reads."""
    contiguous = {name: tensor.detach().contiguous() for name, tensor in tensors.items()}
    # One key alone: safetensors writes several in an order that changes from run to run.
    save_file(contiguous, path, metadata={"repa": json.dumps(dict(description))})
