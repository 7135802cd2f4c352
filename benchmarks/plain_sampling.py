"""The published protocol as a plain loop: what ours is timed against, and gives the same states as.

Written after what REPA's generate.py and samplers.py at 67f7145 do: the network in float32, with
attention that is not fused and projectors whose output nobody reads; state and noise in float64;
guidance by a doubled batch within a closed interval; Euler-Maruyama steps of the SDE whose
diffusion is 2t, the last of them from 0.04 without noise.
"""

import copy
from itertools import pairwise

import torch
from torch import nn

LAST_STEP = 0.04


class UnfusedAttention(nn.Module):
    """The same attention with its matrix of weights written out."""

    def __init__(self, attention):
        super().__init__()
        self.num_heads = attention.num_heads
        self.qkv, self.proj = attention.qkv, attention.proj
        self.q_norm, self.k_norm = attention.q_norm, attention.k_norm

    def forward(self, tokens):
        """Mix the tokens (B, N, hidden_size)."""
        heads = self.qkv(tokens).unflatten(2, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        q, k, v = heads.unbind(0)
        q, k = self.q_norm(q), self.k_norm(k)
        weights = (q * q.shape[-1] ** -0.5 @ k.transpose(-2, -1)).softmax(dim=-1)
        return self.proj((weights @ v).transpose(1, 2).flatten(2))


def plain_network(network):
    """Return the network, its parameters shared, with attention that is not fused."""
    copied = copy.deepcopy(network, {id(each): each for each in network.parameters()})
    for block in copied.blocks:
        block.attn = UnfusedAttention(block.attn)
    return copied


@torch.no_grad()
def plain_states(network, noise, labels, normal, *, num_steps, cfg_scale, interval):
    """Return the states at t = 0 of a batch; `normal(step)` are the normals of a step."""
    times = [*torch.linspace(1, LAST_STEP, num_steps, dtype=torch.float64).tolist(), 0.0]
    both = torch.cat([labels, torch.full_like(labels, network.null_label)])
    low, high = interval
    x = noise.double()
    for step, (t, t_next) in enumerate(pairwise(times)):
        guided = cfg_scale > 1 and low <= t <= high
        rows, asked = (torch.cat([x, x]), both) if guided else (x, labels)
        at = torch.full((len(rows),), t, dtype=torch.float64)
        velocity, _ = network(rows.float(), at.float(), asked, return_features=True)
        velocity = velocity.double()
        score = -((1 - t) * velocity + rows) / t
        drift = velocity - t * score
        if guided:
            followed, left = drift.chunk(2)
            drift = left + cfg_scale * (followed - left)
        x = x + (t_next - t) * drift
        if t_next > 0:
            x = x + (2 * t * (t - t_next)) ** 0.5 * normal(step)
    return x
