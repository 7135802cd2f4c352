import functools
import urllib.error
import urllib.request

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file
from torch.nn import functional as F

from metrics import ArrayImages, InputError, Reference, evaluate, load_network
from metrics.networks import dinov2
from metrics.networks.dinov2 import DinoV2, resize_without_clamp

rng = np.random.default_rng(0)


@pytest.fixture(scope="module", autouse=True)
def shallow():
    """One block instead of 24: everything but the depth is ViT-L/14's."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dinov2.timm, "create_model", functools.partial(timm.create_model, depth=1))
        yield


@pytest.fixture(scope="module")
def weights():
    """Random tensors under the names, and of the shapes, of dinov2_vitl14_pretrain.pth."""
    torch.manual_seed(0)
    network = dinov2.timm.create_model("vit_large_patch14_dinov2", num_classes=0)
    tensors = {n: 0.05 * torch.randn_like(t) for n, t in network.state_dict().items()}
    assert tensors["pos_embed"].shape == (1, 1 + 37 * 37, 1024)
    return tensors | {"mask_token": torch.zeros(1, 1024)}


@pytest.fixture(scope="module")
def path(weights, tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "dinov2_vitl14_pretrain.pth"
    torch.save(weights, path)
    return path


def images(count=2, size=32):
    return rng.integers(0, 256, (count, size, size, 3), dtype=np.uint8)


def layer_norm(x, weights, name):
    return F.layer_norm(x, (1024,), weights[f"{name}.weight"], weights[f"{name}.bias"], eps=1e-6)


def linear(x, weights, name):
    return F.linear(x, weights[f"{name}.weight"], weights[f"{name}.bias"])


def class_token(pixels, weights):
    """The network of the DINOv2 paper, written out for one block."""
    patches = F.conv2d(
        pixels, weights["patch_embed.proj.weight"], weights["patch_embed.proj.bias"], stride=14
    )
    tokens = patches.flatten(2).transpose(1, 2)
    x = torch.cat([weights["cls_token"].expand(len(pixels), -1, -1), tokens], dim=1)
    x = x + dinov2._resample_positions(weights["pos_embed"])
    y = linear(layer_norm(x, weights, "blocks.0.norm1"), weights, "blocks.0.attn.qkv")
    q, k, v = y.view(len(x), -1, 3, 16, 64).permute(2, 0, 3, 1, 4)
    attended = ((q @ k.transpose(2, 3) / 8).softmax(3) @ v).transpose(1, 2).flatten(2)
    x = x + weights["blocks.0.ls1.gamma"] * linear(attended, weights, "blocks.0.attn.proj")
    y = linear(layer_norm(x, weights, "blocks.0.norm2"), weights, "blocks.0.mlp.fc1")
    x = x + weights["blocks.0.ls2.gamma"] * linear(F.gelu(y), weights, "blocks.0.mlp.fc2")
    return layer_norm(x, weights, "norm")[:, 0]


def test_features_are_the_normalised_class_token(weights):
    pixels = 255 * torch.rand(2, 3, 224, 224)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    normalised = (pixels / 255 - mean.view(3, 1, 1)) / std.view(3, 1, 1)
    with torch.no_grad():
        pool, spatial, logits = DinoV2(weights)(pixels)
    torch.testing.assert_close(pool, class_token(normalised, weights), rtol=1e-4, atol=1e-4)
    assert spatial is None and logits is None


def test_positions_are_resampled_with_dinov2s_offset():
    # Bicubic interpolation (torch's, a = -0.75) keeps a ramp within 0.05, so each value is its own
    # place of origin. DINOv2 asks for 16.1 of 37 places: place i comes from
    # (i + 1/2) * 37 / 16.1 - 1/2, up to 0.2 from where 16 would take it.
    ramp = torch.arange(37.0).expand(37, 37)
    grid = torch.stack([ramp, ramp.T]).flatten(1).T
    positions = torch.cat([torch.full((1, 2), -7.0), grid])[None]
    resampled = dinov2._resample_positions(positions)
    assert resampled.shape == (1, 1 + 16 * 16, 2)
    assert (resampled[0, 0] == -7).all()
    places = (torch.arange(16) + 0.5) * 37 / 16.1 - 0.5
    across, down = resampled[0, 1:].T.view(2, 16, 16)
    inner = slice(1, 15)  # beside the border the ramp's continuation is missing
    expected = places[inner].expand(14, 14)
    torch.testing.assert_close(across[inner, inner], expected, rtol=0, atol=0.05)
    torch.testing.assert_close(down[inner, inner], expected.T, rtol=0, atol=0.05)


def test_positions_are_resampled_without_antialiasing():
    # A bicubic kernel of width 4 reaches at most 2 of the places that lie 37 / 16.1 = 2.3 apart;
    # antialiasing would widen it to 9.2.
    positions = torch.zeros(1, 1 + 37 * 37, 1)
    positions[0, 1 + 18 * 37 + 18] = 1
    assert 1 <= dinov2._resample_positions(positions)[0, 1:].count_nonzero() <= 4


def test_positions_of_the_right_grid_stay():
    positions = torch.randn(1, 257, 4)
    assert dinov2._resample_positions(positions) is positions


def test_resize_keeps_the_overshoot_that_pillow_cuts_off():
    steps = np.zeros((1, 64, 64, 3), np.uint8)
    steps[:, :, 32:] = 255
    resized = resize_without_clamp(torch.from_numpy(steps))
    assert resized.min() < -1 and resized.max() > 256


@pytest.mark.parametrize("size", [64, 256, 300])
def test_resize_is_dgm_evals_up_to_rounding(size):
    # EDM2 calls the two almost the same: dgm-eval has Pillow's, in uint8.
    coarse = rng.integers(60, 196, (8, 8, 3), dtype=np.uint8)  # no overshoot beyond [0, 255]
    picture = Image.fromarray(coarse).resize((size, size), Image.Resampling.BICUBIC)
    expected = np.array(picture.resize((224, 224), Image.Resampling.BICUBIC), np.float32)
    resized = resize_without_clamp(torch.from_numpy(np.array(picture))[None])[0]
    # Pillow rounds after each of two passes, and the second one's weights sum to 1.25 in magnitude.
    difference = np.abs(resized.permute(1, 2, 0).numpy() - expected)
    assert difference.max() <= 0.5 * 1.3 + 0.5 and difference.mean() < 0.4


def test_network_has_pooled_features_only_and_its_own_labels(path):
    network = load_network("dinov2", path)
    features = network(images(3))
    assert features.pool.shape == (3, network.pool_dim) == (3, 1024)
    assert features.spatial is None and features.probabilities is None
    assert (network.spatial_dim, network.num_classes) == (0, 0)
    assert "EDM2" in network.preprocessing
    report = evaluate(
        ArrayImages(images(6)), Reference("real", ArrayImages(images(7))), network, batch_size=4
    )
    assert set(report.values) == {"FD-DINOv2", "Precision-DINOv2", "Recall-DINOv2"}
    assert report.values["FD-DINOv2"] > 0


def test_both_forms_of_the_weights_give_the_same_features(path, weights, tmp_path):
    timm_form = {name: tensor for name, tensor in weights.items() if name != "mask_token"}
    save_file(timm_form, tmp_path / "model.safetensors")
    pair = images(2)
    theirs = load_network("dinov2", tmp_path / "model.safetensors")(pair)
    np.testing.assert_array_equal(load_network("dinov2", path)(pair).pool, theirs.pool)


def test_features_do_not_depend_on_the_batch(path):
    network, four = load_network("dinov2", path), images(4)
    alone = np.concatenate([network(four[i : i + 1]).pool for i in range(4)])
    np.testing.assert_allclose(network(four).pool, alone, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"norm.bias": None}, "norm.bias"),
        ({"norm.bias": torch.zeros(3)}, "norm.bias"),
        ({"register_tokens": torch.zeros(1, 4, 1024)}, "register_tokens"),
        ({"pos_embed": torch.zeros(1, 1 + 35, 1024)}, "35 patches"),
        ({"pos_embed": torch.zeros(5)}, "pos_embed"),
        ({"pos_embed": None}, "pos_embed"),
    ],
)
def test_other_weights_are_refused_by_name(weights, change, message):
    changed = {n: t for n, t in (weights | change).items() if t is not None}
    with pytest.raises(InputError, match=message):
        DinoV2(changed)


def test_a_damaged_safetensors_file_is_refused(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"\xff" * 64)
    with pytest.raises(InputError, match="not a readable weights file"):
        load_network("dinov2", tmp_path / "model.safetensors")


def test_without_weights_the_file_is_named():
    with pytest.raises(InputError, match=r"dinov2_vitl14_pretrain\.pth"):
        load_network("dinov2")


def test_command_without_network_says_what_to_put_where(tmp_path, monkeypatch, capsys):
    from repa_cli.app import main

    def unreachable(*arguments, **options):
        raise urllib.error.URLError("no network")

    monkeypatch.setattr(urllib.request, "urlopen", unreachable)
    monkeypatch.setenv("REPA_CACHE", str(tmp_path))
    np.savez(tmp_path / "images.npz", images(5))
    arguments = ["fid", str(tmp_path / "images.npz"), "--ref", str(tmp_path / "images.npz")]
    with pytest.raises(SystemExit) as caught:
        main([*arguments, "--features", "dinov2", "--device", "cpu"])
    error = capsys.readouterr().err.splitlines()[-1]
    assert caught.value.code == 1
    assert "https://dl.fbaipublicfiles.com/dinov2/dinov2_vitl14/" in error
    assert str(tmp_path / "networks" / "dinov2_vitl14_pretrain.pth") in error
