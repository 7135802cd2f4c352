"""The network: recorded values of the reference, published sizes, labels that drop."""

import pytest
import torch

from repa import SIT_SIZES, SiT
from repa.models import blocks


@pytest.fixture
def recorded(golden, golden_sit):
    """Load a recorded network, and its inputs and outputs as tensors."""

    def load(name):
        arrays, _ = golden(name)
        return golden_sit(name), {key: torch.from_numpy(array) for key, array in arrays.items()}

    return load


@pytest.mark.parametrize("name", ["sit_a", "sit_b", "sit_c"])
def test_position_table_equals_the_reference(name, golden, golden_sit):
    arrays, meta = golden(name)
    config = meta["config"]
    sizes = ("input_size", "patch_size", "in_channels", "hidden_size", "depth", "num_heads")
    fresh = SiT(
        **{key: config[key] for key in sizes}, num_classes=3, encoder_depth=1, target_dims=[]
    )
    expected = torch.from_numpy(arrays["param/pos_embed"])
    torch.testing.assert_close(fresh.pos_embed, expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("name", ["sit_a", "sit_b", "sit_c"])
def test_velocity_and_features_equal_the_reference(name, recorded):
    model, golden = recorded(name)
    with torch.no_grad():
        for suffix in ("", "_mixed"):
            labels = golden[f"y{suffix}"]
            velocity, features = model(golden["x"], golden["t"], labels, return_features=True)
            torch.testing.assert_close(velocity, golden[f"v{suffix}"], atol=2e-5, rtol=0)
            for i, projected in enumerate(features):
                torch.testing.assert_close(projected, golden[f"zs{suffix}/{i}"], atol=2e-5, rtol=0)
        null = torch.full_like(golden["y"], model.null_label)
        assert torch.equal(null, golden["y_null"])
        velocity = model(golden["x"], golden["t"], null)
        torch.testing.assert_close(velocity, golden["v_null"], atol=2e-5, rtol=0)


@pytest.mark.parametrize("name", ["sit_a", "sit_b", "sit_c"])
def test_float64_velocity_equals_the_reference_in_float64(name, recorded):
    model, golden = recorded(name)
    with torch.no_grad():
        velocity = model.double()(golden["x"].double(), golden["t"].double(), golden["y"])
    torch.testing.assert_close(velocity, golden["v_f64"], atol=2e-7, rtol=0)


def test_projectors_run_only_when_features_are_asked_for(recorded):
    model, golden = recorded("sit_b")
    calls = []
    for projector in model.projectors:
        projector.register_forward_hook(lambda *_: calls.append(1))
    model(golden["x"], golden["t"], golden["y"])
    assert not calls
    _, features = model(golden["x"], golden["t"], golden["y"], return_features=True)
    assert len(calls) == len(features) == 2


def test_published_sizes_have_the_published_numbers_of_parameters():
    # DiT's paper (arXiv 2212.09748, table 4): 33M, 130M, 458M, 675M for S, B, L, XL at patch 2.
    for name, millions in {"S": 33, "B": 130, "L": 458, "XL": 675}.items():
        with torch.device("meta"):
            model = SiT(
                input_size=32,
                in_channels=4,
                num_classes=1000,
                encoder_depth=8,
                target_dims=[],
                **SIT_SIZES[f"SiT-{name}/2"],
            )
        count = sum(p.numel() for p in model.parameters())
        assert abs(count / 1e6 - millions) < 1, (name, count)


@pytest.mark.parametrize("size", ["SiT-S/2", "SiT-S/4", "SiT-S/8", "SiT-Pico/4"])
def test_small_sizes_run_and_start_with_zero_velocity(size):
    model = SiT(
        input_size=16,
        in_channels=3,
        num_classes=5,
        encoder_depth=2,
        target_dims=[],
        **SIT_SIZES[size],
    )
    x = torch.randn(2, 3, 16, 16)
    assert torch.equal(model(x, torch.rand(2), torch.tensor([0, 5])), torch.zeros_like(x))


def test_labels_drop_in_training_mode_alone_and_at_the_given_rate(recorded):
    model, golden = recorded("sit_c")
    seen = []
    model.y_embedder.register_forward_hook(lambda _, args, __: seen.append(args[0]))
    x, t, labels = golden["x"][:1], golden["t"][:1], torch.zeros(4000, dtype=torch.int64)
    x, t = x.expand(4000, -1, -1, -1), t.expand(4000)
    model.blocks = model.blocks[:1]  # only the labels matter here
    with torch.no_grad():
        model.eval()(x[:50], t[:50], labels[:50])
        assert torch.equal(seen[-1], labels[:50])
        torch.manual_seed(0)
        model.train()(x, t, labels)
        # Binomial(4000, 0.1): mean 400, standard deviation 19; five of them.
        assert abs(int((seen[-1] == model.null_label).sum()) - 400) < 95
        assert set(seen[-1].tolist()) == {0, model.null_label}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"input_size": 9}, "patch_size 2 must divide input_size 9"),
        ({"hidden_size": 50}, "hidden_size must be a multiple of num_heads"),
        ({"encoder_depth": 0}, "encoder_depth must be from 1 to 3, got 0"),
        ({"encoder_depth": 4}, "encoder_depth must be from 1 to 3, got 4"),
        ({"label_dropout": 1.5}, "label_dropout must be from 0 to 1"),
    ],
)
def test_impossible_sizes_are_refused(change, message):
    sizes = {
        "input_size": 8,
        "in_channels": 4,
        "num_classes": 3,
        "encoder_depth": 1,
        "target_dims": [],
        **SIT_SIZES["SiT-Pico/2"],
        **change,
    }
    with pytest.raises(ValueError, match=message):
        SiT(**sizes)


def test_the_convolution_projects_a_token_from_its_eight_neighbours_in_the_grid():
    torch.manual_seed(0)
    projector = blocks.ConvProjector(6, 4)
    tokens = torch.randn(2, 12 * 12, 6)
    found = projector(tokens)
    assert found.shape == (2, 144, 4)
    weight, bias = projector.conv.weight, projector.conv.bias
    assert weight.shape == (4, 6, 3, 3)
    for row, column in ((0, 0), (5, 7), (11, 3)):
        expected = bias.expand(2, 4)
        for down in (-1, 0, 1):
            for right in (-1, 0, 1):
                if 0 <= row + down < 12 and 0 <= column + right < 12:
                    neighbour = tokens[:, (row + down) * 12 + column + right]
                    expected = expected + neighbour @ weight[:, :, down + 1, right + 1].T
        torch.testing.assert_close(found[:, row * 12 + column], expected)


def test_projectors_of_either_kind_stand_beside_the_same_network():
    def build(projector):
        torch.manual_seed(0)
        sizes = {**SIT_SIZES["SiT-Pico/4"], "input_size": 16, "in_channels": 3, "num_classes": 5}
        return SiT(**sizes, encoder_depth=2, target_dims=[7, 3], projector=projector)

    mlp, conv = build("mlp"), build("conv").eval()
    assert {n for n in mlp.state_dict() if not n.startswith("projectors.")} == {
        n for n in conv.state_dict() if not n.startswith("projectors.")
    }
    x, t, labels = torch.randn(2, 3, 16, 16), torch.rand(2), torch.tensor([1, 2])
    _, features = conv(x, t, labels, return_features=True)
    assert [f.shape for f in features] == [(2, 16, 7), (2, 16, 3)]
