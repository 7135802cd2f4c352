import json
import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_run import QUIET, TINY, as_begun, file_bytes, numbered_data, numbers, stand_in_encoder

import repa.training.run.opening as opening
import repa.training.targets as module
from repa.checkpoints import load_model
from repa.checkpoints.export import export_weights
from repa.data import open_training_data
from repa.encoders import load_encoder
from repa.errors import CheckpointFormatError, RepaError
from repa.training.loop import train
from repa.training.targets import EncoderTargets, StoredTargets, keep_targets, open_targets
from repa_base.checksums import sealed, unsealed

KEEPINGS = ["memory", "file", "nowhere"]
ALIGNED = replace(TINY, encoder="efficientnet-lite1", projector_dim=16)


@pytest.fixture
def with_stand_in(monkeypatch):
    """Let the encoder be a stand-in; return the numbers of images that it is shown at a time."""
    shown = []

    def load(name, device, *, precision):
        encoder = stand_in_encoder(name, precision=precision)

        def preprocess(images, grid_size):
            shown.append(len(images))
            return encoder.preprocess(images, grid_size)

        return replace(encoder, preprocess=preprocess)

    monkeypatch.setattr(module, "load_encoder", load)
    return shown


def targets_of(data, folder, keeping="memory", on_note=lambda note: None):
    source = open_targets("efficientnet-lite1", data, folder, 2, "cpu")
    return keep_targets(source, folder, keeping, on_note)


def batch_of(data, *indices):
    return data.batch(np.array(indices), np.random.default_rng)


def test_images_go_to_the_encoder_as_a_batch_goes_to_the_device(monkeypatch):
    gone, data = [], numbered_data(5)
    monkeypatch.setattr(module, "on_device", lambda tensor, device: gone.append(device) or tensor)
    source = EncoderTargets(stand_in_encoder(), data, 2, "cuda:1")
    assert numbers(source(batch_of(data, 3, 1))[0]) == [3, 1] and gone == ["cuda:1"]


@pytest.mark.parametrize("keeping", KEEPINGS)
def test_features_are_of_the_batches_images_in_their_order(keeping, with_stand_in, tmp_path):
    data = numbered_data(150)
    expected = stand_in_encoder()(data.images(np.array([149, 2, 2, 70])), grid_size=2)
    for _ in range(2):  # made, and then found in the folder
        targets = targets_of(data, tmp_path, keeping)
        (features,) = targets(batch_of(data, 149, 2, 2, 70))
        assert numbers(features) == [149, 2, 2, 70]
        assert torch.equal(features, expected)
        assert features.shape == (4, 4, 3)
        assert targets.dims == [3]


@pytest.mark.parametrize("keeping", KEEPINGS)
def test_an_encoder_sees_every_image_once_or_with_every_batch(keeping, with_stand_in, tmp_path):
    data, notes = numbered_data(150), []
    for _ in range(2):
        targets = targets_of(data, tmp_path, keeping, notes.append)
        for _ in range(3):
            targets(batch_of(data, 1, 2))
    if keeping == "nowhere":
        assert with_stand_in == [2] * 6
        assert not notes and not list(tmp_path.iterdir())
    else:
        assert sum(with_stand_in) == 150 and max(with_stand_in) <= 64
        assert notes == ["computing efficientnet-lite1 features of 150 images, once."]


def test_features_are_kept_in_memory_up_to_a_gibibyte_and_not_of_mirrored_images():
    encoder, data = replace(stand_in_encoder(), feature_dim=4), numbered_data(64)
    for grid_size, flip, suits in [  # 4 bytes * 64 images * 1024 * 1024 * 4 features
        (1024, False, "memory"),
        (1025, False, "nowhere"),
        (2, True, "nowhere"),
    ]:
        source = EncoderTargets(encoder, replace(data, flip=flip), grid_size, "cpu")
        assert source.suitable_keeping == suits


def test_a_run_ends_with_the_same_weights_wherever_its_features_are_kept(
    with_stand_in, tmp_path, monkeypatch
):
    data = numbered_data(50)
    monkeypatch.setattr(opening, "open_training_data", lambda name, size: data)
    ends = [
        file_bytes(train(ALIGNED, tmp_path / keeping, reporting=QUIET, keep_features=keeping))
        for keeping in KEEPINGS
    ]
    assert ends[0] == ends[1] == ends[2]
    files = [sorted(p.name for p in (tmp_path / k).glob("target*")) for k in KEEPINGS]
    kept = [
        [f"target_features.{ending}" for ending in x]
        for x in (["json", "safetensors"], ["json", "npy"])
    ]
    assert files == [*kept, []]
    features = np.load(tmp_path / "file/target_features.npy", mmap_mode="r")
    assert features.shape == (50, 4, 3) and features.dtype == np.float32


@pytest.fixture
def with_two(monkeypatch):
    """Let the encoders be two stand-ins, of three and of one feature."""

    def load(name, device, *, precision):
        encoder = stand_in_encoder(name, precision=precision)
        if name == "efficientnet-lite1":
            return encoder
        return replace(
            encoder,
            preprocess=lambda images, grid: -encoder.preprocess(images, grid)[:, :1],
            feature_dim=1,
        )

    monkeypatch.setattr(module, "load_encoder", load)
    return "efficientnet-lite1,efficientnet-lite0"


@pytest.mark.parametrize("keeping", KEEPINGS)
def test_several_encoders_give_their_features_in_their_order(keeping, with_two, tmp_path):
    data, notes = numbered_data(150), []
    for _ in range(2):  # made, and then found in the folder
        source = open_targets(with_two, data, tmp_path, 2, "cpu")
        targets = keep_targets(source, tmp_path, keeping, notes.append)
        first, second = targets(batch_of(data, 149, 2, 70))
        assert targets.dims == [3, 1]
        assert numbers(first) == [149, 2, 70] == numbers(-second)
        assert torch.equal(second, -first[..., :1])
    made = [f"computing {name} features of 150 images, once." for name in with_two.split(",")]
    assert notes == ([] if keeping == "nowhere" else made)


def test_features_that_are_missing_of_several_encoders_are_made_alone(with_two, tmp_path):
    data, notes = numbered_data(20), []
    for _ in range(2):  # the second time the first encoder's are there
        source = open_targets(with_two, data, tmp_path, 2, "cpu")
        targets = keep_targets(source, tmp_path, "memory", notes.append)
        assert numbers(-targets(batch_of(data, 7))[1]) == [7]
        (tmp_path / "encoder-2/target_features.safetensors").unlink()
    assert [note.split()[1] for note in notes] == [*with_two.split(","), "efficientnet-lite0"]


def test_each_encoder_has_a_projector_of_its_width(with_two, tmp_path, monkeypatch):
    monkeypatch.setattr(opening, "open_training_data", lambda name, size: numbered_data(20))
    last = train(replace(ALIGNED, encoder=with_two), tmp_path / "run", reporting=QUIET)
    weights = load_file(last / "ema.safetensors")
    assert [weights[f"projectors.{place}.4.bias"].shape for place in (0, 1)] == [(3,), (1,)]


def test_a_run_with_convolutions_is_resumed_and_exported_with_them_and_without(
    with_two, tmp_path, monkeypatch
):
    data = numbered_data(20)
    monkeypatch.setattr(opening, "open_training_data", lambda name, size: data)
    config = replace(ALIGNED, encoder=with_two, projector="conv", normalise_targets="spatial")
    whole = train(config, tmp_path / "whole", reporting=QUIET)
    train(replace(config, num_steps=3), tmp_path / "parts", reporting=QUIET)
    parts = train(config, tmp_path / "parts", resume=True, reporting=QUIET)
    assert file_bytes(whole)["ema.safetensors"] == file_bytes(parts)["ema.safetensors"]
    checkpoint = load_model(whole / "ema.safetensors")
    assert checkpoint.settings.model["target_dims"] == [3, 1]
    for kept in (True, False):
        out = tmp_path / f"{kept}.safetensors"
        exported = load_model(export_weights(whole / "ema.safetensors", out, projectors=kept))
        assert ("projectors.1.conv.weight" in exported.model.state_dict()) == kept
        assert ("projector" in exported.settings.model) == kept


def test_a_run_with_the_default_projector_is_described_as_by_earlier_versions(
    with_stand_in, tmp_path, monkeypatch
):
    monkeypatch.setattr(opening, "open_training_data", lambda name, size: numbered_data(20))
    last = train(ALIGNED, tmp_path / "run", reporting=QUIET)
    model = load_model(last / "ema.safetensors").settings.model
    assert "projector" not in model and model["projector_dim"] == 16


@pytest.mark.parametrize("keeping", KEEPINGS)
def test_the_encoder_computes_in_bfloat16_where_asked_and_the_record_says_so(tmp_path, keeping):
    data, grid = open_training_data("digits", 32), 8
    data.count = 3
    sources = [
        open_targets("efficientnet-lite1", data, tmp_path, grid, "cpu", precision)
        for precision in ("fp32", "bf16")
    ]
    wide, narrow = (source(batch_of(data, 0, 2))[0] for source in sources)
    assert narrow.dtype == torch.float32
    # Eight bits at each of some fifty layers: a tenth at the end, where chance would be all of it.
    assert 0 < (wide - narrow).norm() / wide.norm() < 0.2
    targets = keep_targets(sources[1], tmp_path, keeping, lambda note: None)
    kept = targets(batch_of(data, 0, 2))[0]
    assert (kept - narrow).norm() < (kept - wide).norm()  # of three images at once, not two
    if keeping != "nowhere":
        written = unsealed(json.loads((tmp_path / "target_features.json").read_text()))
        assert written["encoder_precision"] == "bf16"
        again = open_targets("efficientnet-lite1", data, tmp_path, grid, "cpu", "bf16")
        assert torch.equal(again(batch_of(data, 2))[0], targets(batch_of(data, 2))[0])
        with pytest.raises(CheckpointFormatError, match="is of encoder_precision bf16"):
            open_targets("efficientnet-lite1", data, tmp_path, grid, "cpu")


def test_a_run_hands_its_encoders_precision_on(with_stand_in, tmp_path, monkeypatch):
    monkeypatch.setattr(opening, "open_training_data", lambda name, size: numbered_data(20))
    train(replace(ALIGNED, encoder_precision="bf16"), tmp_path / "run", reporting=QUIET)
    written = unsealed(json.loads((tmp_path / "run/target_features.json").read_text()))
    assert written["encoder_precision"] == "bf16"


def test_features_on_disk_are_mapped_and_not_read_whole(with_stand_in, tmp_path):
    targets = targets_of(numbered_data(), tmp_path, "file")
    assert isinstance(targets, StoredTargets)
    assert isinstance(targets.features[0], np.memmap) and targets.features[0].mode == "r"


def test_a_run_begun_before_its_features_were_kept_goes_on(with_stand_in, tmp_path):
    out = tmp_path / "run"
    out.mkdir()
    (out / "config.json").write_text(as_begun(ALIGNED))
    train(ALIGNED, out, resume=True, reporting=QUIET)
    assert load_file(out / "target_features.safetensors")["features"].shape == (901, 4, 3)


def test_features_that_a_run_has_are_used_and_no_encoder_is_loaded(tmp_path, monkeypatch):
    monkeypatch.delattr(module, "load_encoder")
    out = tmp_path / "run"
    out.mkdir()
    (out / "config.json").write_text(as_begun(ALIGNED))
    save_file({"features": torch.randn(901, 4, 5)}, out / "target_features.safetensors")
    last = train(ALIGNED, out, resume=True, reporting=QUIET)
    assert json.loads((last / "state.json").read_text())["step"] == 6
    assert load_file(last / "ema.safetensors")["projectors.0.4.bias"].shape == (5,)


def test_features_are_the_encoders(tmp_path):
    digits = open_training_data("digits", 32)
    data = replace(digits, all_images=digits.all_images[:70])
    source = open_targets("efficientnet-lite1", data, tmp_path, 8, "cpu")
    targets = keep_targets(source, tmp_path, "memory", lambda note: None)
    (features,) = targets(batch_of(data, 69, 2))
    expected = load_encoder("efficientnet-lite1")(data.images(np.array([69, 2])), grid_size=8)
    torch.testing.assert_close(features, expected, atol=1e-4, rtol=1e-4)


def test_an_encoder_that_does_not_give_the_models_grid_is_refused_before_anything_is_written(
    tmp_path,
):
    with pytest.raises(RepaError, match="4 x 4 to 32 x 32 features an image, not 2 x 2"):
        train(ALIGNED, tmp_path / "run", reporting=QUIET)
    assert not (tmp_path / "run/config.json").exists()


@pytest.mark.parametrize("name", ["target_features.safetensors", "target_features.npy"])
@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((5, 4, 3), "holds 5 images, not 40"),
        ((40, 64, 3), "holds 64 features an image, not 4"),
        (None, "damaged"),
    ],
)
def test_features_of_other_images_and_damaged_ones_are_refused(tmp_path, name, shape, message):
    path = tmp_path / name
    if shape is None:
        path.write_bytes(b"damaged")
    elif name.endswith(".npy"):
        np.save(path, np.zeros(shape, np.float32))
    else:
        save_file({"features": torch.zeros(shape)}, path)
    with pytest.raises(CheckpointFormatError, match=f"{name}: {message}.* remove it"):
        open_targets("efficientnet-lite1", numbered_data(), tmp_path, 2, "cpu")


FILES = {"memory": "target_features.safetensors", "file": "target_features.npy"}


@pytest.mark.parametrize("keeping", FILES)
def test_a_flipped_byte_of_the_features_is_noticed_where_it_is_read_and_they_are_made_again(
    keeping, with_stand_in, tmp_path
):
    data, path = numbered_data(150), tmp_path / FILES[keeping]
    (before,) = targets_of(data, tmp_path, keeping)(batch_of(data, 149))
    content = bytearray(path.read_bytes())
    content[-5] ^= 1  # of the last image
    path.write_bytes(content)
    with pytest.raises(CheckpointFormatError, match=r"damaged .*image 149 .*remove it") as caught:
        targets_of(data, tmp_path, keeping)(batch_of(data, 3, 149))
    assert str(path) in str(caught.value)
    path.unlink()
    (after,) = targets_of(data, tmp_path, keeping)(batch_of(data, 149))
    assert torch.equal(before, after)


def test_an_image_of_mapped_features_is_checked_against_its_own_checksum(with_stand_in, tmp_path):
    data = numbered_data(150)
    for _ in range(2):
        targets = targets_of(data, tmp_path, "file")
        assert numbers(targets(batch_of(data, 149, 3, 3))[0]) == [149, 3, 3]
    rows = np.load(tmp_path / FILES["file"], mmap_mode="r+")
    rows[[3, 149]] = rows[[149, 3]]
    rows.flush()
    targets(batch_of(data, 5, 6))
    with pytest.raises(CheckpointFormatError, match="image 3 "):
        targets(batch_of(data, 5, 3))


@pytest.mark.parametrize("keeping", FILES)
@pytest.mark.parametrize(
    ("name", "other"), [("encoder", "dinov2"), ("data", "digits-2"), ("input_size", 64)]
)
def test_features_of_another_encoder_or_other_data_are_refused(
    keeping, name, other, with_stand_in, tmp_path
):
    data, record = numbered_data(), tmp_path / "target_features.json"
    targets_of(data, tmp_path, keeping)
    values = unsealed(json.loads(record.read_text()))
    record.write_text(json.dumps(sealed({**values, name: other})))
    with pytest.raises(CheckpointFormatError, match=f"is of {name} {other}, not .*; remove it"):
        targets_of(data, tmp_path, keeping)


@pytest.mark.parametrize("text", [b"", b"{", b"\xff", b"[" * 100_000, b"[]", b'{"crc32": 5}'])
def test_a_damaged_record_of_features_is_noticed(text, with_stand_in, tmp_path):
    targets_of(numbered_data(), tmp_path)
    (tmp_path / "target_features.json").write_bytes(text)
    with pytest.raises(CheckpointFormatError, match=r"target_features\.safetensors: damaged"):
        targets_of(numbered_data(), tmp_path)


def test_features_have_no_name_before_their_record_has(with_stand_in, tmp_path, monkeypatch):
    def killed(path, text):
        raise KeyboardInterrupt

    for keeping in FILES:
        with monkeypatch.context() as patch:
            patch.setattr(module, "write_text", killed)
            with pytest.raises(KeyboardInterrupt):
                targets_of(numbered_data(), tmp_path, keeping)
        assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", FILES.values())
@pytest.mark.parametrize("shape", [(40,), (40, 4), (40, 4, 3, 1)])
def test_features_of_another_form_are_refused(name, shape, tmp_path):
    if name.endswith(".npy"):
        np.save(tmp_path / name, np.zeros(shape, np.float32))
    else:
        save_file({"features": torch.zeros(shape)}, tmp_path / name)
    with pytest.raises(CheckpointFormatError, match=r"damaged .* remove it"):
        open_targets("efficientnet-lite1", numbered_data(), tmp_path, 2, "cpu")


def test_features_that_are_kept_in_memory_are_held_once(tmp_path, monkeypatch):
    source = module.EncoderTargets(stand_in_encoder(), numbered_data(64), 64, "cpu")
    part = np.ones((8, 64**2, 3), np.float32)
    monkeypatch.setattr(module.EncoderTargets, "of_all", lambda self: (part * n for n in range(8)))
    tracemalloc.start()
    features = keep_targets(source, tmp_path, "memory", lambda note: None).features[0]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert features[:, 0, 0].tolist() == [n for n in range(8) for _ in range(8)]
    assert peak < 1.5 * features.nbytes
