"""SiT, the diffusion transformer of REPA: noisy input, time and label to velocity and features.

Time runs from 0 (data) to 1 (noise) and enters the network unscaled. Attribute names are those of
the published checkpoints, so that these load strictly. The file knows nothing of losses, paths or
samplers.

Source:
    Peebles & Xie, arXiv 2212.09748 (the architecture); Yu et al., arXiv 2410.06940 (projectors).
"""

import math
from typing import Literal, overload

import torch
from torch import Tensor, nn
from torch.nn import functional as F

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
        projector_dim: Hidden width of the projectors.
        qk_norm: Whether queries and keys are normalised (LayerNorm with affine, eps 1e-5).
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
        projector_dim: int = 2048,
        qk_norm: bool = False,
        label_dropout: float = 0.1,
    ) -> None:
        super().__init__()
        if input_size % patch_size:
            raise ValueError(f"patch_size {patch_size} must divide input_size {input_size}.")
        if hidden_size % num_heads or hidden_size % 4:
            raise ValueError(
                f"hidden_size must be a multiple of num_heads ({num_heads}) and of 4, "
                f"got {hidden_size}."
            )
        if not 1 <= encoder_depth <= depth:
            raise ValueError(f"encoder_depth must be from 1 to {depth}, got {encoder_depth}.")
        if not 0 <= label_dropout <= 1:
            raise ValueError(f"label_dropout must be from 0 to 1, got {label_dropout}.")
        self.input_size = input_size
        self.patch_size = patch_size
        self.in_channels = in_channels
        self.num_classes = num_classes
        self.encoder_depth = encoder_depth
        self.label_dropout = label_dropout

        # Attribute names below stand in the published checkpoints.
        self.x_embedder = PatchEmbedder(patch_size, in_channels, hidden_size)
        self.t_embedder = TimeEmbedder(hidden_size)
        self.y_embedder = LabelEmbedder(num_classes, hidden_size)
        self.pos_embed = nn.Parameter(
            position_embedding(hidden_size, input_size // patch_size), requires_grad=False
        )
        self.blocks = nn.ModuleList(
            Block(hidden_size, num_heads, mlp_ratio, qk_norm) for _ in range(depth)
        )
        self.projectors = nn.ModuleList(
            projector(hidden_size, projector_dim, width) for width in target_dims
        )
        self.final_layer = FinalLayer(hidden_size, patch_size, in_channels)
        self.apply(_init_linear)
        self._init_special()

    @property
    def null_label(self) -> int:
        """The label that stands for "no label"."""
        return self.num_classes

    def _init_special(self) -> None:
        patches = self.x_embedder.proj
        nn.init.xavier_uniform_(patches.weight.view(patches.weight.shape[0], -1))
        nn.init.zeros_(patches.bias)  # pyright: ignore[reportArgumentType]
        nn.init.normal_(self.y_embedder.embedding_table.weight, std=0.02)
        for layer in self.t_embedder.mlp:
            if isinstance(layer, nn.Linear):
                nn.init.normal_(layer.weight, std=0.02)
        # Every block starts as the identity and the velocity as zero.
        for name, layer in self.named_modules():
            last = name == "final_layer.linear"
            if isinstance(layer, nn.Linear) and (last or "adaLN_modulation" in name):
                nn.init.zeros_(layer.weight)
                nn.init.zeros_(layer.bias)

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
        if self.training and self.label_dropout > 0:
            dropped = torch.rand(len(labels), device=labels.device) < self.label_dropout
            labels = torch.where(dropped, self.null_label, labels)
        tokens = self.x_embedder(x) + self.pos_embed
        condition = self.t_embedder(t) + self.y_embedder(labels)
        features: list[Tensor] = []
        for number, block in enumerate(self.blocks, start=1):
            tokens = block(tokens, condition)
            if return_features and number == self.encoder_depth:
                features = [project(tokens) for project in self.projectors]
        velocity = self._unpatchify(self.final_layer(tokens, condition))
        return (velocity, features) if return_features else velocity

    def _unpatchify(self, patches: Tensor) -> Tensor:
        """(B, N, p*p*C) to (B, C, H, W); a patch is stored row by row, channels last."""
        side, p = self.input_size // self.patch_size, self.patch_size
        grid = patches.view(-1, side, side, p, p, self.in_channels)
        return grid.permute(0, 5, 1, 3, 2, 4).reshape(
            -1, self.in_channels, self.input_size, self.input_size
        )


class PatchEmbedder(nn.Module):
    """Image (B, C, H, W) to tokens (B, N, hidden_size), patches in row order."""

    def __init__(self, patch_size: int, in_channels: int, hidden_size: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(in_channels, hidden_size, patch_size, stride=patch_size)

    def forward(self, x: Tensor) -> Tensor:
        """Embed every patch."""
        return self.proj(x).flatten(2).transpose(1, 2)


class TimeEmbedder(nn.Module):
    """Times (B,) in [0, 1] to vectors (B, hidden_size): 128 cosines, 128 sines, then an MLP."""

    def __init__(self, hidden_size: int, num_frequencies: int = 128) -> None:
        super().__init__()
        self.mlp = nn.Sequential(
            nn.Linear(2 * num_frequencies, hidden_size),
            nn.SiLU(),
            nn.Linear(hidden_size, hidden_size),
        )
        self.num_frequencies = num_frequencies

    def forward(self, t: Tensor) -> Tensor:
        """Embed the times. The sinusoids are float32 whatever the network's dtype."""
        steps = torch.arange(self.num_frequencies, dtype=torch.float32, device=t.device)
        frequencies = torch.exp(-math.log(10000) * steps / self.num_frequencies)
        angles = t.float()[:, None] * frequencies
        waves = torch.cat([angles.cos(), angles.sin()], dim=1)
        return self.mlp(waves.to(next(self.mlp.parameters()).dtype))


class LabelEmbedder(nn.Module):
    """Labels (B,) to vectors (B, hidden_size); the last row of the table is the null label's."""

    def __init__(self, num_classes: int, hidden_size: int) -> None:
        super().__init__()
        self.embedding_table = nn.Embedding(num_classes + 1, hidden_size)

    def forward(self, labels: Tensor) -> Tensor:
        """Look the labels up."""
        return self.embedding_table(labels)


class Attention(nn.Module):
    """Multi-head self-attention over all tokens, by PyTorch's fused kernel."""

    def __init__(self, hidden_size: int, num_heads: int, qk_norm: bool) -> None:
        super().__init__()
        head_dim = hidden_size // num_heads
        self.num_heads = num_heads
        self.qkv = nn.Linear(hidden_size, 3 * hidden_size)
        self.q_norm = nn.LayerNorm(head_dim) if qk_norm else nn.Identity()
        self.k_norm = nn.LayerNorm(head_dim) if qk_norm else nn.Identity()
        self.proj = nn.Linear(hidden_size, hidden_size)

    def forward(self, tokens: Tensor) -> Tensor:
        """Mix the tokens (B, N, hidden_size)."""
        qkv = self.qkv(tokens).unflatten(2, (3, self.num_heads, -1))
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(self.q_norm(q), self.k_norm(k), v)
        return self.proj(mixed.transpose(1, 2).flatten(2))


class MLP(nn.Module):
    """Two linear layers with the tanh form of GELU between them."""

    def __init__(self, hidden_size: int, inner_dim: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(hidden_size, inner_dim)
        self.fc2 = nn.Linear(inner_dim, hidden_size)

    def forward(self, tokens: Tensor) -> Tensor:
        """Transform each token by itself."""
        return self.fc2(F.gelu(self.fc1(tokens), approximate="tanh"))


class Block(nn.Module):
    """Transformer block whose norms are shifted, scaled and gated by the condition (adaLN-Zero)."""

    def __init__(self, hidden_size: int, num_heads: int, mlp_ratio: float, qk_norm: bool) -> None:
        super().__init__()
        self.norm1 = _norm(hidden_size)
        self.attn = Attention(hidden_size, num_heads, qk_norm)
        self.norm2 = _norm(hidden_size)
        self.mlp = MLP(hidden_size, int(hidden_size * mlp_ratio))
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(hidden_size, 6 * hidden_size))

    def forward(self, tokens: Tensor, condition: Tensor) -> Tensor:
        """Transform tokens (B, N, hidden_size) under the condition (B, hidden_size)."""
        modulation = self.adaLN_modulation(condition)[:, None]
        shift1, scale1, gate1, shift2, scale2, gate2 = modulation.chunk(6, dim=-1)
        tokens = tokens + gate1 * self.attn(_modulate(self.norm1(tokens), shift1, scale1))
        return tokens + gate2 * self.mlp(_modulate(self.norm2(tokens), shift2, scale2))


class FinalLayer(nn.Module):
    """Tokens to patches of the velocity (B, N, p*p*C)."""

    def __init__(self, hidden_size: int, patch_size: int, out_channels: int) -> None:
        super().__init__()
        self.norm_final = _norm(hidden_size)
        self.linear = nn.Linear(hidden_size, patch_size * patch_size * out_channels)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(hidden_size, 2 * hidden_size))

    def forward(self, tokens: Tensor, condition: Tensor) -> Tensor:
        """Read the velocity off the tokens."""
        shift, scale = self.adaLN_modulation(condition)[:, None].chunk(2, dim=-1)
        return self.linear(_modulate(self.norm_final(tokens), shift, scale))


def projector(hidden_size: int, projector_dim: int, target_dim: int) -> nn.Sequential:
    """Return the MLP of three layers that maps tokens to a target encoder's width."""
    return nn.Sequential(
        nn.Linear(hidden_size, projector_dim),
        nn.SiLU(),
        nn.Linear(projector_dim, projector_dim),
        nn.SiLU(),
        nn.Linear(projector_dim, target_dim),
    )


def position_embedding(hidden_size: int, grid_size: int) -> Tensor:
    """Return fixed sinusoids (1, grid_size**2, hidden_size), float32: column first, then row.

    Each half of the width encodes one coordinate, sines before cosines, at hidden_size / 4
    frequencies from 1 down to 1/10000.
    """
    quarter = hidden_size // 4
    frequencies = 10000.0 ** (-torch.arange(quarter, dtype=torch.float64) / quarter)
    angles = torch.arange(grid_size, dtype=torch.float64)[:, None] * frequencies
    waves = torch.cat([angles.sin(), angles.cos()], dim=1)
    columns = waves.expand(grid_size, -1, -1)
    rows = columns.transpose(0, 1)
    return torch.cat([columns, rows], dim=2).reshape(1, grid_size**2, hidden_size).float()


def _norm(hidden_size: int) -> nn.LayerNorm:
    return nn.LayerNorm(hidden_size, eps=1e-6, elementwise_affine=False)


def _modulate(tokens: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    return tokens * (1 + scale) + shift


def _init_linear(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        nn.init.zeros_(module.bias)
