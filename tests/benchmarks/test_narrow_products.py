import sys
from importlib import import_module
from pathlib import Path

import pytest
import torch

from repa import SIT_SIZES, SiT

TINY = {"input_size": 8, "in_channels": 3, "num_classes": 5, "encoder_depth": 1, "target_dims": []}


@pytest.fixture
def narrow_products(monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "benchmarks")
    yield import_module("narrow_products").narrow_products
    sys.modules.pop("narrow_products")


def made(network):
    """Return output and gradients of a network, as one vector."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(4, 3, 8, 8, generator=generator)
    out = network(x, torch.tensor([0.1, 0.4, 0.6, 0.9]), torch.arange(4))
    network.zero_grad()
    out.float().square().mean().backward()
    gradients = [p.grad for p in network.parameters() if p.grad is not None]
    assert all(grad.dtype == torch.float32 for grad in gradients)
    return torch.cat([out.detach().float().flatten(), *(grad.flatten() for grad in gradients)])


def network():
    torch.manual_seed(0)
    made = SiT(**TINY, **SIT_SIZES["SiT-Pico/4"]).eval()
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return made


def distance(a, b):
    return float((a - b).norm() / b.norm())


def test_they_are_as_far_from_float32_as_pytorch_s_own_and_nearer_to_those(narrow_products):
    model = network()
    wide = made(model)
    with torch.autocast("cpu", torch.bfloat16):
        own = made(model)
        with narrow_products():
            ours = made(model)
    assert 1e-3 < distance(own, wide) < 0.05
    assert distance(ours, wide) == pytest.approx(distance(own, wide), rel=0.1)
    assert distance(ours, own) < 0.8 * distance(own, wide)


def test_narrowed_networks_are_met_as_well_and_float32_stays_as_it_is(narrow_products):
    model, seen = network(), []
    narrow = model.narrowed(torch.bfloat16)
    x, t, labels = torch.ones(2, 3, 8, 8), torch.tensor([0.3, 0.7]), torch.tensor([0, 1])
    narrow.blocks[0].mlp.register_forward_hook(lambda _, given, out: seen.append(out.dtype))
    with torch.no_grad(), narrow_products():
        assert torch.equal(model(x, t, labels), network()(x, t, labels))
        found = narrow(x, t, labels)
    with torch.no_grad():
        own, wide = narrow(x, t, labels), model(x, t, labels)
    assert seen == [torch.bfloat16] * 2
    assert 0 < distance(found, own) < distance(own, wide) < 0.05
