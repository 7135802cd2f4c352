"""Runs that start from a checkpoint: `--init`."""

import json
from dataclasses import asdict, replace
from hashlib import sha256

import pytest
import torch
from golden_files import GOLDENS_DIR
from safetensors.torch import load_file
from tiny_run import QUIET, TINY, file_bytes, numbered_data, tiny_state

import repa.training.run.opening as opening
from repa import SiT
from repa.checkpoints import export_weights, load_model
from repa.errors import (
    CheckpointFormatError,
    ChecksumError,
    OutputExistsError,
    RepaError,
    SettingError,
)
from repa.models.blocks import position_embedding
from repa.training.loop import train
from repa.training.run.folder import read_run_config
from repa.training.run.state import check_checkpoint
from repa.training.settings import TrainConfig
from repa_base.checksums import seal_folder

LABELS = "y_embedder.embedding_table.weight"
STILL = {"num_steps": 1, "learning_rate": 1e-30}


@pytest.fixture
def start(monkeypatch, tmp_path):
    """Return a file to start from: random weights, trained on other images than the runs."""
    torch.manual_seed(5)
    state = tiny_state()
    for parameter in state.model.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    path = tmp_path / "start.pt"
    torch.save({name: t.clone() for name, t in state.model.state_dict().items()}, path)
    data = numbered_data()
    monkeypatch.setattr(opening, "open_training_data", lambda name, size: data)
    return path


def config_of(start, **changes):
    return replace(TINY, init=str(start), **changes)


def weights(checkpoint, name):
    return load_file(checkpoint / f"{name}.safetensors")


def test_model_and_average_start_from_the_checkpoints_weights(start, tmp_path):
    last = train(config_of(start, **STILL), tmp_path / "run", reporting=QUIET)
    expected = torch.load(start, weights_only=True)
    for name in ("model", "ema"):
        found = weights(last, name)
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[key], expected[key]) for key in found)
    moments = weights(last, "optimizer")
    assert all(tensor == 1 for name, tensor in moments.items() if name.startswith("step/"))


@pytest.mark.parametrize("source", ["run", "export", "half"])
def test_a_run_starts_from_another_run_or_from_what_was_exported(start, tmp_path, source):
    first = train(config_of(start), tmp_path / "first", reporting=QUIET)
    where, expected = tmp_path / "first", weights(first, "ema")
    if source != "run":
        where = tmp_path / "exported.safetensors"
        export_weights(first / "ema.safetensors", where, half=source == "half")
        expected = {name: t.float() for name, t in load_file(where).items()}
    last = train(config_of(where, **STILL), tmp_path / "second", reporting=QUIET)
    found = weights(last, "model")
    assert all(torch.equal(found[name], expected[name]) for name in found)
    assert all(tensor.dtype == torch.float32 for tensor in found.values())


def test_label_table_and_positions_that_do_not_fit_are_those_of_a_fresh_network(
    start, tmp_path, monkeypatch
):
    images = torch.zeros(20, 32, 32, 3, dtype=torch.uint8)
    data = replace(numbered_data(20), all_images=images, num_classes=7)
    data.all_labels %= 7
    monkeypatch.setattr(opening, "open_training_data", lambda name, size: data)
    notes = []
    config = config_of(start, image_size=32, **STILL)
    last = train(config, tmp_path / "run", reporting=replace(QUIET, on_note=notes.append))
    fresh = train(replace(config, init=None), tmp_path / "fresh", reporting=QUIET)
    found, anew, expected = (
        weights(last, "model"),
        weights(fresh, "model"),
        torch.load(start, weights_only=True),
    )
    size = found["pos_embed"].shape[2]
    assert torch.equal(found["pos_embed"], position_embedding(size, 4))
    assert found[LABELS].shape == (8, size) and torch.equal(found[LABELS], anew[LABELS])
    rest = found.keys() - {LABELS, "pos_embed"}
    assert len(rest) == len(expected) - 2
    assert all(torch.equal(found[name], expected[name]) for name in rest)
    digest = sha256(start.read_bytes()).hexdigest()
    assert notes[0] == (
        f"starting from {start} (SHA-256 {digest[:12]}); label table made anew (7 classes, not "
        "10); position embedding made anew (4 x 4 tokens, not 2 x 2)."
    )


def test_the_run_and_its_checkpoints_say_what_they_started_from(start, tmp_path):
    last = train(config_of(start), tmp_path / "run", reporting=QUIET)
    digest = sha256(start.read_bytes()).hexdigest()
    stored = json.loads((tmp_path / "run/config.json").read_text())
    assert (stored["model"]["init"], stored["model"]["init_sha256"]) == (str(start), digest)
    state = json.loads((last / "state.json").read_text())["config"]
    assert state == config_of(start, init_sha256=digest).sections()


def test_a_resumed_run_ends_with_the_same_bytes_and_does_not_need_the_file(start, tmp_path):
    whole = train(config_of(start), tmp_path / "whole", reporting=QUIET)
    train(config_of(start, num_steps=3), tmp_path / "parts", reporting=QUIET)
    start.unlink()
    parts = train(config_of(start), tmp_path / "parts", resume=True, reporting=QUIET)
    assert file_bytes(parts) == file_bytes(whole)


def test_a_run_that_goes_back_to_its_start_starts_from_the_same_file(start, tmp_path):
    whole = train(config_of(start), tmp_path / "run", reporting=QUIET)
    before = file_bytes(whole)
    again = {"resume": True, "from_step": 0, "reporting": QUIET}
    stored = read_run_config(tmp_path / "run")
    assert file_bytes(train(stored, tmp_path / "run", **again)) == before
    content = torch.load(start, weights_only=True)
    torch.save({name: tensor + 1 for name, tensor in content.items()}, start)
    files = sorted((tmp_path / "run").rglob("*"))
    with pytest.raises(ChecksumError, match=r"start\.pt: .*started from another file"):
        train(stored, tmp_path / "run", **again)
    assert sorted((tmp_path / "run").rglob("*")) == files


def test_a_run_finds_its_start_from_wherever_it_is_called(start, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    whole = train(config_of(start.name), tmp_path / "run", reporting=QUIET)
    before, stored = file_bytes(whole), read_run_config(tmp_path / "run")
    assert config_of(start.name).init == str(start)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir("elsewhere")
    again = {"resume": True, "from_step": 0, "reporting": QUIET}
    assert file_bytes(train(stored, tmp_path / "run", **again)) == before


def test_checkpoints_open_whose_paths_were_stored_as_they_were_typed(start, tmp_path):
    last = train(config_of(start, num_steps=1), tmp_path / "run", reporting=QUIET)
    state = json.loads((last / "state.json").read_text())
    state["config"]["model"]["init"] = start.name
    state["config"]["alignment"]["encoder"] = "dinov2-vit-s = weights.pth,efficientnet-lite1"
    (last / "state.json").write_text(json.dumps(state))
    seal_folder(last)
    config = read_run_config(tmp_path / "run")
    encoder = "dinov2-vit-s=/anywhere/weights.pth,efficientnet-lite1"
    assert check_checkpoint(last, replace(config, encoder=encoder))
    for changed in ({"encoder": encoder.replace("weights", "others")}, {"init": "other.pt"}):
        with pytest.raises(CheckpointFormatError, match=f"other settings .{next(iter(changed))}"):
            check_checkpoint(last, replace(config, **{"encoder": encoder, **changed}))


@pytest.mark.parametrize("resume", [False, True])
def test_a_run_that_has_begun_starts_from_nothing_else(start, tmp_path, resume):
    train(replace(TINY, num_steps=3), tmp_path / "run", reporting=QUIET)
    with pytest.raises(OutputExistsError, match=r"\(init.*\)|already"):
        train(config_of(start), tmp_path / "run", resume=resume, reporting=QUIET)
    other = tmp_path / "other.pt"
    other.write_bytes(start.read_bytes())
    train(config_of(start, num_steps=3), tmp_path / "second", reporting=QUIET)
    with pytest.raises(OutputExistsError, match=r"\(init.*\)|already"):
        train(config_of(other), tmp_path / "second", resume=resume, reporting=QUIET)


def test_what_does_not_fit_is_refused_before_anything_is_written(start, tmp_path):
    config = config_of(start, model="SiT-Ti/8", encoder_depth=1)
    with pytest.raises(RepaError, match=r"start\.pt: tensor pos_embed is .* holds a SiT-Pico/8\.$"):
        train(config, tmp_path / "run", reporting=QUIET)
    with pytest.raises(RepaError, match="unknown model, file or folder"):
        train(config_of(tmp_path / "none.pt"), tmp_path / "run", reporting=QUIET)
    assert {path.name for path in (tmp_path / "run").iterdir()} == {"run.lock"}


@pytest.mark.parametrize("name", ["init", "init_sha256"])
@pytest.mark.parametrize("value", ["", 3, ["x"]])
def test_what_is_no_name_of_a_checkpoint_is_refused(name, value):
    with pytest.raises(SettingError, match=f"{name} must be a name") as refusal:
        TrainConfig.from_mapping({**asdict(TINY), name: value})
    assert refusal.value.field == name


def test_previews_and_samples_are_of_a_network_that_loads(start, tmp_path):
    last = train(config_of(start, **STILL), tmp_path / "run", reporting=QUIET)
    assert isinstance(load_model(last / "ema.safetensors").model, SiT)


@pytest.mark.parametrize("name", ["sit_release", "sit_train"])
def test_a_file_that_does_not_tell_enough_names_a_way_that_the_command_has(start, tmp_path, name):
    """There is no --dialect and no --num-heads of training."""
    config = config_of(GOLDENS_DIR / "dialects" / f"{name}.pt")
    with pytest.raises(
        CheckpointFormatError, match=r"ay --.*: write it anew with repa export"
    ) as e:
        train(config, tmp_path / "run", reporting=QUIET)
    assert "\n" not in str(e.value)
