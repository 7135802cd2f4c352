"""Memory of a training step, counted on a network that is described and not made.

What a step keeps of an image for its gradient is counted by running the network on tensors without
content, which takes seconds for any size of network.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from repa.models.sit import SiT
from repa.training.settings import TrainConfig

_FLOAT = 4  # bytes
_COPIES = 5  # weights, their gradients, two moments of AdamW, the moving average


@dataclass(frozen=True)
class Sizes:
    """Sizes of a run's network and of what a step keeps.

    Attributes:
        num_parameters: Of the network without projectors.
        num_projector_parameters: Of the projectors, which sampling does without.
        num_tokens: Tokens of an image.
        state_bytes: Weights, gradients, optimizer and moving average. Several processes hold
            gradients twice: PyTorch sums them over the processes in a copy.
        image_bytes: What is kept of an image between the passes.
        fixed_bytes: What is kept whatever the number of images: weights in bfloat16.
        checkpoint_bytes: Files of a checkpoint.
    """

    num_parameters: int
    num_projector_parameters: int
    num_tokens: int
    state_bytes: int
    image_bytes: int
    fixed_bytes: int
    checkpoint_bytes: int

    def memory_bytes(self, num_images: int) -> int:
        """Return the memory of a step on so many images at once, without what PyTorch itself needs.

        Buffers of single layers come on top, and on a GPU what its allocator leaves unused.
        """
        return self.state_bytes + self.fixed_bytes + num_images * self.image_bytes


def sizes_of(config: TrainConfig, settings: Mapping[str, Any], processes: int = 1) -> Sizes:
    """Count for each process of a run, `settings` being the keyword arguments of its `SiT`."""
    with FakeTensorMode():
        model = SiT(**settings, label_dropout=0.0)
        model.recomputed = config.recompute
        one, two = (_kept_bytes(model, config, count) for count in (1, 2))
        trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
        num_tensors = sum(p.requires_grad for p in model.parameters())
        every = sum(t.numel() for t in model.state_dict().values())
        projectors = sum(p.numel() for p in model.projectors.parameters())
        parameters = sum(p.numel() for p in model.parameters())
        num_tokens = (model.input_size // model.patch_size) ** 2
    held = every - trained  # constants, of which there are no gradients
    copies = _COPIES + (processes > 1)
    return Sizes(
        num_parameters=parameters - projectors,
        num_projector_parameters=projectors,
        num_tokens=num_tokens,
        state_bytes=_FLOAT * (copies * trained + 2 * held),
        image_bytes=two - one,
        fixed_bytes=max(0, 2 * one - two),
        # Model, average, the two moments, and a number of AdamW's for each tensor.
        checkpoint_bytes=_FLOAT * (2 * every + 2 * trained + num_tensors),
    )


def _kept_bytes(model: SiT, config: TrainConfig, count: int) -> int:
    """Return the bytes of all that a forward pass on so many images keeps, but for parameters."""
    own = {tensor.untyped_storage()._cdata for tensor in model.state_dict().values()}
    kept: dict[int, Any] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in own:
            kept[storage._cdata] = storage  # held, so that no other takes its place
        return tensor

    x = torch.zeros(count, model.in_channels, model.input_size, model.input_size)
    times, labels = torch.zeros(count), torch.zeros(count, dtype=torch.int64)
    bf16 = config.precision == "bf16"
    hooks = torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor)
    with hooks, torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        velocity, features = model(x, times, labels, return_features=True)
        loss = velocity.float().square().mean()
        for projected in features:
            unit = torch.nn.functional.normalize(projected.float(), dim=-1)
            loss = loss + unit.square().mean()
    return sum(storage.nbytes() for storage in kept.values())
