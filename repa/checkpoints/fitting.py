"""Fit a checkpoint's weights to a network of other classes, another resolution, other projectors.

Three parts may be left to be made anew: the label table, the position embedding and the projectors;
the middle head of Internal Guidance is left out. All else has to be that of the network, tensor by
tensor, and the prediction has to be the velocity: SiT and Self-Flow, whose time runs the other way,
are turned as they are read (`repa.checkpoints.dialects.sit`), and DiT's noise cannot be.
"""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from repa.checkpoints.reading import Checkpoint
from repa.checkpoints.settings import CheckpointSettings
from repa.errors import CheckpointMismatchError
from repa.models.sit import SIT_SIZES
from repa.tensor_file import Tensors

_LABELS, _POSITIONS = "y_embedder.embedding_table.weight", "pos_embed"
_PROJECTORS, _MIDDLE_HEAD = "projectors.", "final_layer_xr."


def fit_weights(
    checkpoint: Checkpoint, network: Tensors, settings: CheckpointSettings
) -> tuple[dict[str, Tensor], list[str]]:
    """Return the tensors that a network takes from a checkpoint, and what is to be said of it.

    Args:
        checkpoint: From `read_checkpoint`.
        network: The state dict of the network, of which names and shapes count.
        settings: Which network it is, and for what.

    Returns:
        Tensors, in the file's dtypes, of all names in the network but those to be made anew; and
        notes in a few words: what is made anew, and what else is another.

    Raises:
        CheckpointFormatError: The checkpoint's settings make no network.
        CheckpointMismatchError: Its tensors do not make it, it does not predict the velocity in the
            toolkit's direction of time, or something is another that has to be the same; the
            message names the first tensor of it.
    """
    checkpoint.check()
    has, wants = checkpoint.settings.model, settings.model
    left, notes = set[str](), list[str]()
    if has["num_classes"] != wants["num_classes"]:
        left.add(_LABELS)
        classes = f"{wants['num_classes']} classes, not {has['num_classes']}"
        notes.append(f"label table made anew ({classes})")
    if _grid(has) != _grid(wants):
        left.add(_POSITIONS)
        sides = [f"{side} x {side}" for side in (_grid(wants), _grid(has))]
        notes.append(f"position embedding made anew ({sides[0]} tokens, not {sides[1]})")
    projectors = {name for name in (*checkpoint.tensors, *network) if name.startswith(_PROJECTORS)}
    if projectors and _are_alike(projectors, checkpoint, network, wants):
        notes.append("projectors kept")
    elif projectors:
        left |= projectors
        notes.append("projectors made anew" if wants["target_dims"] else "without its projectors")
    heads = {name for name in checkpoint.tensors if name.startswith(_MIDDLE_HEAD)} - network.keys()
    if heads:
        left |= heads
        notes.append("without its middle head")
    taken = {name: tensor for name, tensor in checkpoint.tensors.items() if name not in left}
    _check_same(checkpoint, taken, {n: t for n, t in network.items() if n not in left}, wants)
    return taken, notes + _differences(checkpoint.settings, settings)


def _are_alike(
    projectors: set[str], checkpoint: Checkpoint, network: Tensors, wants: Mapping[str, Any]
) -> bool:
    """Whether the projectors of both have the same shapes, after the same block."""
    if checkpoint.settings.model["encoder_depth"] != wants["encoder_depth"]:
        return False
    shapes = [
        {n: t.shape for n, t in of.items() if n in projectors}
        for of in (checkpoint.tensors, network)
    ]
    return shapes[0] == shapes[1]


def _check_same(
    checkpoint: Checkpoint, found: Tensors, network: Tensors, wants: Mapping[str, Any]
) -> None:
    """Raise CheckpointMismatchError unless both have the same tensors, heads and prediction."""
    prediction, has = checkpoint.settings.prediction, checkpoint.settings.model
    if prediction.target != "velocity" or prediction.reversed_time:
        time = " in reversed time" if prediction.reversed_time else ""
        raise CheckpointMismatchError(
            f"{checkpoint.path}: tensor final_layer.linear.weight predicts the {prediction.target}"
            f"{time}, and a run trains the velocity in REPA's direction of time: start from "
            "another checkpoint."
        )
    problem = None
    for name in (*network, *found):
        shapes = [tuple(of[name].shape) if name in of else "missing" for of in (found, network)]
        if shapes[0] != shapes[1]:
            problem = f"tensor {name} is {shapes[0]} in it and {shapes[1]} in this run's network"
            break
    else:
        if has["num_heads"] != wants["num_heads"]:
            heads = f"{has['num_heads']} heads and this run's network {wants['num_heads']}"
            problem = f"tensor blocks.0.attn.qkv.weight has {heads}"
    if problem:
        is_size = [name for name, size in SIT_SIZES.items() if size.items() <= has.items()]
        hint = f"; it holds a {is_size[0]}" if is_size else ""
        raise CheckpointMismatchError(f"{checkpoint.path}: {problem}{hint}.")


def _differences(has: CheckpointSettings, wants: CheckpointSettings) -> list[str]:
    """Say what is another although every tensor fits."""
    notes = []
    if has.path_type != wants.path_type:
        notes.append(f"trained on the {has.path_type} path, not {wants.path_type}")
    spaces = has.latent_space, wants.latent_space
    if (spaces[0].scale, spaces[0].bias) != (spaces[1].scale, spaces[1].bias):
        notes.append("trained in another latent space")
    if has.num_classes == wants.num_classes and has.dataset not in (None, wants.dataset):
        notes.append(f"label table of {has.dataset} kept")
    return notes


def _grid(model: Mapping[str, Any]) -> int:
    return model["input_size"] // model["patch_size"]
