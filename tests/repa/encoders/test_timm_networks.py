import pickle

import pytest
import timm
import torch
from safetensors.torch import save_file
from small_timm import WIDTH, create_small, saved, tensors_of
from timm.layers import QuickGELU
from torch.nn import functional as F
from torchvision.transforms.functional import normalize

from repa.encoders import load_encoder
from repa.encoders import timm_networks as module
from repa.errors import CheckpointFormatError, CheckpointMismatchError, RepaError, SettingError
from repa.registry import find_entry

IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CLIP = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
HALF = (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)
TINY = "vit_tiny_patch16_224"

# Name, patch size, class and register tokens before the patches, colours, whether images are
# resized before they are normalised, and whether the last norm belongs to the features.
CASES = [
    ("dinov2-vit-s", 14, 1, IMAGENET, "after", True),
    ("dinov2reg-vit-s", 14, 5, IMAGENET, "after", True),
    ("dinov1-vit-s", 16, 1, IMAGENET, "after", True),
    ("dinov3-vit-s", 16, 5, IMAGENET, "after", True),
    ("mae-vit-b", 16, 1, IMAGENET, "after", False),
    ("clip-vit-l", 14, 1, CLIP, "before", False),
    ("siglip-vit-b", 16, 0, IMAGENET, "after", True),
    ("siglip2-vit-b", 16, 0, IMAGENET, "after", True),
    ("jepa-vit-h", 14, 0, IMAGENET, "after", True),
    ("pe-vit-t", 16, 1, HALF, "before", False),
    ("spatialpe-vit-b", 16, 1, HALF, "before", False),
    ("langpe-vit-l", 14, 1, HALF, "before", False),
]


@pytest.fixture(autouse=True)
def two_blocks(monkeypatch):
    monkeypatch.setattr(timm, "create_model", create_small)


def load(name, folder, **options):
    """Load a registered encoder, or one of timm, from random weights on disk."""
    timm_name = name.removeprefix("timm:")
    path = saved(timm_name if timm_name != name else find_entry("encoders", name)["timm"], folder)
    return load_encoder(f"{name}={path}", **options)


def images(size, count=2):
    generator = torch.Generator().manual_seed(size)
    return torch.randint(0, 256, (count, size, size, 3), dtype=torch.uint8, generator=generator)


@pytest.mark.parametrize(("name", "patch", "prefix", "colours", "resized", "final_norm"), CASES)
def test_features_of_every_family_are_the_patches_last_tokens_of_the_network_at_that_size(
    tmp_path, name, patch, prefix, colours, resized, final_norm
):
    encoder = load(name, tmp_path)
    pictures, grid = images(40), 3
    features = encoder(pictures, grid_size=grid)

    # timm's own network of this very image size, its position embeddings resampled by timm when
    # they are loaded; the tokens are taken where they come out of the last block.
    timm_name, side = find_entry("encoders", name)["timm"], grid * patch
    network = create_small(timm_name, img_size=side).eval()
    convert = __import__(type(network).__module__, fromlist=["x"]).checkpoint_filter_fn
    network.load_state_dict(convert(dict(tensors_of(timm_name)), network))
    taken = {}
    network.blocks[-1].register_forward_hook(lambda *call: taken.update(tokens=call[2]))
    pixels = pictures.permute(0, 3, 1, 2) / 255
    mode = "bilinear" if name.partition("-")[0].endswith("pe") else "bicubic"
    if resized == "before":
        pixels = F.interpolate(pixels, side, mode=mode)
    pixels = normalize(pixels, *colours)
    if resized == "after":
        pixels = F.interpolate(pixels, side, mode=mode)
    with torch.no_grad():
        normed = network.forward_features(pixels)
    expected = (normed if final_norm else taken["tokens"])[:, prefix:]
    assert features.shape == expected.shape == (2, grid**2, encoder.feature_dim)
    torch.testing.assert_close(features, expected, atol=1e-4, rtol=1e-4)
    normalised = not isinstance(network.norm, torch.nn.Identity)  # PE's later ones are not
    assert normalised is not name.startswith(("spatialpe", "langpe"))
    assert torch.equal(normed, taken["tokens"]) is not normalised


def test_clip_has_the_gelu_that_it_was_trained_with_and_keeps_its_first_norm(tmp_path):
    network = load("clip-vit-l", tmp_path).network.network
    assert isinstance(network.blocks[0].mlp.act, QuickGELU)
    assert isinstance(network.norm_pre, torch.nn.LayerNorm)


def test_an_encoder_gives_any_grid_from_the_position_embeddings_of_its_file(tmp_path):
    encoder = load("dinov2-vit-s", tmp_path)
    first = encoder(images(30), grid_size=2)
    for grid in (1, 5, 37):
        assert encoder(images(30, 1), grid_size=grid).shape == (1, grid**2, WIDTH)
    assert torch.equal(encoder(images(30), grid_size=2), first)


def test_an_encoder_is_frozen_in_evaluation_mode_and_gives_features_without_gradient(tmp_path):
    encoder = load("dinov2-vit-s", tmp_path)
    assert not any(p.requires_grad for p in encoder.network.parameters())
    assert not any(part.training for part in encoder.network.modules())
    assert not encoder(images(30), grid_size=2).requires_grad


def test_bf16_computes_in_bfloat16_and_gives_float32_near_the_features_of_float32(tmp_path):
    wide, narrow = (load("dinov2-vit-s", tmp_path, precision=p) for p in ("fp32", "bf16"))
    types = []
    narrow.network.network.blocks[0].mlp.fc1.register_forward_hook(
        lambda *call: types.append(call[2].dtype)
    )
    expected, found = (encoder(images(30), grid_size=2) for encoder in (wide, narrow))
    assert types == [torch.bfloat16] and found.dtype == torch.float32
    assert 0 < (found - expected).norm() / expected.norm() < 0.03


def test_float32_stays_float32_where_a_training_step_computes_in_bfloat16(tmp_path):
    encoder = load("dinov2-vit-s", tmp_path)
    expected = encoder(images(30), grid_size=2)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(encoder(images(30), grid_size=2), expected)


def test_the_hash_of_the_weights_is_that_of_their_file(tmp_path):
    from hashlib import sha256

    encoder = load("timm:" + TINY, tmp_path)
    assert encoder.sha256 == sha256((tmp_path / f"{TINY}.safetensors").read_bytes()).hexdigest()


@pytest.mark.parametrize(
    ("name", "publish"),
    [
        ("dinov2-vit-s", lambda tensors: tensors | {"mask_token": torch.zeros(1, WIDTH)}),
        ("mae-vit-b", lambda tensors: {"model": tensors}),
        (
            "jepa-vit-h",
            lambda tensors: {
                "encoder": {f"module.{key}": value for key, value in tensors.items()},
                "epoch": 300,
            },
        ),
    ],
)
def test_files_in_the_form_of_their_publisher_are_read_like_timms(tmp_path, name, publish):
    expected = load(name, tmp_path)(images(30), grid_size=2)
    tensors = {
        key: value
        for key, value in tensors_of(find_entry("encoders", name)["timm"]).items()
        if not key.startswith("head.")
    }
    torch.save(publish(tensors), tmp_path / "published.pth")
    encoder = load_encoder(f"{name}={tmp_path / 'published.pth'}")
    assert torch.equal(encoder(images(30), grid_size=2), expected)


class Harmful:
    def __reduce__(self):
        return (print, ("executed",))


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda t: t.pop("blocks.1.mlp.fc1.bias"), CheckpointMismatchError, "lacks 1 tensors"),
        (lambda t: t.pop("norm.weight"), CheckpointMismatchError, "norm.weight for one"),
        (
            lambda t: t.update({"blocks.2.mlp.fc1.bias": torch.zeros(3)}),
            CheckpointMismatchError,
            "1 tensors that the network has not, blocks.2",
        ),
        (
            lambda t: t.update({"norm.weight": torch.zeros(3)}),
            CheckpointMismatchError,
            "size mismatch for norm.weight",
        ),
    ],
)
def test_weights_of_another_network_are_refused(tmp_path, change, error, message):
    tensors = dict(tensors_of(TINY))
    change(tensors)
    save_file(tensors, tmp_path / "other.safetensors")
    with pytest.raises(error, match=message) as refusal:
        load_encoder(f"timm:{TINY}={tmp_path / 'other.safetensors'}")
    assert "\n" not in str(refusal.value) and "other.safetensors" in str(refusal.value)


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("x.safetensors", b"damaged"),
        ("x.pth", b"damaged"),
        ("x.pth", b""),
        ("x.pth", pickle.dumps({"a": Harmful()})),
        ("x.pth", pickle.dumps({})),
    ],
)
def test_damaged_and_harmful_files_are_refused_in_one_line_and_not_executed(
    tmp_path, capsys, file, content
):
    (tmp_path / file).write_bytes(content)
    with pytest.raises(CheckpointFormatError, match=file) as refusal:
        load_encoder(f"timm:{TINY}={tmp_path / file}")
    assert "\n" not in str(refusal.value) and "executed" not in capsys.readouterr().out


@pytest.mark.parametrize("content", [{"epoch": 3}, {}, [1], {"model": 3}])
def test_files_without_tensors_are_refused(tmp_path, content):
    torch.save(content, tmp_path / "x.pth")
    with pytest.raises(RepaError, match=r"x\.pth: holds no"):
        load_encoder(f"timm:{TINY}={tmp_path / 'x.pth'}")


def test_a_file_of_weights_that_is_not_there_is_named():
    with pytest.raises(FileNotFoundError) as missing:
        load_encoder(f"timm:{TINY}=/no/such.safetensors")
    assert missing.value.filename == "/no/such.safetensors" and missing.value.strerror


def test_any_network_of_timm_sees_the_colours_of_its_own_configuration(tmp_path):
    name = "vit_base_patch16_siglip_256.webli"  # registered too, with ImageNet's colours
    encoder = load(f"timm:{name}", tmp_path)
    white = encoder.preprocess(torch.full((1, 32, 32, 3), 255, dtype=torch.uint8), 2)
    assert white.shape == (1, 3, 32, 32) and torch.allclose(white, torch.ones(()), atol=1e-6)


def test_a_registered_network_named_by_timms_name_gives_the_same_features(tmp_path):
    named, other = "dinov2-vit-s", "timm:vit_small_patch14_dinov2.lvd142m"
    first, second = (load(n, tmp_path)(images(30), grid_size=3) for n in (named, other))
    assert torch.equal(first, second)


def test_convolutional_networks_of_timm_give_their_last_map(tmp_path):
    encoder = load("timm:resnet10t", tmp_path)
    features = encoder(images(50), grid_size=2)
    assert features.shape == (2, 4, encoder.feature_dim) == (2, 4, 512)
    network = create_small("resnet10t").eval()
    network.load_state_dict(tensors_of("resnet10t"))
    pixels = F.interpolate(
        normalize(images(50).permute(0, 3, 1, 2) / 255, *IMAGENET), 64, mode="bicubic"
    )
    with torch.no_grad():
        expected = network.forward_features(pixels).flatten(2).transpose(1, 2)
    torch.testing.assert_close(features, expected, atol=1e-4, rtol=1e-4)


def test_a_network_of_one_image_size_says_which_images_would_do(tmp_path):
    encoder = load("timm:mixer_s32_224", tmp_path)
    assert encoder(images(50, 1), grid_size=7).shape == (1, 49, 512)
    with pytest.raises(SettingError) as refusal:
        encoder.check_grid(16, image_size=256)
    assert str(refusal.value) == (
        "timm:mixer_s32_224 gives one grid of 7 x 7 features an image, not 16 x 16: with this "
        "model, images of 112 pixels would do."
    )


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("vit_tiny_patch16_242", "no network 'vit_tiny_patch16_242'; did you mean 'vit_tiny"),
        ("vit_tiny_patch16_224.no_such_tag", "Invalid pretrained tag"),
        ("hf-hub:timm/vit_tiny_patch16_224", "no network"),
    ],
)
def test_networks_that_timm_has_not_are_refused(name, message):
    with pytest.raises(SettingError, match=message) as refusal:
        load_encoder(f"timm:{name}=x.pth")
    assert "\n" not in str(refusal.value)


def test_networks_whose_features_timm_does_not_give_are_refused(monkeypatch, tmp_path):
    def refuse(self, pixels):
        raise AssertionError("normalization of features not supported")

    path = saved(TINY, tmp_path)
    for forward, message in (
        (refuse, "does not give its features: normalization of features"),
        (lambda self, pixels: pixels.new_zeros(1, 5, 1), "no square grid"),
        (lambda self, pixels: pixels.new_zeros(1, 5, 1, 2), "no square grid"),
    ):
        monkeypatch.setattr(module.PatchFeatures, "forward", forward)
        with pytest.raises(SettingError, match=message):
            load_encoder(f"timm:{TINY}={path}")
    monkeypatch.setattr(timm, "create_model", lambda name, **options: torch.nn.Linear(1, 1))
    with pytest.raises(SettingError, match=f"does not give the features of {TINY}"):
        load_encoder(f"timm:{TINY}={path}")


def test_a_network_without_published_weights_asks_for_a_file():
    with pytest.raises(RepaError, match="give a file, timm:vit_base_patch16_18x2_224=PATH"):
        module.published_weights("vit_base_patch16_18x2_224")
