"""A small network with a projector, and checkpoints of it."""

import json

import torch
from safetensors.torch import save_file

from repa import SiT

TINY = {
    "input_size": 8,
    "patch_size": 4,
    "in_channels": 3,
    "hidden_size": 24,
    "depth": 2,
    "num_heads": 3,
    "num_classes": 5,
    "encoder_depth": 2,
    "target_dims": [7],
    "projector_dim": 9,
}


def aligned_sit(**changes):
    torch.manual_seed(0)
    model = SiT(**{**TINY, **changes})
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return model


def save_ours(path, tensors, model=TINY, **changes):
    description = {"format": 1, "model": model, "path_type": "linear", **changes}
    save_file(dict(tensors), path, metadata={"repa": json.dumps(description)})
    return path
