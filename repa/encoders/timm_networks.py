"""timm's networks as encoders: built without the network, weights loaded strictly from a file.

Position embeddings are resampled from those of the file to the grid of tokens that is asked for:
bicubic and antialiased, as the reference does.
"""

import sys
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from repa.encoders.families import Family
from repa.errors import (
    CheckpointFormatError,
    CheckpointMismatchError,
    DownloadError,
    SettingError,
    first_line,
)
from repa.registry import Entry

_HUB = "https://huggingface.co"
_HUB_FILE = "model.safetensors"


class PatchFeatures(nn.Module):
    """A timm network from input (B, 3, S, S) to the patches' features (B, D, h, w).

    Args:
        network: From `build`; its head and, without `final_norm`, its last norm are taken off.
        final_norm: Whether features are normalised as the network itself does at its end.
    """

    def __init__(self, network: Any, *, final_norm: bool) -> None:  # noqa: ANN401
        super().__init__()
        network.prune_intermediate_layers(1, prune_norm=not final_norm, prune_head=True)
        self.network, self.final_norm = network, final_norm

    def forward(self, pixels: Tensor) -> Tensor:
        """Return the last block's features; class and register tokens are left out."""
        (features,) = self.network.forward_intermediates(
            pixels, indices=1, norm=self.final_norm, output_fmt="NCHW", intermediates_only=True
        )
        return features


def build(timm_name: str) -> Any:  # noqa: ANN401
    """Build a network by timm's name with random weights, for any image size if it can be.

    Raises:
        SettingError: timm has no such network, or one that does not give its features.
    """
    import timm

    if not timm.is_model(timm_name):
        close = get_close_matches(timm_name, timm.list_models(), n=1, cutoff=0.5)
        hint = f"; did you mean {close[0]!r}?" if close else "."
        raise _refused(f"timm {timm.__version__} has no network {timm_name!r}{hint}")
    try:
        try:
            network = timm.create_model(timm_name, dynamic_img_size=True)
        except TypeError:  # a network that knows no such argument
            network = timm.create_model(timm_name)
    except RuntimeError as error:  # a tag that it has not
        raise _refused(f"timm {timm.__version__}: {first_line(error)}") from error
    if not hasattr(network, "forward_intermediates"):
        raise _refused(f"timm does not give the features of {timm_name}.")
    return network


def patch_size(network: Any) -> int:  # noqa: ANN401
    """Return how many pixels of the input, in a row, one feature stands for."""
    return network.feature_info[-1]["reduction"]


def grid_sizes(network: Any) -> range:  # noqa: ANN401
    """Return the sides of the grids that a network gives: one, if its input's size is fixed."""
    config = network.pretrained_cfg
    if getattr(network, "dynamic_img_size", False) or not config["fixed_input_size"]:
        return range(1, 257)
    side = config["input_size"][-1] // patch_size(network)
    return range(side, side + 1)


def own_family(network: Any) -> Family:  # noqa: ANN401
    """Return how a network without a registered family is used: timm's mean and deviation."""
    config = network.pretrained_cfg
    return Family(mean=config["mean"], std=config["std"])


def published_weights(timm_name: str) -> Entry:
    """Return where timm's own configuration says that the weights of a network are.

    Raises:
        DownloadError: It names no weights.
    """
    from timm.models import get_pretrained_cfg

    config = get_pretrained_cfg(timm_name)
    if config is None or not (config.hf_hub_id or config.url):
        raise DownloadError(
            f"timm names no weights of {timm_name}: give a file, timm:{timm_name}=PATH"
        )
    url = str(config.url)
    if config.hf_hub_id:
        url = f"{_HUB}/{config.hf_hub_id}/resolve/main/{config.hf_hub_filename or _HUB_FILE}"
    return {"url": url, "file": timm_name + Path(url).suffix, "sha256": None, "size": None}


def _refused(message: str) -> SettingError:
    return SettingError("encoder", message)


def load_weights(network: Any, path: Path, *, final_norm: bool) -> PatchFeatures:  # noqa: ANN401
    """Load a file of timm's, or of the publisher in a form that timm can convert.

    Every tensor that the features need must be in the file. What else it holds must belong to the
    whole network, by its name, or to a head. Nothing in it is executed.

    Raises:
        CheckpointFormatError: The file is damaged or holds no tensors.
        CheckpointMismatchError: The tensors are not those of the network.
    """
    whole, tensors = set(network.state_dict()), _read(path, network)
    features = PatchFeatures(network, final_norm=final_norm)
    try:
        missing, unexpected = network.load_state_dict(tensors, strict=False)
    except RuntimeError as error:  # of other shapes
        reason = " ".join(str(error).split("\n\t")[1:2]) or first_line(error)
        raise CheckpointMismatchError(f"{path}: other weights: {reason}") from error
    if missing:
        lack = f"{len(missing)} tensors of the network, {missing[0]} for one"
        raise CheckpointMismatchError(f"{path}: lacks {lack}.")
    foreign = [name for name in unexpected if name not in whole and not name.startswith("head.")]
    if foreign:
        more = f"{len(foreign)} tensors that the network has not, {foreign[0]} for one"
        raise CheckpointMismatchError(f"{path}: holds {more}.")
    return features


def _read(path: Path, network: nn.Module) -> dict[str, Tensor]:
    from timm.models import load_state_dict

    convert = getattr(sys.modules[type(network).__module__], "checkpoint_filter_fn", None)
    try:
        content = load_state_dict(str(path), weights_only=True)
        tensors = convert(content, network) if convert else content
    except FileNotFoundError:
        raise
    except Exception as error:  # a stranger's files fail in many ways
        what = f"holds no weights of {type(network).__name__}: {first_line(error)}"
        raise CheckpointFormatError(f"{path}: {what}") from error
    if not tensors or not all(map(torch.is_tensor, tensors.values())):
        raise CheckpointFormatError(f"{path}: holds no tensors of a network.")
    return tensors
