"""Write a checkpoint of any dialect as one small safetensors file for sampling."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from repa.autoencoders.ldm import PREFIX
from repa.checkpoints.reading import read_checkpoint
from repa.checkpoints.settings import describe
from repa.errors import NonFiniteError, SettingError
from repa.tensor_file import Extra, Tensors
from repa_base.files import check_output, replacing


def export_weights(
    source: str | Path,
    out: Path,
    *,
    half: bool = False,
    bf16: bool = False,
    projectors: bool = False,
    overwrite: bool = False,
    on_note: Callable[[str], object] | None = None,
    **hints: Any,  # noqa: ANN401
) -> Path:
    """Write the weights that sampling needs, with a description of their network; return `out`.

    How its authors sample it goes along, and its own autoencoder, in the precision that it has.

    Args:
        source: Name in the registry, checkpoint file, or folder of a training run.
        out: File to write, ending in .safetensors.
        half: Store float16, half the size; weights are rounded to 11 significant bits, and to
            multiples of 2**-24 (6e-8) where they are small. 65504 is the largest.
        bf16: Store bfloat16, half the size and 8 significant bits, in the range of float32.
        projectors: Keep the projectors, which only training needs.
        overwrite: Whether an existing file may be replaced.
        on_note: Is told, in one line each for a person, what was assumed of the file; what is
            written states it, and needs no further word.
        hints: What is said of a file that does not tell it, as of `load_model`.

    Raises:
        OutputExistsError: `out` exists.
        SettingError: `out` does not end in .safetensors, or both `half` and `bf16`.
        NonFiniteError: A weight is NaN or infinite, or would be as it is to be stored.
        RepaError: The checkpoint cannot be read, see `repa.checkpoints.reading.load_model`.
    """
    if half and bf16:
        raise SettingError("bf16", "bf16 and half exclude each other.")
    if out.suffix != ".safetensors":
        raise SettingError("out", f"out must end in .safetensors, got {out}.")
    check_output(out, overwrite=overwrite, option="name")
    checkpoint = read_checkpoint(source, **hints)
    _ = checkpoint.model  # what does not load strictly is not worth writing
    if on_note is not None:
        for taken in checkpoint.assumed:
            on_note(f"{checkpoint.name}: assumed {taken}.")
    settings = checkpoint.settings
    dtype = torch.float16 if half else torch.bfloat16 if bf16 else torch.float32
    tensors = {
        name: _stored(tensor, dtype, f"{checkpoint.path}: tensor {name}")
        for name, tensor in checkpoint.tensors.items()
        if projectors or not name.startswith("projectors.")
    }
    model = dict(settings.model)
    if not projectors:
        model["target_dims"] = []
        model.pop("projector", None)
    space = settings.latent_space
    for name, tensor in checkpoint.autoencoder.items():
        full = PREFIX + name.removeprefix(PREFIX)
        tensors[full] = _stored(tensor, tensor.dtype, f"{checkpoint.path}: tensor {full}")
    if space.autoencoder == str(checkpoint.path):  # it goes along
        space = replace(space, autoencoder=None)
    description = describe(
        replace(settings, model=model, sampling=checkpoint.sampling, latent_space=space)
    )
    with replacing(out) as partial:
        write_weights(partial, tensors, description)
    return out


def _stored(tensor: Tensor, dtype: torch.dtype, what: str) -> Tensor:
    """Return a tensor rounded to `dtype`, or raise NonFiniteError, which names `what`."""
    if not torch.isfinite(tensor).all():
        raise NonFiniteError(f"{what} holds NaN or infinite weights, which make no images.")
    rounded = tensor.to(dtype)
    if not torch.isfinite(rounded).all():
        name, largest = str(dtype).removeprefix("torch."), tensor.abs().max().item()
        limit = f"beyond {torch.finfo(dtype).max:g}, the largest of {name}"
        way = ": use --bf16, or neither" if dtype == torch.float16 else ""
        raise NonFiniteError(f"{what} holds {largest:g}, {limit}{way}.")
    return rounded


def write_weights(path: Path, tensors: Tensors, description: Extra) -> None:
    """Write a SiT's tensors with a JSON description that `repa.checkpoints.load_model` reads."""
    contiguous = {name: tensor.detach().contiguous() for name, tensor in tensors.items()}
    # One key alone: safetensors writes several in an order that changes from run to run.
    save_file(contiguous, path, metadata={"repa": json.dumps(dict(description))})
