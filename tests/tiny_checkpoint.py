"""A network that samples in a moment, and a checkpoint of it as the toolkit writes them."""

import json

import torch
from safetensors.torch import save_file

from repa import SiT

MODEL = {
    "input_size": 8,
    "patch_size": 4,
    "in_channels": 3,
    "hidden_size": 24,
    "depth": 1,
    "num_heads": 3,
    "num_classes": 5,
    "encoder_depth": 1,
    "target_dims": [],
}


def tiny_sit(**changes):
    """The same random weights every time, none of them zero; `changes` are those of `MODEL`."""
    torch.manual_seed(0)
    model = SiT(**{**MODEL, **changes})
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return model


def save_tiny(path, described=None, *, nan_label=None, **changes):
    """Write such a network, of which more may be described, or one class's embedding be NaN."""
    model = tiny_sit(**changes)
    if nan_label is not None:
        model.y_embedder.embedding_table.weight.data[nan_label] = torch.nan
    description = {"format": 1, "model": {**MODEL, **changes}, "path_type": "linear"}
    description |= {"dataset": "digits", **(described or {})}
    save_file(model.state_dict(), path, metadata={"repa": json.dumps(description)})
    return path
