"""Sampling in 16 bits: what is narrow, what stays wide, and what a run says of it."""

import copy
import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from repa import SIT_SIZES, SiT
from repa.checkpoints import load_model
from repa.errors import SettingError
from repa.generation import Protocol, images_of
from repa.generation.images import check_precision
from repa.registry.published import closest_published_row
from repa_base.device import computes_bf16

HEUN = Protocol(solver="heun", num_steps=4, cfg_scale=2.0, batch_size=4, labels="balanced")


def small():
    torch.manual_seed(0)
    model = SiT(
        input_size=8,
        in_channels=3,
        num_classes=5,
        encoder_depth=1,
        target_dims=[],
        qk_norm=True,
        **SIT_SIZES["SiT-Pico/2"],
    )
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return model.eval().requires_grad_(False)


def test_attention_and_mlps_compute_in_sixteen_bits_and_what_is_between_them_does_not():
    wide, seen = small(), {}
    narrow = wide.narrowed(torch.bfloat16)
    for name, part in narrow.named_modules():
        part.register_forward_hook(lambda _, __, out, n=name: seen.update({n: out.dtype}))
    velocity = narrow(torch.randn(2, 3, 8, 8), torch.tensor([0.2, 0.9]), torch.tensor([1, 4]))
    for number in range(3):
        block = f"blocks.{number}"
        for part in ("attn.qkv", "attn.proj", "attn", "mlp.fc1", "mlp.fc2"):
            assert seen[f"{block}.{part}"] == torch.bfloat16, part
        for part in ("norm1", "norm2", "attn.q_norm", "attn.k_norm", "adaLN_modulation"):
            assert seen[f"{block}.{part}"] == torch.float32, part
        assert seen[block] == torch.float32
    for name in ("x_embedder", "t_embedder", "y_embedder", "final_layer"):
        assert seen[name] == torch.float32
    assert velocity.dtype == torch.float32
    assert {p.dtype for p in wide.parameters()} == {torch.float32}


def test_rounding_is_that_of_the_products_alone():
    wide = small()
    narrow = wide.narrowed(torch.bfloat16)
    x, t, labels = torch.randn(2, 3, 8, 8), torch.tensor([0.2, 0.9]), torch.tensor([1, 4])
    expected, found = wide(x, t, labels), narrow(x, t, labels)
    assert 0 < (found - expected).norm() / expected.norm() < 0.02
    for block in narrow.blocks:  # without what they add, nothing is narrow
        block.adaLN_modulation[1].weight.zero_()
        block.adaLN_modulation[1].bias.zero_()
    for block in wide.blocks:
        block.adaLN_modulation[1].weight.zero_()
        block.adaLN_modulation[1].bias.zero_()
    assert torch.equal(narrow(x, t, labels), wide(x, t, labels))


def test_norms_of_queries_and_keys_are_those_of_float32():
    attention = small().narrowed(torch.bfloat16).blocks[0].attn
    heads = torch.randn(2, 3, 16, 16).bfloat16()
    for norm in (attention.q_norm, attention.k_norm):
        torch.nn.init.normal_(norm.weight, std=3.0)
        found = attention._normed(norm, heads)
        assert torch.equal(found, norm(heads.float()).bfloat16())
        narrow = copy.deepcopy(norm).bfloat16()(heads)
        assert not torch.equal(found, narrow)
    assert attention._normed(torch.nn.Identity(), heads) is heads


def test_images_in_bfloat16_are_near_those_in_float32_and_the_model_stays_as_it_was():
    model = load_model("digits")
    (wide,) = images_of(model, range(4), HEUN)
    (narrow,) = images_of(model, range(4), replace(HEUN, precision="bf16"))
    apart = np.abs(wide.images.astype(int) - narrow.images)
    assert 0 < apart.mean() < 2
    (again,) = images_of(model, range(4), HEUN)
    assert np.array_equal(again.images, wide.images)


def test_fp16_needs_a_gpu():
    with pytest.raises(SettingError, match="fp16 needs a GPU: use bf16 or fp32"):
        next(images_of(load_model("digits"), range(1), replace(HEUN, precision="fp16")))
    check_precision(replace(HEUN, precision="fp16"), torch.device("cuda"))


def test_the_command_writes_the_precision_down_and_says_where_it_is_slow(
    repa, tmp_path, monkeypatch
):
    monkeypatch.setattr("repa_base.device.computes_bf16", lambda device: False)
    out = tmp_path / "a.npz"
    options = ("--model", "digits", "--num", 1, "--steps", 2, "--out", out)
    code, _, error = repa("sample", *options, "--precision", "bf16")
    assert code == 0 and "this CPU has no instructions for it, and fp32 is faster" in error
    with np.load(out) as file:
        assert json.loads(str(file["manifest"]))["dtype"] == "bfloat16"
    code, _, error = repa("sample", *options)
    assert code == 1 and error.count("\n") == 1 and "dtype" in error
    code, _, error = repa("sample", *options[:-1], tmp_path / "b.npz", "--precision", "fp16")
    assert code == 2 and error.count("\n") == 1 and "--precision: fp16 needs a GPU" in error
    assert not (tmp_path / "b.npz").exists()


@pytest.mark.parametrize(
    ("name", "value"), [("dtype", "bfloat16"), ("guidance", "apg"), ("guide", "other.pt")]
)
def test_other_precision_or_guidance_is_a_difference_from_a_published_row(name, value):
    made = {"model": "sit-xl-2-repa-256", name: value}
    options = {"num_images": 50_000, "reference": "adm-imagenet-256", "network": "inception"}
    row = closest_published_row(made, **options)
    plain = closest_published_row({"model": "sit-xl-2-repa-256"}, **options)
    named = {difference.setting for difference in row.differences}
    assert name in named and name not in {d.setting for d in plain.differences}


@pytest.mark.parametrize(("flags", "expected"), [("amx_bf16", True), ("fma avx512f", False)])
def test_a_cpu_is_known_by_its_instructions(monkeypatch, flags, expected):
    monkeypatch.setattr("repa_base.device.Path.exists", lambda path: True)
    monkeypatch.setattr("repa_base.device.Path.read_text", lambda path: f"flags : {flags} x\n")
    assert computes_bf16(torch.device("cpu")) is expected
