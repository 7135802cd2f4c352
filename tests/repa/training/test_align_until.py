"""The alignment loss that is off from a step on: `--align-until`."""

import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file
from tiny_run import QUIET, TINY, file_bytes, numbered_data, stand_in_encoder, tiny_state

import repa.training.run.opening as opening
import repa.training.targets as targets
from repa.errors import SettingError
from repa.training.batch import Batches
from repa.training.loop import train
from repa.training.run.folder import read_run_config
from repa.training.step import train_step
from repa.training.targets import EncoderTargets, StoredTargets
from repa_base.checksums import unsealed

ALIGNED = replace(TINY, encoder="efficientnet-lite1", projector_dim=16, weight_decay=0.1)
STOPPED = replace(ALIGNED, align_until=4)
EVERY_STEP = replace(QUIET, checkpoint_every=1, keep_last=9)


@pytest.fixture
def shown(monkeypatch):
    """Train on numbered images with a stand-in encoder; return how many it is shown at a time."""
    shown, data = [], numbered_data(20)

    def load(name, device, *, precision):
        encoder = stand_in_encoder(name, precision=precision)

        def preprocess(images, grid_size):
            shown.append(len(images))
            return encoder.preprocess(images, grid_size)

        return replace(encoder, preprocess=preprocess)

    monkeypatch.setattr(targets, "load_encoder", load)
    monkeypatch.setattr(opening, "open_training_data", lambda name, size: data)
    return shown


def log_of(out):
    return [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]


def projectors_of(out, step):
    """Weights, averages and moments of a checkpoint's projectors, by file and name."""
    folder = out / f"checkpoints/step-{step:07d}"
    return {
        (file, name): tensor
        for file in ("model", "optimizer")
        for name, tensor in load_file(folder / f"{file}.safetensors").items()
        if "projectors." in name
    }


def test_the_last_step_with_the_loss_is_the_one_that_is_named(shown, tmp_path):
    train(ALIGNED, tmp_path / "always", reporting=QUIET)
    train(STOPPED, tmp_path / "until", reporting=QUIET)
    always, until = log_of(tmp_path / "always"), log_of(tmp_path / "until")
    names = ("step", "loss", "velocity", "alignment", "gradient_norm")
    assert [[e[n] for n in names] for e in until[:4]] == [[e[n] for n in names] for e in always[:4]]
    assert all(entry["alignment"] != 0 for entry in always)
    assert [entry["alignment"] for entry in until[4:]] == [0, 0]
    assert all(entry["loss"] == entry["velocity"] for entry in until[4:])


def test_projectors_stand_still_from_then_on_also_where_weights_decay(shown, tmp_path):
    train(STOPPED, tmp_path, reporting=EVERY_STEP)
    third, fourth, last = (projectors_of(tmp_path, step) for step in (3, 4, 6))
    assert all(torch.equal(fourth[key], last[key]) for key in fourth)
    assert not any(torch.equal(third[key], fourth[key]) for key in third)
    assert {key[1] for key in last} > {"step/projectors.0.0.weight", "projectors.0.4.bias"}


def test_the_other_weights_step_as_those_of_a_run_that_aligns_with_nothing():
    data = numbered_data()
    source, none = EncoderTargets(stand_in_encoder(), data, 2, "cpu"), StoredTargets([])
    config = replace(TINY, weight_decay=ALIGNED.weight_decay)
    stopped, plain = tiny_state(ALIGNED, [3]), tiny_state(config)
    plain.model.load_state_dict(stopped.model.state_dict(), strict=False)
    stopped.step = plain.step = 4
    train_step(STOPPED, stopped, [Batches(STOPPED, data, source, "cpu")(4)])
    train_step(config, plain, [Batches(config, data, none, "cpu")(4)])
    found = stopped.model.state_dict()
    assert all(torch.equal(found[n], tensor) for n, tensor in plain.model.state_dict().items())


def test_the_encoder_is_not_run_from_then_on(shown, tmp_path):
    train(STOPPED, tmp_path, reporting=QUIET, keep_features="nowhere")
    assert shown == [8] * 4


@pytest.mark.parametrize("keeping", ["memory", "nowhere"])
@pytest.mark.parametrize("step", [3, 4, 5])
def test_a_run_that_is_resumed_around_that_step_ends_with_the_same_bytes(
    shown, tmp_path, keeping, step
):
    kept = {"reporting": QUIET, "keep_features": keeping}
    whole = train(STOPPED, tmp_path / "whole", **kept)
    train(replace(STOPPED, num_steps=step), tmp_path / "parts", **kept)
    shown.clear()
    parts = train(STOPPED, tmp_path / "parts", resume=True, **kept)
    assert shown == ([8] if step == 3 and keeping == "nowhere" else [])
    assert file_bytes(parts) == file_bytes(whole)


def test_no_features_are_made_for_a_run_that_goes_on_after_that_step(shown, tmp_path):
    notes = []
    train(replace(STOPPED, num_steps=5), tmp_path, reporting=QUIET)
    (tmp_path / "target_features.safetensors").unlink()
    shown.clear()
    train(STOPPED, tmp_path, resume=True, reporting=replace(QUIET, on_note=notes.append))
    assert shown == [] and not (tmp_path / "target_features.safetensors").exists()
    assert not any("computing" in note for note in notes)


def test_a_run_may_be_told_later_when_to_stop_and_its_history_says_so(shown, tmp_path):
    notes = []
    train(replace(ALIGNED, num_steps=3), tmp_path, reporting=QUIET)
    changed = replace(ALIGNED, align_until=5)
    train(changed, tmp_path, resume=True, reporting=replace(QUIET, on_note=notes.append))
    assert [entry["alignment"] != 0 for entry in log_of(tmp_path)] == [True] * 5 + [False]
    assert read_run_config(tmp_path) == changed
    entry = unsealed(json.loads((tmp_path / "history.jsonl").read_text()))
    assert entry["changed"]["align_until"] == [0, 5]
    assert any("align_until 0 -> 5" in note for note in notes)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("align_until", 3),
        ("projector", "conv"),
        ("normalise_targets", "spatial"),
        ("encoder_precision", "bf16"),
    ],
)
def test_what_says_how_to_align_is_refused_where_there_is_no_encoder(name, value):
    with pytest.raises(SettingError, match=f"{name} {value} needs an encoder") as refusal:
        replace(TINY, **{name: value})
    assert refusal.value.field == name
