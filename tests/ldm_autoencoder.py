"""A small autoencoder in the names of latent-diffusion, and its forward pass written after them."""

import torch
from torch.nn import functional as F

WIDTHS = (32, 64, 64)  # groups of 32 allow no smaller ones
GRID = 8


def random_state(channels=4, attention=(2,), seed=0):
    """A state dict as REPA-E's checkpoints hold one; `attention` lists the levels that have it."""
    generator = torch.Generator().manual_seed(seed)
    state = {}

    def conv(name, inputs, outputs, side=3):
        weight = torch.randn(outputs, inputs, side, side, generator=generator)
        state[f"{name}.weight"] = weight / (inputs * side**2) ** 0.5
        state[f"{name}.bias"] = 0.1 * torch.randn(outputs, generator=generator)

    def norm(name, width):
        state[f"{name}.weight"] = 1 + 0.1 * torch.randn(width, generator=generator)
        state[f"{name}.bias"] = 0.1 * torch.randn(width, generator=generator)

    def block(name, inputs, outputs):
        norm(f"{name}.norm1", inputs)
        conv(f"{name}.conv1", inputs, outputs)
        norm(f"{name}.norm2", outputs)
        conv(f"{name}.conv2", outputs, outputs)
        if inputs != outputs:
            conv(f"{name}.nin_shortcut", inputs, outputs, 1)

    def attend(name, width):
        norm(f"{name}.norm", width)
        for part in ("q", "k", "v", "proj_out"):
            conv(f"{name}.{part}", width, width, 1)

    def middle(name, width):
        block(f"{name}.mid.block_1", width, width)
        attend(f"{name}.mid.attn_1", width)
        block(f"{name}.mid.block_2", width, width)

    last = len(WIDTHS) - 1
    conv("encoder.conv_in", 3, WIDTHS[0])
    before = WIDTHS[0]
    for level, width in enumerate(WIDTHS):
        block(f"encoder.down.{level}.block.0", before, width)
        if level in attention:
            attend(f"encoder.down.{level}.attn.0", width)
        if level < last:
            conv(f"encoder.down.{level}.downsample.conv", width, width)
        before = width
    middle("encoder", before)
    norm("encoder.norm_out", before)
    conv("encoder.conv_out", before, 2 * channels)
    conv("decoder.conv_in", channels, WIDTHS[-1])
    middle("decoder", WIDTHS[-1])
    before = WIDTHS[-1]
    for level in reversed(range(len(WIDTHS))):
        for number in range(2):  # one more than the encoder has
            block(f"decoder.up.{level}.block.{number}", before, WIDTHS[level])
            before = WIDTHS[level]
            if level in attention:
                attend(f"decoder.up.{level}.attn.{number}", before)
        if level:
            conv(f"decoder.up.{level}.upsample.conv", before, before)
    norm("decoder.norm_out", before)
    conv("decoder.conv_out", before, 3)
    conv("quant_conv", 2 * channels, 2 * channels, 1)
    conv("post_quant_conv", channels, channels, 1)
    return state


class Forward:
    """The layers of a state dict in latent-diffusion's order, in float64."""

    def __init__(self, state):
        self.state = {name: tensor.double() for name, tensor in state.items()}

    def conv(self, name, x, **options):
        return F.conv2d(x, self.state[f"{name}.weight"], self.state[f"{name}.bias"], **options)

    def norm(self, name, x):
        weight, bias = self.state[f"{name}.weight"], self.state[f"{name}.bias"]
        return F.group_norm(x, 32, weight, bias, eps=1e-6)

    def block(self, name, x):
        y = self.conv(f"{name}.conv1", F.silu(self.norm(f"{name}.norm1", x)), padding=1)
        y = self.conv(f"{name}.conv2", F.silu(self.norm(f"{name}.norm2", y)), padding=1)
        if f"{name}.nin_shortcut.weight" in self.state:
            x = self.conv(f"{name}.nin_shortcut", x)
        return x + y

    def attend(self, name, x):
        q, k, v = (
            self.conv(f"{name}.{part}", self.norm(f"{name}.norm", x)).flatten(2) for part in "qkv"
        )
        weights = (q.transpose(1, 2) @ k / q.shape[1] ** 0.5).softmax(-1)
        mixed = (v @ weights.transpose(1, 2)).view_as(x)
        return x + self.conv(f"{name}.proj_out", mixed)

    def middle(self, name, x):
        x = self.block(f"{name}.mid.block_1", x)
        return self.block(f"{name}.mid.block_2", self.attend(f"{name}.mid.attn_1", x))

    def maybe(self, name, x):
        return self.attend(name, x) if f"{name}.norm.weight" in self.state else x

    def decode(self, latents):
        x = self.conv("post_quant_conv", latents.double())
        x = self.middle("decoder", self.conv("decoder.conv_in", x, padding=1))
        for level in reversed(range(len(WIDTHS))):
            for number in range(2):
                x = self.block(f"decoder.up.{level}.block.{number}", x)
                x = self.maybe(f"decoder.up.{level}.attn.{number}", x)
            if level:
                x = F.interpolate(x, scale_factor=2, mode="nearest")
                x = self.conv(f"decoder.up.{level}.upsample.conv", x, padding=1)
        x = F.silu(self.norm("decoder.norm_out", x))
        return self.conv("decoder.conv_out", x, padding=1)

    def encode(self, pixels):
        x = self.conv("encoder.conv_in", pixels.double(), padding=1)
        for level in range(len(WIDTHS)):
            x = self.maybe(
                f"encoder.down.{level}.attn.0", self.block(f"encoder.down.{level}.block.0", x)
            )
            if level < len(WIDTHS) - 1:
                x = self.conv(
                    f"encoder.down.{level}.downsample.conv", F.pad(x, (0, 1, 0, 1)), stride=2
                )
        x = F.silu(self.norm("encoder.norm_out", self.middle("encoder", x)))
        return self.conv("quant_conv", self.conv("encoder.conv_out", x, padding=1))
