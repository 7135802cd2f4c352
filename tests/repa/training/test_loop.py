import json
import os
import signal
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
from safetensors.torch import load_file
from tiny_run import QUIET, TINY, Unread, as_begun, file_bytes, tiny_state

import repa.training.loop as loop
import repa.training.outcomes as outcomes
import repa.training.run.opening as opening
from repa.data import open_training_data
from repa.errors import (
    CheckpointFormatError,
    OutputExistsError,
    RepaError,
    SettingError,
    UnknownNameError,
)
from repa.training.batch import Batches
from repa.training.loop import Interrupted, train
from repa.training.run.folder import checkpoints_of
from repa.training.settings import Reporting
from repa.training.step import read_measured, train_step
from repa.training.targets import StoredTargets


def weights(checkpoint, kind="model"):
    return load_file(checkpoint / f"{kind}.safetensors")


def equal(first, second):
    return first.keys() == second.keys() and all(first[n].equal(second[n]) for n in first)


def test_a_resumed_run_ends_with_the_bytes_of_an_uninterrupted_one(tmp_path):
    whole = train(TINY, tmp_path / "whole", reporting=QUIET)
    train(replace(TINY, num_steps=3), tmp_path / "parts", reporting=QUIET)
    resumed = train(TINY, tmp_path / "parts", resume=True, reporting=QUIET)
    assert resumed.name == whole.name == "step-0000006"
    assert file_bytes(resumed) == file_bytes(whole)
    steps = [json.loads(x) for x in (tmp_path / "parts/log.jsonl").read_text().splitlines()]
    assert [entry["step"] for entry in steps] == [1, 2, 3, 4, 5, 6]


def test_a_signal_ends_the_run_after_a_saved_step_and_resuming_loses_nothing(tmp_path):
    def stop_at_four(step, losses):
        if step == 4:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(Interrupted, match="after step 4"):
        train(TINY, tmp_path / "cut", reporting=replace(QUIET, on_step=stop_at_four))
    resumed = train(TINY, tmp_path / "cut", resume=True, reporting=QUIET)
    whole = train(TINY, tmp_path / "whole", reporting=QUIET)
    assert file_bytes(resumed) == file_bytes(whole)


def test_half_written_checkpoints_and_log_lines_are_ignored(tmp_path):
    out = tmp_path / "run"
    train(replace(TINY, num_steps=3), out, reporting=QUIET)
    (out / "checkpoints/.step-0000004.part").mkdir()
    with (out / "log.jsonl").open("a") as file:
        file.write('\n{"step": 4, "lo')
    assert checkpoints_of(out)[0].name == "step-0000003"
    train(replace(TINY, num_steps=4), out, resume=True, reporting=QUIET)
    entries = [json.loads(x)["step"] for x in (out / "log.jsonl").read_text().splitlines()]
    assert entries == [1, 2, 3, 4]


def test_steps_logged_after_the_last_checkpoint_are_logged_once(tmp_path):
    def crash_at_five(step, losses):
        if step == 5:
            raise RuntimeError("power cut")

    out = tmp_path / "run"
    with pytest.raises(RuntimeError, match="power cut"):
        train(TINY, out, reporting=replace(QUIET, on_step=crash_at_five))
    assert [path.name for path in (out / "checkpoints").iterdir()] == ["step-0000003"]
    train(TINY, out, resume=True, reporting=QUIET)
    entries = [json.loads(x)["step"] for x in (out / "log.jsonl").read_text().splitlines()]
    assert entries == [1, 2, 3, 4, 5, 6]
    names = sorted(path.name for path in (out / "checkpoints").iterdir())
    assert names == ["step-0000003", "step-0000006"]


def test_a_damaged_checkpoint_is_named(tmp_path):
    out = tmp_path / "run"
    last = train(replace(TINY, num_steps=3), out, reporting=QUIET)
    (last / "optimizer.safetensors").write_bytes(b"damaged")
    with pytest.raises(CheckpointFormatError, match="step-0000003"):
        train(TINY, out, resume=True, reporting=QUIET)


def test_training_lowers_the_velocity_loss(tmp_path):
    losses = []
    reporting = Reporting(on_step=lambda step, values: losses.append(values["velocity"]))
    config = replace(TINY, num_steps=60, learning_rate=3e-3, batch_size=16)
    train(config, tmp_path / "run", reporting=reporting)
    # The untrained network predicts 0, whose loss is E|noise - data|^2 per value, about 1.6.
    assert np.mean(losses[:3]) > 1.4
    assert np.mean(losses[-10:]) < 0.8 * np.mean(losses[:3])


def test_checkpoints_hold_published_names_and_say_what_they_are(tmp_path):
    config = replace(TINY, num_steps=1, path_type="cosine", encoder_depth=2, qk_norm=True)
    last = train(config, tmp_path / "run", reporting=QUIET)
    tensors = load_file(last / "ema.safetensors")
    assert "blocks.0.adaLN_modulation.1.weight" in tensors
    assert "blocks.0.attn.q_norm.weight" in tensors
    from safetensors import safe_open

    with safe_open(last / "ema.safetensors", "pt") as file:
        description = json.loads(file.metadata()["repa"])
    assert description["weights"] == "ema"
    assert description["step"] == 1
    assert description["dataset"] == "digits"
    assert description["path_type"] == "cosine"
    asked = {"patch_size": 8, "encoder_depth": 2, "qk_norm": True}
    assert description["model"].items() >= asked.items()


def test_a_mistyped_setting_leaves_nothing_behind(tmp_path):
    with pytest.raises(RepaError, match="did you mean 'SiT-Pico/8'"):
        train(replace(TINY, model="SiT-Pico/9"), tmp_path / "run", reporting=QUIET)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": "SiT-XXL/2"}, "unknown model 'SiT-XXL/2'; did you mean 'SiT-XL/2'"),
        ({"encoder_depth": 9}, "encoder_depth must be from 1 to 3"),
        ({"image_size": 20}, "image_size must be a multiple of 8 for SiT-Pico/8, got 20"),
    ],
)
def test_settings_that_make_no_network_are_refused(tmp_path, change, message):
    with pytest.raises(RepaError, match=message):
        train(replace(TINY, **change), tmp_path / "run", reporting=QUIET)


@pytest.mark.parametrize(
    "change",
    [{"num_steps": 0}, {"label_dropout": 1.5}, {"learning_rate": 0}, {"data": "digit"}],
)
def test_settings_out_of_range_are_refused(change):
    with pytest.raises(RepaError):
        replace(TINY, **change)


def test_stored_settings_of_a_run_must_be_known_and_complete():
    from dataclasses import asdict

    from repa.training.settings import TrainConfig

    assert TrainConfig.from_mapping(asdict(TINY)) == TINY
    with pytest.raises(UnknownNameError, match="did you mean 'learning_rate'"):
        TrainConfig.from_mapping({**asdict(TINY), "learning_rat": 1})
    with pytest.raises(RepaError, match=r"incomplete.*num_steps"):
        TrainConfig.from_mapping({"data": "digits", "model": TINY.model})


def test_a_run_is_not_overwritten_nor_continued_as_another(tmp_path):
    out = tmp_path / "run"
    train(replace(TINY, num_steps=1), out, reporting=QUIET)
    with pytest.raises(OutputExistsError, match="--resume"):
        train(TINY, out, reporting=QUIET)
    with pytest.raises(OutputExistsError, match="batch_size"):
        train(replace(TINY, batch_size=4), out, resume=True, reporting=QUIET)


def test_a_run_that_another_process_began_meanwhile_is_not_overwritten(tmp_path, monkeypatch):
    @contextmanager
    def late(out):
        with locked(out):
            (out / "config.json").write_text(as_begun(TINY))
            yield

    locked = opening.locked
    monkeypatch.setattr(opening, "locked", late)
    with pytest.raises(OutputExistsError, match="holds a run already"):
        train(TINY, tmp_path / "run", reporting=QUIET)


def test_a_changed_setting_holds_from_the_step_resumed_from(tmp_path):
    slower = replace(TINY, learning_rate=1e-4, weight_decay=0.5, ema_decay=0.5, label_dropout=0.9)
    out, notes = tmp_path / "run", []
    train(replace(TINY, num_steps=3), out, reporting=QUIET)
    reporting = replace(QUIET, on_note=notes.append)
    last = train(replace(slower, num_steps=6), out, resume=True, reporting=reporting)
    state = tiny_state()
    for step in range(6):
        config = TINY if step < 3 else slower
        if step == 3:
            state.optimizer.param_groups[0]["weight_decay"] = 0.5
        batches = Batches(config, open_training_data("digits", 16), StoredTargets([]), "cpu")
        train_step(config, state, [batches(step)])
    assert equal(weights(last), dict(state.model.state_dict()))
    assert equal(weights(last, "ema"), dict(state.ema.state_dict()))
    assert notes[0] == "resuming from step 3 of 6."
    assert notes[1].startswith("from step 4 on: num_steps 3 -> 6, label_dropout 0.1 -> 0.9, ")


@pytest.mark.parametrize(("able", "told"), [(False, 1), (True, 0)])
def test_a_cpu_that_is_slower_in_bf16_is_told_once(tmp_path, monkeypatch, able, told):
    notes, slow = (
        [],
        "precision bf16: this CPU has no instructions for it, and fp32 is faster here.",
    )
    monkeypatch.setattr("repa_base.device.computes_bf16", lambda device: able)
    reporting = replace(QUIET, on_note=notes.append)
    half = replace(TINY, num_steps=1, precision="bf16")
    train(half, tmp_path / "half", reporting=reporting)
    train(replace(TINY, num_steps=1), tmp_path / "whole", reporting=reporting)
    assert notes.count(slow) == told


def test_a_run_of_an_older_version_goes_on(tmp_path):
    # Such a folder has no history, and all its settings in config.json.
    out = tmp_path / "run"
    train(replace(TINY, num_steps=3), out, reporting=QUIET)
    assert not (out / "history.jsonl").exists()
    resumed = train(replace(TINY, learning_rate=1e-5), out, resume=True, reporting=QUIET)
    assert resumed.name == "step-0000006"
    assert json.loads((out / "history.jsonl").read_text())["from_step"] == 4


def test_a_run_made_longer_follows_the_fall_of_its_learning_rate_to_the_new_end(tmp_path):
    config = replace(TINY, num_steps=6, decay_steps=2, learning_rate=0.5)

    def stop(step, losses):
        raise RuntimeError("power cut")

    with pytest.raises(RuntimeError, match="power cut"):
        train(config, tmp_path / "run", reporting=replace(QUIET, on_step=stop))
    rates = []

    def look(step, losses):
        rates.append(state.optimizer.param_groups[0]["lr"])

    longer, state = replace(config, num_steps=7), tiny_state()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(opening.TrainState, "create", lambda *arguments: state)
        train(longer, tmp_path / "run", resume=True, reporting=replace(QUIET, on_step=look))
    assert rates == [0.5] * 6 + [0.25]
    changed = json.loads((tmp_path / "run/history.jsonl").read_text())["changed"]
    assert changed == {"num_steps": [6, 7]}


def test_a_step_left_out_counts_and_changes_nothing_else(tmp_path):
    every = replace(QUIET, checkpoint_every=1, keep_last=9)
    last = train(TINY, tmp_path / "run", skip=[4], reporting=every)
    folder = tmp_path / "run/checkpoints"
    third, fourth, fifth = (folder / f"step-000000{step}" for step in (3, 4, 5))
    for kind in ("model", "ema", "optimizer"):
        assert equal(weights(third, kind), weights(fourth, kind))
        assert not equal(weights(fourth, kind), weights(fifth, kind))
    assert json.loads((fourth / "state.json").read_text())["step"] == 4
    # The steps after it are the whole run's: same images, draws and learning rates.
    state, data = tiny_state(), open_training_data("digits", 16)
    for step in (0, 1, 2, 4, 5):
        state.step = step
        train_step(TINY, state, [Batches(TINY, data, StoredTargets([]), "cpu")(step)])
    assert equal(weights(last), dict(state.model.state_dict()))
    logged = [json.loads(x) for x in (tmp_path / "run/log.jsonl").read_text().splitlines()]
    assert [entry["step"] for entry in logged] == [1, 2, 3, 5, 6]


@pytest.mark.parametrize("skip", [4, 1])
def test_a_killed_run_leaves_the_same_steps_out_without_being_told_again(tmp_path, skip):
    def power_cut(step, losses):
        if step == 3:
            raise RuntimeError("power cut")

    whole = train(TINY, tmp_path / "whole", skip=[skip], reporting=QUIET)
    every = replace(QUIET, checkpoint_every=1, on_step=power_cut)
    with pytest.raises(RuntimeError, match="power cut"):
        train(TINY, tmp_path / "cut", skip=[skip], reporting=every)
    resumed = train(TINY, tmp_path / "cut", resume=True, reporting=QUIET)
    assert file_bytes(resumed) == file_bytes(whole)
    assert not equal(weights(whole), weights(train(TINY, tmp_path / "other", reporting=QUIET)))


def test_a_step_behind_the_run_cannot_be_left_out(tmp_path):
    train(replace(TINY, num_steps=3), tmp_path / "run", reporting=QUIET)
    with pytest.raises(SettingError, match="step 2 cannot be left out, only steps after 3"):
        train(TINY, tmp_path / "run", resume=True, skip=[2], reporting=QUIET)


def test_a_run_keeps_its_latest_checkpoints_and_those_asked_for(tmp_path):
    reporting = replace(QUIET, checkpoint_every=1, keep_every=3)
    train(replace(TINY, num_steps=7), tmp_path, reporting=reporting)
    names = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert names == [f"step-000000{step}" for step in (3, 6, 7)]
    assert Reporting().keep_last == 2 and Reporting().keep_every == 0


def test_no_checkpoint_goes_before_the_next_one_is_saved(tmp_path, monkeypatch):
    out = tmp_path / "run"
    train(replace(TINY, num_steps=3), out, reporting=replace(QUIET, keep_last=1))

    def full(*arguments):
        raise OSError(28, "disk full")

    monkeypatch.setattr("repa.training.run.state.save_file", full)
    with pytest.raises(OSError, match="disk full"):
        train(TINY, out, resume=True, reporting=replace(QUIET, keep_last=1))
    assert [path.name for path in (out / "checkpoints").iterdir()] == ["step-0000003"]


def test_the_device_is_waited_for_at_logs_and_checkpoints_alone(tmp_path, monkeypatch):
    reads, taken, told = [], [], []

    def reading(measured):
        reads.append(len(taken))
        return read_measured(measured)

    def unread(self, batches):
        with Unread():
            step(self, batches)

    step = loop._Loop.step
    monkeypatch.setattr(loop._Loop, "step", unread)
    monkeypatch.setattr(outcomes, "read_measured", reading)
    reporting = replace(
        QUIET,
        log_every=3,
        checkpoint_every=5,
        on_taken=taken.append,
        on_step=lambda step, losses: told.append(step),
    )
    train(replace(TINY, num_steps=9), tmp_path / "run", reporting=reporting)
    assert reads == [3, 5, 6, 9]
    assert taken == told == list(range(1, 10))
