"""Write a checkpoint of any dialect as one small safetensors file for sampling."""

import os
from pathlib import Path

import torch

from repa.checkpoints import read_checkpoint
from repa.errors import OutputExistsError
from repa.train_state import write_weights


def export_weights(
    source: str | Path,
    out: Path,
    *,
    half: bool = False,
    projectors: bool = False,
    overwrite: bool = False,
) -> Path:
    """Write the weights that sampling needs, with a description of their network.

    Args:
        source: Name in the registry, checkpoint file, or folder of a training run.
        out: File to write, ending in .safetensors.
        half: Store float16, half the size; weights are rounded to 11 significant bits.
        projectors: Keep the projectors, which only training needs.
        overwrite: Whether an existing file may be replaced.

    Returns:
        `out`.

    Raises:
        OutputExistsError: `out` exists, or does not end in .safetensors.
        RepaError: The checkpoint cannot be read, see `repa.checkpoints.load_model`.
    """
    if out.suffix != ".safetensors":
        raise OutputExistsError(f"{out}: the output's name must end in .safetensors.")
    if out.exists() and not overwrite:
        raise OutputExistsError(f"{out} exists already: add --overwrite, or another name.")
    checkpoint = read_checkpoint(source)
    checkpoint.build()  # what does not load strictly is not worth writing
    settings = checkpoint.settings
    tensors = {
        name: tensor.to(torch.float16 if half else torch.float32)
        for name, tensor in checkpoint.tensors.items()
        if projectors or not name.startswith("projectors.")
    }
    model = settings.model if projectors else {**settings.model, "target_dims": []}
    description = {
        "format": 1,
        "model": model,
        "path_type": settings.path_type,
        "dataset": settings.dataset,
        "autoencoder": settings.autoencoder,
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = out.with_name(f".{out.name}.{os.getpid()}.part")
    try:
        write_weights(partial, tensors, description)
        partial.replace(out)
    finally:
        partial.unlink(missing_ok=True)
    return out
