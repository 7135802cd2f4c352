import re
from pathlib import Path

import pytest
import timm
import torch
from timm.models import get_pretrained_cfg

from repa.encoders.families import FAMILIES
from repa.encoders.timm_networks import published_weights
from repa.registry import load_registry

ENCODERS = {
    name: entry
    for name, entry in load_registry()["encoders"].items()
    if entry["family"] != "efficientnet-lite"
}
PATCH = (..., slice(100, 116), slice(60, 92))  # of which the golden has CLIP, MAE and I-JEPA


@pytest.mark.parametrize(
    ("family", "recorded", "side"),
    [
        ("dinov2", "dinov2", 224),
        ("clip", "clip_patch", 224),
        ("mae", "mocov3_patch", 256),
        ("jepa", "jepa_patch", 224),
    ],
)
def test_preprocessing_equals_the_references_bit_for_bit(golden, family, recorded, side):
    # Normalising before or after resizing is the same up to rounding: only equality tells.
    arrays, _ = golden("preprocess_train")
    images = torch.from_numpy(arrays["raw_image"]).permute(0, 2, 3, 1)
    found = FAMILIES[family].preprocess(images, side)
    expected = torch.from_numpy(arrays[f"preprocess/{recorded}"])
    assert torch.equal(found if family == "dinov2" else found[0][PATCH], expected)


def test_an_encoder_asks_for_the_references_input_size_at_256_and_512_pixels():
    preprocess = FAMILIES["dinov2"].preprocessing(14)
    for size, grid, side in ((256, 16, 224), (512, 32, 448)):
        images = torch.zeros(1, size, size, 3, dtype=torch.uint8)
        assert preprocess(images, grid).shape == (1, 3, side, side)


@pytest.mark.parametrize("name", ENCODERS)
def test_registered_encoders_are_networks_of_timm_with_the_address_of_its_configuration(name):
    entry = ENCODERS[name]
    assert entry["family"] in FAMILIES
    assert timm.is_model(entry["timm"]) and "." in entry["timm"]
    assert get_pretrained_cfg(entry["timm"]).tag == entry["timm"].partition(".")[2]
    published = published_weights(entry["timm"])
    assert {key: entry[key] for key in published} == published


def test_clip_is_the_network_with_the_quick_gelu_of_openais_weights():
    for name in ("clip-vit-b", "clip-vit-l"):
        timm_name = ENCODERS[name]["timm"]
        assert "quickgelu" in timm_name and timm_name.endswith(".openai")


def test_the_documentation_lists_every_registered_encoder_with_its_network():
    page = (Path(__file__).parents[3] / "docs/encoders.md").read_text()
    listed = re.findall(r"^\| (\S+) \| `(\S+)` \| \d+ \|", page, flags=re.MULTILINE)
    assert listed == [(n, e["timm"]) for n, e in load_registry()["encoders"].items()]
