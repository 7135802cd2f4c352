"""Sampling with compiled blocks: the same images, compiled rarely, one line where it cannot be."""

import functools
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch._dynamo.testing import CompileCounter

from repa import SIT_SIZES, SiT
from repa.checkpoints import load_model
from repa.errors import RepaError
from repa.generation import Protocol, images_of
from repa.generation.images import InMemory

SETTINGS = Protocol(
    solver="heun", num_steps=3, cfg_scale=2.0, batch_size=4, labels="balanced", compile=True
)


@pytest.fixture
def counter(monkeypatch):
    """Instead of a compiler, what counts how often it is asked and runs the graph as it is."""
    torch._dynamo.reset()
    counter = CompileCounter()
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend=counter))
    yield counter
    torch._dynamo.reset()


def test_images_are_the_same_and_every_size_of_the_batch_is_compiled_twice_at_most(counter):
    model = load_model("digits")
    compiled = list(images_of(model, range(11), SETTINGS))
    # Batches of 4, 8 where guided, and of 3 and 6 at the end, through seven blocks.
    assert 1 <= counter.frame_count <= 2
    plain = list(images_of(model, range(11), replace(SETTINGS, compile=False)))
    assert counter.frame_count <= 2
    for one, other in zip(compiled, plain, strict=True):
        assert np.array_equal(one.images, other.images)


def test_the_model_itself_is_not_compiled_and_its_weights_are_shared(counter):
    model = load_model("digits").model
    blocks = list(model.blocks)
    compiled = model.compiled()
    arguments = torch.randn(2, 3, 32, 32), torch.tensor([0.2, 0.9]), torch.tensor([1, 4])
    with torch.no_grad():
        expected = model(*arguments)
        assert counter.frame_count == 0
        assert torch.equal(compiled(*arguments), expected) and counter.frame_count == 1
    assert list(model.blocks) == blocks
    pairs = zip(model.parameters(), compiled.parameters(), strict=True)
    assert all(one is other for one, other in pairs)


def test_a_guide_and_a_narrow_network_are_compiled_too(counter):
    model = load_model("digits")
    torch.manual_seed(0)
    small = {**SIT_SIZES["SiT-Pico/4"], "input_size": 32, "in_channels": 3, "num_classes": 10}
    guide = InMemory(SiT(encoder_depth=1, target_dims=[], **small).eval(), model.settings)
    seen = []
    guided = replace(SETTINGS, precision="bf16")
    original = CompileCounter.__call__

    def watched(self, graph, inputs):
        weights = [each for each in inputs if isinstance(each, torch.nn.Parameter)]
        seen.append({(weight.shape[-1], weight.dtype) for weight in weights})
        return original(self, graph, inputs)

    CompileCounter.__call__ = watched
    try:
        next(images_of(model, range(2), guided, guide=guide))
    finally:
        CompileCounter.__call__ = original
    widths = set().union(*seen)
    assert (128, torch.bfloat16) in widths and (48, torch.bfloat16) in widths


def test_a_machine_that_cannot_compile_says_so_in_one_line(monkeypatch):
    from torch._inductor.exc import InductorError

    def compile_nothing(function, **options):
        def fail(*arguments):
            raise InductorError(RuntimeError("No working C++ compiler found"), None)

        return fail

    monkeypatch.setattr(torch, "compile", compile_nothing)
    with pytest.raises(RepaError, match=r"cannot be compiled .*No working C\+\+ compiler") as found:
        next(images_of(load_model("digits"), range(1), SETTINGS))
    assert "\n" not in str(found.value) and "; leave compilation out." in str(found.value)


def test_other_errors_are_not_taken_for_the_compiler_s(monkeypatch):
    def compile_nothing(function, **options):
        def fail(*arguments):
            raise RuntimeError("an error of the network")

        return fail

    monkeypatch.setattr(torch, "compile", compile_nothing)
    with pytest.raises(RuntimeError, match="an error of the network"):
        next(images_of(load_model("digits"), range(1), SETTINGS))


def test_the_command_writes_down_that_it_compiled(repa, tmp_path, counter):
    out = tmp_path / "a.npz"
    options = ("--model", "digits", "--num", 1, "--steps", 2, "--out", out)
    code, _, _ = repa("sample", *options, "--compile")
    assert code == 0 and counter.frame_count
    with np.load(out) as file:
        assert json.loads(str(file["manifest"]))["compile"] is True
    code, _, error = repa("sample", *options)
    assert code == 1 and error.count("\n") == 1 and "compile" in error


@pytest.mark.slow
def test_the_compiler_s_own_images_are_those_of_the_network_to_within_a_grey_level():
    torch._dynamo.reset()
    model = load_model("digits")
    (compiled,) = images_of(model, range(4), SETTINGS)
    (plain,) = images_of(model, range(4), replace(SETTINGS, compile=False))
    assert np.abs(compiled.images.astype(int) - plain.images).max() <= 1
