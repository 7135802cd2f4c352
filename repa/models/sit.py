"""SiT, the diffusion transformer of REPA: noisy input, time and label to velocity and features.

Time runs from 0 (data) to 1 (noise) and enters the network unscaled. Attribute names are those of
the published checkpoints, so that these load strictly.

Source:
    Peebles & Xie, arXiv 2212.09748 (the architecture); Yu et al., arXiv 2410.06940 (projectors).
"""

import copy
from typing import Literal, overload

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from repa.models import blocks
from repa.models.names import ProjectorKind

_WIDTHS = {
    "XL": {"hidden_size": 1152, "depth": 28, "num_heads": 16},
    "L": {"hidden_size": 1024, "depth": 24, "num_heads": 16},
    "B": {"hidden_size": 768, "depth": 12, "num_heads": 12},
    "S": {"hidden_size": 384, "depth": 12, "num_heads": 6},
    "Ti": {"hidden_size": 128, "depth": 7, "num_heads": 4},
    "Pico": {"hidden_size": 48, "depth": 3, "num_heads": 3},
}

SIT_SIZES: dict[str, dict[str, int]] = {
    f"SiT-{width}/{patch}": {**sizes, "patch_size": patch}
    for width, sizes in _WIDTHS.items()
    for patch in (2, 4, 8)
}
"""Named sizes: keyword arguments of `SiT`. XL, L, B and S are published; Ti and Pico suit a CPU."""


class SiT(nn.Module):
    """Diffusion transformer that predicts the velocity of the path at (x, t, label).

    Args:
        input_size: Height and width of the (square) input, in latent or image pixels.
        patch_size: Side of a patch; divides `input_size`.
        in_channels: Channels of the input and of the velocity (4 for latents, 3 for pixels).
        hidden_size: Width of the tokens; a multiple of `num_heads` and of 4.
        depth: Number of blocks.
        num_heads: Attention heads of a block.
        mlp_ratio: Width of a block's MLP over `hidden_size`.
        num_classes: Labels are 0 to num_classes - 1; `num_classes` itself is the null label, whose
            row always exists.
        encoder_depth: Features to align are taken after this many blocks, from 1 to `depth`.
        target_dims: Widths of the target features, one projector each; may be empty.
        projector: Kind of the projectors: the reference's MLP, or iREPA's convolution.
        projector_dim: Hidden width of MLP projectors.
        qk_norm: Whether queries and keys are normalised (LayerNorm with affine, eps 1e-5).
        out_channels: Channels of the output; None is `in_channels`. DiT has twice as many.
        internal_head: Whether a second last layer, after block `encoder_depth`, predicts the
            velocity as well; see `velocities`. Internal Guidance trains it.
        label_dropout: Probability, in training mode alone, that a label becomes the null label.

    Raises:
        ValueError: Sizes do not divide, or `encoder_depth` or `label_dropout` is out of range.

    Source:
        REPA models/sit.py at 67f7145. Unlike there, the small sizes work, the null row does not
        depend on the dropout, and projectors run only when their output is asked for.
    """

    pos_embed: Tensor

    def __init__(
        self,
        *,
        input_size: int,
        patch_size: int,
        in_channels: int,
        hidden_size: int,
        depth: int,
        num_heads: int,
        mlp_ratio: float = 4.0,
        num_classes: int,
        encoder_depth: int,
        target_dims: list[int] | tuple[int, ...],
        projector: ProjectorKind = "mlp",
        projector_dim: int = 2048,
        qk_norm: bool = False,
        out_channels: int | None = None,
        internal_head: bool = False,
        label_dropout: float = 0.1,
    ) -> None:
        super().__init__()
        if input_size % patch_size:
            raise ValueError(f"patch_size {patch_size} must divide input_size {input_size}.")
        if hidden_size % num_heads or hidden_size % 4:
            rule = f"a multiple of num_heads ({num_heads}) and of 4"
            raise ValueError(f"hidden_size must be {rule}, got {hidden_size}.")
        if not 1 <= encoder_depth <= depth:
            raise ValueError(f"encoder_depth must be from 1 to {depth}, got {encoder_depth}.")
        if not 0 <= label_dropout <= 1:
            raise ValueError(f"label_dropout must be from 0 to 1, got {label_dropout}.")
        self.input_size, self.patch_size, self.in_channels = input_size, patch_size, in_channels
        self.out_channels = out_channels or in_channels
        self.num_classes, self.label_dropout = num_classes, label_dropout
        self.encoder_depth = encoder_depth
        self.recomputed = False
        """Whether blocks keep nothing for the backward pass, and are computed again in it."""

        self.x_embedder = blocks.PatchEmbedder(patch_size, in_channels, hidden_size)
        self.t_embedder = blocks.TimeEmbedder(hidden_size)
        self.y_embedder = blocks.LabelEmbedder(num_classes, hidden_size)
        grid = blocks.position_embedding(hidden_size, input_size // patch_size)
        self.pos_embed = nn.Parameter(grid, requires_grad=False)
        self.blocks = nn.ModuleList(
            blocks.Block(hidden_size, num_heads, mlp_ratio, qk_norm) for _ in range(depth)
        )
        self.projectors = nn.ModuleList(
            blocks.ConvProjector(hidden_size, width)
            if projector == "conv"
            else blocks.projector(hidden_size, projector_dim, width)
            for width in target_dims
        )
        self.final_layer = blocks.FinalLayer(hidden_size, patch_size, self.out_channels)
        if internal_head:
            self.final_layer_xr = blocks.FinalLayer(hidden_size, patch_size, self.out_channels)
        self._initialise()

    @property
    def null_label(self) -> int:
        """The label that stands for "no label"."""
        return self.num_classes

    def narrowed(self, dtype: torch.dtype) -> "SiT":
        """Return a copy for sampling whose attention and MLPs compute in a 16-bit `dtype`.

        The tokens between blocks, all norms, those of queries and keys too, modulation, embedders
        and the last layer stay as they are: an image's small differences are sums of all blocks,
        and would be rounded off.
        """
        copied = copy.deepcopy(self).requires_grad_(False)
        for block in copied.blocks:
            for part in ("attn.qkv", "attn.proj", "mlp"):
                block.get_submodule(part).to(dtype)
        return copied

    def compile_blocks(self) -> None:
        """Compile every block when it is first called; they share what is compiled.

        A second size of the batch is compiled once more, for all sizes but one. Last digits change.
        """
        for block in self.blocks:
            block.compile()

    def compiled(self) -> "SiT":
        """Return a network of the same parameters whose blocks are compiled, for sampling."""
        copied = copy.copy(self)
        copied._modules = dict(self._modules)
        copied.blocks = nn.ModuleList(copy.copy(block) for block in self.blocks)
        copied.compile_blocks()
        return copied

    def _initialise(self) -> None:
        for layer in self.modules():
            if isinstance(layer, nn.Linear):
                nn.init.xavier_uniform_(layer.weight)
                nn.init.zeros_(layer.bias)
        patches = self.x_embedder.proj
        nn.init.xavier_uniform_(patches.weight.view(patches.weight.shape[0], -1))
        nn.init.zeros_(patches.bias)  # pyright: ignore[reportArgumentType]
        nn.init.normal_(self.y_embedder.embedding_table.weight, std=0.02)
        for layer in self.t_embedder.mlp:
            if isinstance(layer, nn.Linear):
                nn.init.normal_(layer.weight, std=0.02)
        # Every block starts as the identity and the velocity as zero.
        for name, layer in self.named_modules():
            last = name in ("final_layer.linear", "final_layer_xr.linear")
            if isinstance(layer, nn.Linear) and (last or "adaLN_modulation" in name):
                nn.init.zeros_(layer.weight)

    @overload
    def forward(
        self, x: Tensor, t: Tensor, labels: Tensor, return_features: Literal[False] = False
    ) -> Tensor: ...
    @overload
    def forward(
        self, x: Tensor, t: Tensor, labels: Tensor, return_features: Literal[True]
    ) -> tuple[Tensor, list[Tensor]]: ...
    def forward(
        self, x: Tensor, t: Tensor, labels: Tensor, return_features: bool = False
    ) -> Tensor | tuple[Tensor, list[Tensor]]:
        """Predict the velocity, and the projected features when asked.

        Args:
            x: Noisy input (B, in_channels, input_size, input_size) in the network's dtype.
            t: Times (B,), 0 = data, 1 = noise.
            labels: int64 (B,), 0 to num_classes; num_classes is the null label. In training mode
                each becomes the null label with probability `label_dropout`.
            return_features: Whether to run the projectors.

        Returns:
            The velocity (B, in_channels, input_size, input_size), alone or with the list of
            projected features (B, N, target_dim), N = (input_size / patch_size) squared.
        """
        middle, last, condition = self._tokens(x, t, labels)
        velocity = self._unpatchify(self.final_layer(last, condition))
        if not return_features:
            return velocity
        return velocity, [project(middle) for project in self.projectors]

    def velocities(self, x: Tensor, t: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Predict the velocity, and its worse guess by the head after block `encoder_depth`.

        Arguments as of `forward`; both are shaped like x. Needs `internal_head`.

        Source:
            Internal-Guidance SiT/models/sit.py at d048cc3.
        """
        middle, last, condition = self._tokens(x, t, labels)
        heads = (self.final_layer, last), (self.final_layer_xr, middle)
        full, internal = (self._unpatchify(head(tokens, condition)) for head, tokens in heads)
        return full, internal

    def _tokens(self, x: Tensor, t: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the tokens after block `encoder_depth` and after all, and the condition."""
        if self.training and self.label_dropout > 0:
            dropped = torch.rand(len(labels), device=labels.device) < self.label_dropout
            labels = torch.where(dropped, self.null_label, labels)
        tokens = self.x_embedder(x) + self.pos_embed
        condition = self.t_embedder(t) + self.y_embedder(labels)
        middle = tokens
        for number, block in enumerate(self.blocks, start=1):
            tokens = self._run(block, tokens, condition)
            if number == self.encoder_depth:
                middle = tokens
        return middle, tokens, condition

    def _run(self, block: nn.Module, tokens: Tensor, condition: Tensor) -> Tensor:
        if not (self.recomputed and torch.is_grad_enabled()):
            return block(tokens, condition)
        # Blocks draw no random numbers, so that no generator's state needs to be kept.
        return checkpoint(  # pyright: ignore[reportReturnType]
            block, tokens, condition, use_reentrant=False, preserve_rng_state=False
        )

    def _unpatchify(self, patches: Tensor) -> Tensor:
        """(B, N, p*p*C) to (B, C, H, W); a patch is stored row by row, channels last."""
        side, p = self.input_size // self.patch_size, self.patch_size
        grid = patches.view(-1, side, side, p, p, self.out_channels)
        return grid.permute(0, 5, 1, 3, 2, 4).flatten(4, 5).flatten(2, 3)
