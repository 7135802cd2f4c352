"""Twenty steps against plain PyTorch, written from the published recipe (REPA train.py, loss.py).

Nothing of the project's training is used on that side: losses, clipping, AdamW and the average are
written out. The network is the same, whose outputs and gradients other tests hold to the reference.
"""

import copy
from dataclasses import replace

import pytest
import torch
from tiny_run import TINY, measured, tiny_state
from torch.nn import functional as F

from repa.training.batch import NoisyBatch

STEPS, SIZE, TOKENS, DIM = 20, 6, 4, 5
CONFIG = replace(TINY, batch_size=SIZE, projector_dim=16, weight_decay=0.05, learning_rate=2e-4)
CONFIG = replace(CONFIG, ema_decay=0.99, alignment_weight=0.4, max_grad_norm=0.3)


def inputs():
    """What twenty steps consume: drawn once, by a generator of their own."""
    drawn = torch.Generator().manual_seed(5)
    for _ in range(STEPS):
        data, noise = torch.randn(2, SIZE, 3, 16, 16, generator=drawn)
        times = torch.rand(SIZE, generator=drawn)
        labels = torch.randint(0, 11, (SIZE,), generator=drawn)  # 10 is a dropped label
        yield NoisyBatch(data, labels, noise, times, [torch.randn(SIZE, TOKENS, DIM)])


def plain_path(path_type, data, noise, t):
    """Where a path is at its times, and how fast it goes on."""
    if path_type == "linear":
        return (1 - t) * data + t * noise, noise - data
    angle = torch.pi / 2 * t
    speed = torch.pi / 2 * (torch.cos(angle) * noise - torch.sin(angle) * data)
    return torch.cos(angle) * data + torch.sin(angle) * noise, speed


def plain_losses(model, batch, path_type):
    """The two losses of a batch, the alignment sample by sample as it is published."""
    t = batch.times.view(-1, 1, 1, 1)
    x, wanted = plain_path(path_type, batch.data, batch.noise, t)
    predicted, (projected,) = model(x, batch.times, batch.labels, return_features=True)
    velocity = ((predicted - wanted) ** 2).mean(dim=(1, 2, 3)).mean()
    alignment = 0.0
    for ours, target in zip(projected, batch.target_features[0], strict=True):
        ours, target = F.normalize(ours, dim=-1), F.normalize(target, dim=-1)
        alignment += (-(target * ours).sum(dim=-1)).mean() / SIZE
    return velocity, alignment


@pytest.fixture(scope="module")
def batches():
    torch.manual_seed(6)
    return list(inputs())


@pytest.mark.parametrize("path_type", ["linear", "cosine"])
def test_losses_and_weights_of_twenty_steps_are_those_of_the_published_recipe(batches, path_type):
    config = replace(CONFIG, path_type=path_type)
    state = tiny_state(config, target_dims=[DIM])
    model = copy.deepcopy(state.model)
    average = copy.deepcopy(model).requires_grad_(False)
    optimizer = torch.optim.AdamW(
        [p for p in model.parameters() if p.requires_grad],
        lr=2e-4,
        betas=(0.9, 0.999),
        eps=1e-8,
        weight_decay=0.05,
        foreach=False,
        fused=False,
    )
    for batch in batches:
        found = measured(config, state, batch)
        velocity, alignment = plain_losses(model, batch, path_type)
        (velocity + 0.4 * alignment).backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 0.3)
        assert norm > 0.3  # so that it is clipped
        optimizer.step()
        optimizer.zero_grad()
        with torch.no_grad():
            for name, parameter in average.named_parameters():
                parameter.mul_(0.99).add_(dict(model.named_parameters())[name], alpha=0.01)
        assert found["velocity"] == pytest.approx(velocity.item(), abs=1e-5)
        assert found["alignment"] == pytest.approx(alignment.item(), abs=1e-5)
        assert found["loss"] == pytest.approx((velocity + 0.4 * alignment).item(), abs=1e-5)
        assert found["gradient_norm"] == pytest.approx(norm.item(), abs=1e-5)
    pairs = ((state.model, model), (state.ema, average))
    for ours, theirs in pairs:
        for name, tensor in ours.state_dict().items():
            torch.testing.assert_close(tensor, theirs.state_dict()[name], atol=1e-5, rtol=0)


def test_bytes_of_activations_that_are_computed_again_change_nothing(batches):
    kept, again = (tiny_state(CONFIG, target_dims=[DIM]) for _ in range(2))
    again.model.recomputed = True
    for batch in batches[:3]:
        assert measured(CONFIG, kept, batch) == measured(CONFIG, again, batch)
    for ours, theirs in zip(kept.model.parameters(), again.model.parameters(), strict=True):
        assert torch.equal(ours, theirs)
