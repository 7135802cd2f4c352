"""How fast a training step is: SiT-S/2 on 4 x 32 x 32 latents, batch 8, ratios in one run.

The plain step is written after the published recipe (REPA train.py and loss.py at 67f7145): in
float32, the alignment loss sample by sample, AdamW and the moving average parameter by parameter,
and, in one of its two forms, an encoder of DINOv2-B's size (random weights) on 224-pixel images at
every step. Ours has the features prepared, in memory, as random values of the right sizes. Steps of
each kind take turns. Run: `python benchmarks/training.py [--steps 5] [--digits 200]`

With --digits it also trains so many steps on the digits in float32 and in bf16, and compares the
means of both losses. Where there are no instructions for bf16 its steps are not timed, and those on
the digits round around float32's products (narrow_products.py).
"""

import argparse
import copy
import statistics
import tempfile
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import timm
import torch
from narrow_products import affordable_bf16
from timing import in_turns, print_machine, print_ratio, seconds
from torch.nn import functional as F

from repa.autoencoders.latent_space import SD_LATENTS
from repa.data import Batch
from repa.models import SIT_SIZES
from repa.training.batch import Batches
from repa.training.loop import train
from repa.training.run.state import TrainState, model_settings
from repa.training.settings import Reporting, settings_of
from repa.training.step import step_network, train_step
from repa.training.targets import StoredTargets
from repa_base.device import computes_bf16
from repa_base.processes import Processes

BATCH, IMAGES, TOKENS, WIDTH, PROJECTOR = 8, 64, 256, 768, 2048
RATIOS = (
    ("plain", "ours, float32", 1.0),
    ("plain with encoder", "ours, float32", 1.8),
    ("ours, float32", "ours, bf16", 2.4),
)
"""What is compared with what, and how many times as fast it should be."""

QUICK = {"warmup_steps": 20, "decay_steps": 0}
"""The whole learning rate within few steps: the preset's does not come to it in 200."""


class RandomLatents:
    """Latents in memory, as many as a few batches need."""

    name, count, num_classes, input_size, in_channels = "random", IMAGES, 1000, 32, 4
    latent_space, reference = SD_LATENTS, None

    def __init__(self) -> None:
        self.latents = torch.randn(IMAGES, 4, 32, 32)
        self.labels = torch.arange(IMAGES)

    def batch(self, indices, generator):
        """Return latents and labels."""
        return Batch(indices, self.latents[indices], self.labels[indices])


class Plain:
    """The step of the published recipe, in plain PyTorch."""

    def __init__(self, config, settings, encoder) -> None:
        state = TrainState.create(config, settings, "cpu")
        self.model, self.encoder = state.model, encoder
        self.average = copy.deepcopy(self.model).requires_grad_(False)
        trained = [p for p in self.model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(trained, lr=1e-4, weight_decay=0.0)
        self.images = torch.randn(BATCH, 3, 224, 224)

    def __call__(self, data, labels, features, *, encoded):
        """Take a step on given latents, with given features unless images are `encoded`."""
        if encoded:
            with torch.no_grad():
                features = self.encoder.forward_features(self.images)[:, 1:]
        t = torch.rand(BATCH, 1, 1, 1)
        noise = torch.randn_like(data)
        x, target = (1 - t) * data + t * noise, noise - data
        predicted, projected = self.model(x, t.flatten(), labels, return_features=True)
        velocity = ((predicted - target) ** 2).mean(dim=(1, 2, 3))
        alignment = 0.0
        for ours, theirs in zip(projected[0], features, strict=True):
            ours, theirs = F.normalize(ours, dim=-1), F.normalize(theirs, dim=-1)
            alignment += (-(theirs * ours).sum(dim=-1)).mean()
        loss = velocity.mean() + 0.5 * alignment / BATCH
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        with torch.no_grad():
            pairs = zip(self.average.parameters(), self.model.parameters(), strict=True)
            for average, parameter in pairs:
                average.mul_(0.9999).add_(parameter, alpha=1e-4)
        return loss.item()


class Ours:
    """Our step, of a precision, with what it reads and draws."""

    def __init__(self, config, settings, data, targets) -> None:
        self.config, self.state = config, TrainState.create(config, settings, "cpu")
        self.network = step_network(self.state.model, config, Processes())
        self.batches = Batches(config, data, targets, "cpu")

    def __call__(self):
        """Take the next step, what it reads and draws included."""
        batch = self.batches(self.state.step)
        return train_step(self.config, self.state, [batch], network=self.network).tolist()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--digits", type=int, default=0, metavar="STEPS")
    parser.add_argument("--compile", action="store_true", help="Compile our steps.")
    parser.add_argument("--size", default="SiT-S/2", choices=SIT_SIZES, metavar="NAME")
    options = parser.parse_args()
    print_machine()
    torch.manual_seed(0)
    speed(options.size, options.steps, compiled=options.compile)
    if options.digits:
        quality(options.digits)


def speed(size: str, steps: int, *, compiled: bool) -> None:
    """Time steps of all kinds in turn, after one of each that is not counted."""
    depth = SIT_SIZES[size]["depth"] // 3
    config = settings_of("digits", model=size, encoder_depth=depth, projector_dim=PROJECTOR)
    config = replace(config, batch_size=BATCH, learning_rate=1e-4, warmup_steps=0, decay_steps=0)
    config = replace(config, ema_decay=0.9999, compile=compiled)
    data, features = RandomLatents(), np.random.default_rng(0).normal(size=(IMAGES, TOKENS, WIDTH))
    targets = StoredTargets([features.astype(np.float32)])
    settings = model_settings(config, data, targets.dims)
    encoder = timm.create_model("vit_base_patch14_dinov2", img_size=224, num_classes=0).eval()
    plain = Plain(config, settings, encoder)
    ours = Ours(config, settings, data, targets)
    given = data.latents[:BATCH], data.labels[:BATCH], torch.from_numpy(targets.features[0][:BATCH])
    kinds = {
        "plain": lambda: plain(*given, encoded=False),
        "plain with encoder": lambda: plain(*given, encoded=True),
        "ours, float32": ours,
    }
    if computes_bf16(torch.device("cpu")):
        kinds["ours, bf16"] = Ours(replace(config, precision="bf16"), settings, data, targets)
    times = in_turns(kinds, steps)
    for first, second, goal in RATIOS:
        if second in times:
            print_ratio(first, times[first], second, times[second], goal)
        else:
            print(f"{second}: left out, this CPU has no instructions for it")


def quality(steps: int) -> None:
    """Train on the digits in both precisions, and compare the means of the losses."""
    means = {}
    for precision in ("fp32", "bf16"):
        config = settings_of("digits", num_steps=steps, precision=precision, **QUICK)
        found = []
        reporting = Reporting(
            preview_every=0,
            log_every=steps,
            checkpoint_every=steps,
            on_step=lambda step, losses, found=found: found.append(losses),
        )
        with tempfile.TemporaryDirectory() as folder:
            run = partial(train, config, Path(folder), reporting=reporting)
            with affordable_bf16() if precision == "bf16" else nullcontext():
                time, _ = seconds(run)
        means[precision] = {
            name: statistics.fmean(each[name] for each in found)
            for name in ("velocity", "alignment")
        }
        print(f"digits, {steps} steps in {precision}: {time:.0f} s, means {means[precision]}")
    full, half = means["fp32"], means["bf16"]
    print(f"velocity: {half['velocity'] / full['velocity'] - 1:+.3%} in bf16; goal within 1 %")
    print(f"alignment: {half['alignment'] - full['alignment']:+.4f} in bf16; goal within 0.01")


if __name__ == "__main__":
    main()
