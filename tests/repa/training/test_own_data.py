"""Training on one's own data: pairing through to the step, workers, resuming, what is refused."""

import json
import os
import signal
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from PIL import Image
from prepared_sets import COUNT, numbered_set, other
from safetensors.torch import load_file
from tiny_run import QUIET, TINY, file_bytes, numbered_data, stand_in_encoder

import repa.data.samples.opening as opening
from repa.checkpoints import load_model
from repa.data.samples.prepared_data import PreparedData
from repa.errors import DataError, OutputExistsError, RepaError, SettingError
from repa.generation import Protocol
from repa.registry import find_entry
from repa.sheets import contact_sheet
from repa.training.batch import Batches, Share
from repa.training.loop import train
from repa.training.reading_ahead import reading_ahead, suitable_workers
from repa.training.settings import TrainConfig, settings_for
from repa.training.targets import open_targets

OWN = {"model": "SiT-Pico/2", "encoder": "efficientnet-lite1", "projector_dim": 8}
NAME = "efficientnet-lite1"


@pytest.fixture
def prepared(tmp_path, monkeypatch):
    """Let a folder be a prepared set, of which a test may change something; return its settings."""
    folder = tmp_path / "set"
    folder.mkdir()
    (folder / "prepared.json").write_text("{}")
    sets = {"now": numbered_set(features=(NAME,), flip=True, deviation=1.0)}
    monkeypatch.setattr(opening, "open_prepared", lambda path: other(sets["now"], folder=path))

    def config(change=None, **settings):
        if change is not None:
            sets["now"] = change
        return replace(TINY, data=str(folder), **{**OWN, **settings})

    return config


def batches_of(config, prepared, **changes):
    data = PreparedData(prepared)
    data = data.flipping() if config.flip else data
    targets = open_targets(config.encoder, data, opening.Path("nowhere"), 4, "cpu")
    return Batches(replace(config, **changes), data, targets, "cpu")


@pytest.mark.parametrize("workers", [0, 1, 2])
@pytest.mark.parametrize("flip", [False, True])
def test_steps_consume_the_same_whoever_reads_them_and_everything_of_one_image(flip, workers):
    config = replace(TINY, **OWN, flip=flip, batch_size=16, seed=5, label_dropout=0.0)
    batches = batches_of(config, numbered_set(features=(NAME,), flip=True))
    steps = [3, 4, 6, 7]  # of a resumed run that leaves one out
    with reading_ahead(batches.reader, iter(steps), workers) as read:
        for step in steps:
            ahead = replace(batches, read=read)(step)
            here = batches(step)
            for name in ("data", "labels", "noise", "times"):
                assert torch.equal(getattr(ahead, name), getattr(here, name)), name
            (features,) = ahead.target_features
            assert torch.equal(features, here.target_features[0])
            assert features.dtype == torch.float32
            values = ahead.data[:, 0, 0, 0].round().long()
            images = torch.where(values < 0, -values - 1, values)
            assert (
                images.tolist()
                == ahead.labels.tolist()
                == batches.order(batches.share.positions(step)).tolist()
            )
            assert features[:, 0, 0].long().tolist() == values.tolist()
            assert flip == bool((values < 0).any())


def test_a_run_ends_with_the_same_bytes_for_any_number_of_workers_and_when_resumed(
    prepared, tmp_path
):
    config = prepared(flip=True, accumulate=2)
    whole = train(config, tmp_path / "whole", skip=[2], reporting=QUIET)
    ahead = train(config, tmp_path / "ahead", skip=[2], reporting=QUIET, workers=2)
    train(replace(config, num_steps=3), tmp_path / "parts", skip=[2], reporting=QUIET)
    parts = train(config, tmp_path / "parts", resume=True, reporting=QUIET, workers=1)
    assert file_bytes(whole) == file_bytes(ahead) == file_bytes(parts)
    other_run = train(replace(config, flip=False), tmp_path / "plain", skip=[2], reporting=QUIET)
    assert file_bytes(other_run)["ema.safetensors"] != file_bytes(whole)["ema.safetensors"]
    weights = load_file(whole / "ema.safetensors")
    assert weights["x_embedder.proj.weight"].shape[1] == 4
    assert weights["projectors.0.4.bias"].shape == (5,)


def test_the_run_remembers_its_data_and_is_not_continued_on_others(prepared, tmp_path):
    out = tmp_path / "run"
    train(prepared(num_steps=2), out, reporting=QUIET)
    known = json.loads((out / "config.json").read_text())
    assert known["data"]["data"] == str(tmp_path / "set") and known["data"]["flip"] is False
    record = known["data_set"]
    assert record["count"] == record["num_classes"] == COUNT
    assert record["class_names"][:2] == ["class 0", "class 1"]
    assert record["latent_space"]["autoencoder"] == "a-tiny-one"
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    now = numbered_set(features=(NAME,), flip=True, deviation=1.0)
    space = replace(now.latent_space, autoencoder="another")
    for change, told in [
        (other(now, identity="0" * 64), "of other content"),
        (other(now, identity="0" * 64, latent_space=space), "latent_space .*a-tiny.*another"),
        (
            other(numbered_set(features=("dinov2",)), identity="1" * 64),
            r"encoders \['efficientnet-lite1'\], now \['dinov2'\]",
        ),
    ]:
        with pytest.raises(OutputExistsError, match=told) as caught:
            train(prepared(change), out, resume=True, reporting=QUIET)
        assert "\n" not in str(caught.value)
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before
    train(prepared(now), out, resume=True, reporting=QUIET)


def test_features_of_other_weights_under_the_same_name_are_said_and_not_gone_on_with(
    prepared, tmp_path
):
    def of_weights(sha256, identity):
        encoders = [{"name": NAME, "sha256": sha256}, {"name": "other", "sha256": "9" * 64}]
        whole = numbered_set(features=(NAME,), deviation=1.0)
        return other(whole, manifest={"encoders": encoders}, identity=identity * 64)

    published, out = find_entry("encoders", NAME)["sha256"], tmp_path / "run"
    notes = []
    told = replace(QUIET, on_note=notes.append)
    train(prepared(of_weights(published, "0"), num_steps=1), out, reporting=told)
    assert not [note for note in notes if "weights" in note]
    record = json.loads((out / "config.json").read_text())["data_set"]
    assert record["encoder_weights"] == {NAME: published}
    changed = prepared(of_weights("ab" * 32, "1"))
    words = rf"features of {NAME} by weights of SHA-256 {published[:12]}, now abababababab\)"
    with pytest.raises(OutputExistsError, match=words):
        train(changed, out, resume=True, reporting=QUIET)
    train(replace(changed, num_steps=1), tmp_path / "new", reporting=told)
    (note,) = [note for note in notes if "weights" in note]
    assert NAME in note and "other weights than the published ones: of SHA-256 abab" in note


def test_the_same_data_may_lie_elsewhere_by_now(prepared, tmp_path):
    out = tmp_path / "run"
    train(prepared(num_steps=2), out, reporting=QUIET)
    config = prepared()
    (tmp_path / "set").rename(tmp_path / "moved")
    with pytest.raises(DataError, match="no such folder or zip"):
        train(config, out, resume=True, reporting=QUIET)
    train(replace(config, data=str(tmp_path / "moved")), out, resume=True, reporting=QUIET)
    entry = json.loads((out / "history.jsonl").read_text())
    assert entry["changed"]["data"] == [str(tmp_path / "set"), str(tmp_path / "moved")]


def test_digits_are_not_continued_on_own_data_nor_the_other_way_round(prepared, tmp_path):
    train(replace(TINY, num_steps=1), tmp_path / "digits", reporting=QUIET)
    config = replace(TINY, data=prepared().data)
    with pytest.raises(OutputExistsError, match="other data"):
        train(config, tmp_path / "digits", resume=True, reporting=QUIET)
    assert "data_set" not in json.loads((tmp_path / "digits/config.json").read_text())


def test_a_set_of_another_size_is_an_error_that_names_both(prepared, tmp_path):
    with pytest.raises(SettingError, match=r"image_size is 32, and .*set was prepared with 16"):
        train(prepared(image_size=32), tmp_path / "run", reporting=QUIET)
    assert not (tmp_path / "run/config.json").exists()


@pytest.mark.parametrize(
    ("settings", "field", "message"),
    [
        (
            {"model": "SiT-Pico/4"},
            "model",
            "4 x 4 features .*the model has 2 x 2 tokens: with this model, images of 32 pixels "
            "would do; .*--grid-size 2 and --overwrite",
        ),
        ({"encoder": f"{NAME}=weights.pt"}, "encoder", "holds features of .* already"),
    ],
)
def test_features_that_do_not_fit_are_refused(prepared, tmp_path, settings, field, message):
    with pytest.raises(SettingError, match=message) as caught:
        train(prepared(**settings), tmp_path / "run", reporting=QUIET)
    assert caught.value.field == field


def test_mirrored_latents_need_both_prepared(prepared, tmp_path):
    config = prepared(numbered_set(features=(NAME,)), flip=True)
    with pytest.raises(SettingError, match="no moments of mirrored images: prepare it with --flip"):
        train(config, tmp_path / "run", reporting=QUIET)


@pytest.fixture
def stand_in(monkeypatch):
    """Let every encoder be a stand-in, whose features are mean colours."""
    load = lambda *_, precision: stand_in_encoder(precision=precision)  # noqa: E731
    monkeypatch.setattr("repa.training.targets.load_encoder", load)


@pytest.mark.parametrize("encoder", ["efficientnet-lite0", f"{NAME},efficientnet-lite0"])
def test_an_encoder_that_was_not_prepared_sees_the_images_mirrored_like_the_latents(
    encoder, stand_in
):
    config = replace(TINY, **{**OWN, "encoder": encoder}, flip=True, batch_size=16)
    step = batches_of(config, numbered_set(features=(NAME,), flip=True))(0)
    values = step.data[:, 0, 0, 0].round().long()
    *prepared, seen = step.target_features
    assert len(prepared) == encoder.count(",")
    assert all(features[:, 0, 0].tolist() == values.tolist() for features in prepared)
    left, right = (seen[:, place, 0] for place in (0, 3))
    number = torch.where(values < 0, -values - 1, values)
    bright = torch.where(values < 0, right, left)
    assert bright.round().long().tolist() == number.tolist()
    assert (torch.where(values < 0, left, right) == 0).all()


@pytest.mark.parametrize("features", [(NAME,), ()])
def test_parts_of_a_step_have_the_features_of_the_whole_until_there_is_no_alignment(
    features, stand_in
):
    config = replace(TINY, **OWN, flip=True, batch_size=16, accumulate=2, align_until=2)
    prepared = numbered_set(features=features, flip=True)
    always = batches_of(config, prepared, align_until=0)
    parts = replace(batches_of(config, prepared), own_share=Share(16, parts=2))
    for step in (0, 1):
        found = [parts(step, part).target_features[0] for part in (0, 1)]
        assert torch.equal(torch.cat(found), always(step).target_features[0])
    assert parts(2, 0).target_features == []
    read, _ = parts.reader(4)
    assert read.images is None and not read.features


class Failing:
    """Reads that fail at a step, by an error or the end of the process."""

    def __init__(self, how):
        self.how = how

    def __call__(self, step):
        if step == 2:
            if self.how == "dies":
                os.kill(os.getpid(), signal.SIGKILL)
            raise DataError("row 17 is not as it was written.")
        return step


def test_an_error_in_a_worker_is_the_error_of_the_step_that_asked():
    with reading_ahead(Failing("raises"), range(5), 2) as read:
        assert [read(0), read(1)] == [0, 1]
        with pytest.raises(DataError, match=r"^row 17 is not as it was written\.$"):
            read(2)
        assert read(3) == 3


def test_the_end_of_a_worker_is_told_in_one_line():
    with (
        pytest.raises(RepaError, match=r"a process that reads the data has ended.*--workers") as e,
        reading_ahead(Failing("dies"), range(5), 1) as read,
    ):
        for step in range(5):
            read(step)
    assert "\n" not in str(e.value)


def test_steps_are_read_in_their_order_alone():
    with (
        reading_ahead(Failing(""), range(2), 1) as read,
        pytest.raises(ValueError, match="step 1 was asked for"),
    ):
        read(1)


@pytest.fixture
def pictures(tmp_path):
    """A folder of two classes of pictures of several sizes, all of one colour."""
    folder = tmp_path / "pictures"
    for label, name in enumerate(("cat", "dog")):
        (folder / name).mkdir(parents=True)
        for number in range(6):
            colour = (20 * number + 10, 100 * label, 7)
            Image.new("RGB", (20 + number, 40 - number), colour).save(
                folder / name / f"{number}.png"
            )
    return folder


def test_a_folder_of_classes_is_cropped_on_the_way_and_trained_on_as_pixels(pictures, tmp_path):
    data = opening.open_training_data(str(pictures), 16)
    batch = data.batch(np.array([7, 0, 11]), np.random.default_rng)
    assert batch.inputs.shape == (3, 3, 16, 16) and batch.labels.tolist() == [1, 0, 1]
    assert batch.images[:, 3, 5].tolist() == [[30, 100, 7], [10, 0, 7], [110, 100, 7]]
    assert torch.equal(batch.inputs, batch.images.permute(0, 3, 1, 2).float() / 127.5 - 1)
    config = replace(TINY, data=str(pictures))
    whole = train(config, tmp_path / "run", reporting=QUIET)
    ahead = train(config, tmp_path / "ahead", reporting=QUIET, workers=1)
    assert file_bytes(whole) == file_bytes(ahead)
    record = json.loads((tmp_path / "run/config.json").read_text())["data_set"]
    assert record["class_names"] == ["cat", "dog"] and record["num_classes"] == 2
    assert [each.words for each in load_model(whole).settings.classes] == [("cat",), ("dog",)]
    protocol = Protocol.for_model(tmp_path / "run", labels=("dog", 0, "cat"))
    assert protocol.labels == (1, 0, 0)


def test_previews_of_own_data_name_the_classes(pictures, tmp_path, monkeypatch):
    captions = []

    def noted(images, labels, *, title):
        captions.extend(labels)
        return contact_sheet(images, labels, title=title)

    monkeypatch.setattr("repa.training.previews.contact_sheet", noted)
    config = replace(TINY, data=str(pictures), num_steps=1)
    train(config, tmp_path / "run", reporting=replace(QUIET, preview_every=1))
    assert set(captions) == {"0 cat", "1 dog"}


@pytest.mark.parametrize("change", ["content", "name", "class", "gone", "more"])
def test_a_run_on_a_folder_that_changed_is_not_continued(pictures, tmp_path, change):
    config = replace(TINY, data=str(pictures), num_steps=1)
    train(config, tmp_path / "run", reporting=QUIET)
    first = pictures / "cat/0.png"
    if change == "content":
        first.write_bytes((pictures / "cat/1.png").read_bytes())
    elif change == "name":
        first.rename(pictures / "cat/9.png")
    elif change == "class":
        first.rename(pictures / "dog/9.png")
    elif change == "gone":
        first.unlink()
    else:
        (pictures / "cat/9.png").write_bytes(first.read_bytes())
    with pytest.raises(OutputExistsError, match="trained on other data than") as caught:
        train(replace(config, num_steps=2), tmp_path / "run", resume=True, reporting=QUIET)
    if change in ("gone", "more"):
        assert f"count 12, now {11 if change == 'gone' else 13}" in str(caught.value)


def test_what_becomes_of_pictures_is_said_when_a_run_opens(pictures, tmp_path):
    Image.new("RGBA", (30, 20)).save(pictures / "cat/1.png")
    Image.new("L", (10, 20)).save(pictures / "dog/1.png")
    notes = []
    config = replace(TINY, data=str(pictures), num_steps=1)
    train(config, tmp_path / "run", reporting=replace(QUIET, on_note=notes.append))
    assert "1 pictures have transparency, which is dropped as in the reference." in notes
    assert any(note.startswith("1 pictures are grey") for note in notes)
    assert any(note.startswith("1 pictures are smaller than the images") for note in notes)


def test_a_broken_picture_ends_a_run_before_it_begins(pictures, tmp_path):
    whole = (pictures / "dog/3.png").read_bytes()
    (pictures / "dog/3.png").write_bytes(whole[: len(whole) // 2])
    config = replace(TINY, data=str(pictures), num_steps=1)
    with pytest.raises(DataError, match=r"pictures: 1 file to mend or remove: .*dog/3\.png"):
        train(config, tmp_path / "run", reporting=QUIET)
    assert not (tmp_path / "run/config.json").exists()


def test_a_flat_folder_trains_with_one_class(pictures, tmp_path):
    config = replace(TINY, data=str(pictures / "cat"), num_steps=1)
    last = train(config, tmp_path / "run", reporting=QUIET)
    assert load_file(last / "ema.safetensors")["y_embedder.embedding_table.weight"].shape[0] == 2


def test_latents_without_their_autoencoder_have_no_previews_and_one_note_says_so(
    prepared, tmp_path
):
    notes = []
    reporting = replace(QUIET, preview_every=2, on_note=notes.append)
    train(prepared(num_steps=3), tmp_path / "run", reporting=reporting)
    assert sum("no previews" in note for note in notes) == 1
    assert not (tmp_path / "run/previews").exists()


def test_settings_of_own_data_are_the_published_recipe_and_what_the_data_say(prepared, pictures):
    folder = prepared().data
    config = settings_for(folder)
    assert (config.model, config.image_size, config.encoder) == ("SiT-XL/2", 16, NAME)
    assert (config.encoder_depth, config.batch_size, config.num_steps) == (8, 256, 400_000)
    assert (config.learning_rate, config.weight_decay, config.ema_decay) == (1e-4, 0, 0.9999)
    assert settings_for(folder, model="SiT-B/2").encoder_depth == 4  # as published
    assert settings_for(folder, model="SiT-L/2").encoder_depth == 8
    sized = {
        size: settings_for(str(pictures), image_size=size).model[-2:] for size in (32, 64, 128)
    }
    assert sized == {32: "/2", 64: "/4", 128: "/8"}
    assert settings_for(folder, asdict(TINY), image_size=32).image_size == 32
    assert settings_for(folder, asdict(TINY)).batch_size == TINY.batch_size


def test_a_name_that_is_neither_data_set_nor_path_is_refused_with_the_closest():
    with pytest.raises(SettingError, match="called 'digit'; did you mean 'digits'"):
        replace(TINY, data="digit")
    assert isinstance(TrainConfig.from_mapping(TINY.sections()), TrainConfig)


def test_data_in_memory_need_no_workers():
    assert suitable_workers(numbered_data()) == 0
    assert 1 <= suitable_workers(PreparedData(numbered_set())) <= 4
