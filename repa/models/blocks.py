"""Parts of diffusion transformers: embedders, attention, the adaLN-Zero block, the last layer.

Attribute names are those of the published checkpoints, so that these load strictly.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F


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
        angles = t.float()[:, None] * time_frequencies(self.num_frequencies, t.device)
        waves = torch.cat([angles.cos(), angles.sin()], dim=1)
        return self.mlp(waves.to(next(self.mlp.parameters()).dtype))


def time_frequencies(count: int, device: torch.device | str = "cpu") -> Tensor:
    """Return the frequencies (count,) of a time's sinusoids, float32, from 1 down to 1/10000."""
    steps = torch.arange(count, dtype=torch.float32, device=device)
    return torch.exp(-math.log(10000) * steps / count)


class LabelEmbedder(nn.Module):
    """Labels (B,) to vectors (B, hidden_size); the last row of the table is the null label's."""

    def __init__(self, num_classes: int, hidden_size: int) -> None:
        super().__init__()
        self.embedding_table = nn.Embedding(num_classes + 1, hidden_size)

    def forward(self, labels: Tensor) -> Tensor:
        """Look the labels up."""
        return self.embedding_table(labels)


class Attention(nn.Module):
    """Multi-head self-attention over all tokens, by PyTorch's fused kernel.

    It computes in the dtype of its layers' weights, whatever that of the tokens; the norms of
    queries and keys in that of their own.
    """

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
        qkv = self.qkv(tokens.to(self.qkv.weight.dtype)).unflatten(2, (3, self.num_heads, -1))
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        q, k = self._normed(self.q_norm, q), self._normed(self.k_norm, k)
        mixed = F.scaled_dot_product_attention(q, k, v)
        return self.proj(mixed.transpose(1, 2).flatten(2))

    def _normed(self, norm: nn.Module, heads: Tensor) -> Tensor:
        """Return queries or keys after their norm, which may be wider than the products."""
        narrow = self.qkv.weight.dtype
        if not isinstance(norm, nn.LayerNorm) or norm.weight.dtype == narrow:
            return norm(heads)
        return norm(heads.to(norm.weight.dtype)).to(narrow)


class MLP(nn.Module):
    """Two linear layers with the tanh form of GELU between them, in the dtype of their weights."""

    def __init__(self, hidden_size: int, inner_dim: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(hidden_size, inner_dim)
        self.fc2 = nn.Linear(inner_dim, hidden_size)

    def forward(self, tokens: Tensor) -> Tensor:
        """Transform each token by itself."""
        inner = self.fc1(tokens.to(self.fc1.weight.dtype))
        return self.fc2(F.gelu(inner, approximate="tanh"))


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


class ConvProjector(nn.Module):
    """Tokens to a target encoder's width by one convolution of 3 x 3 tokens, zeros around them.

    Source:
        iREPA ldm/models/sit.py, ProjectionLayer, at 99ad4ac.
    """

    def __init__(self, hidden_size: int, target_dim: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(hidden_size, target_dim, 3, padding=1)

    def forward(self, tokens: Tensor) -> Tensor:
        """Project tokens (B, N, hidden_size), a square grid row by row."""
        side = math.isqrt(tokens.shape[1])
        grid = tokens.transpose(1, 2).unflatten(2, (side, side))
        return self.conv(grid).flatten(2).transpose(1, 2)


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
