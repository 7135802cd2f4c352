"""timm's transformers with two narrow blocks, their weights random and none of them idle."""

import functools

import timm
import torch
from safetensors.torch import save_file

WIDTH = 48
_SMALL = {"depth": 2, "embed_dim": WIDTH, "num_heads": 3}
_create = timm.create_model


def create_small(name, **options):
    """timm's create_model with a transformer's depth and width cut; all else is as it is."""
    return _create(name, **(_SMALL if "vit_" in name else {}), **options)


def randomised(network, seed=0):
    """Set every parameter to a value that shows: norms and layer scales are no identities."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            scale = 0.3 if parameter.ndim == 1 else 0.05
            parameter.copy_(noise * scale + (parameter.ndim == 1))
    return network.eval()


@functools.cache
def tensors_of(name):
    """All tensors of a small network of timm, its head too."""
    tensors = randomised(create_small(name)).state_dict()
    return {key: value.clone().contiguous() for key, value in tensors.items()}


def saved(name, folder):
    """Save a small network of timm as timm publishes it; return the file."""
    path = folder / f"{name}.safetensors"
    save_file(tensors_of(name), path)
    return path
