import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from tiny_run import QUIET, TINY

from repa.data import open_training_data
from repa.encoders.encoder import load_encoder
from repa.errors import CheckpointFormatError, OutputExistsError, RepaError, UnknownNameError
from repa.training.loop import Interrupted, Reporting, batch_indices, make_batch, train, train_step
from repa.training.run_folder import locked
from repa.training.state import TrainState, latest_checkpoint, model_settings
from repa.training.targets import TargetFeatures


def tiny_state(config=TINY, target_dims=()):
    settings = model_settings(
        config,
        input_size=config.image_size,
        in_channels=3,
        num_classes=10,
        target_dims=list(target_dims),
    )
    return TrainState.create(config, settings, "cpu")


def file_bytes(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


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
    assert latest_checkpoint(out / "checkpoints").name == "step-0000003"
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


def test_a_run_is_not_overwritten_nor_continued_with_other_settings(tmp_path):
    out = tmp_path / "run"
    train(replace(TINY, num_steps=1), out, reporting=QUIET)
    with pytest.raises(OutputExistsError, match="--resume"):
        train(TINY, out, reporting=QUIET)
    with pytest.raises(OutputExistsError, match="learning_rate"):
        train(replace(TINY, learning_rate=5e-4), out, resume=True, reporting=QUIET)
    other = tmp_path / "other"
    other.mkdir()
    (other / "thesis.txt").write_text("precious")
    with pytest.raises(OutputExistsError, match="holds no run"):
        train(TINY, other, resume=True, reporting=QUIET)
    assert (other / "thesis.txt").read_text() == "precious"


def test_training_lowers_the_velocity_loss(tmp_path):
    losses = []
    reporting = Reporting(on_step=lambda step, values: losses.append(values["velocity"]))
    config = replace(TINY, num_steps=60, learning_rate=3e-3, batch_size=16)
    train(config, tmp_path / "run", reporting=reporting)
    # The untrained network predicts 0, whose loss is E|noise - data|^2 per value, about 1.6.
    assert np.mean(losses[:3]) > 1.4
    assert np.mean(losses[-10:]) < 0.8 * np.mean(losses[:3])


def test_every_image_is_seen_once_an_epoch_in_an_order_of_its_own():
    config = replace(TINY, batch_size=100)
    drawn = np.concatenate([batch_indices(config, 901, step) for step in range(19)])
    assert sorted(drawn[:901]) == sorted(drawn[901:1802]) == list(range(901))
    assert drawn[:901].tolist() != drawn[901:1802].tolist()
    assert not np.array_equal(batch_indices(replace(config, seed=1), 901, 0), drawn[:100])


def test_draws_of_a_step_depend_on_seed_and_step_alone():
    data = open_training_data("digits", 16)
    batches = [make_batch(TINY, data, TargetFeatures(None), step, "cpu") for step in (5, 5, 6)]
    assert torch.equal(batches[0].noise, batches[1].noise)
    assert not torch.equal(batches[0].noise, batches[2].noise)
    assert not torch.equal(batches[0].times, batches[2].times)


def test_labels_are_dropped_at_the_rate_asked_for():
    data = open_training_data("digits", 16)
    config = replace(TINY, batch_size=4000, label_dropout=0.1)
    labels = make_batch(config, data, TargetFeatures(None), 0, "cpu").labels
    # Binomial(4000, 0.1): mean 400, standard deviation 19; five of them.
    assert abs(int((labels == 10).sum()) - 400) < 95


def test_ema_follows_the_weights_by_its_decay():
    state = tiny_state()
    before = state.ema.final_layer.linear.bias.clone()
    with torch.no_grad():
        state.model.final_layer.linear.bias += 1
    state.update_ema(0.9)
    expected = 0.9 * before + 0.1 * (before + 1)
    torch.testing.assert_close(state.ema.final_layer.linear.bias, expected)


def test_warm_up_raises_the_learning_rate_linearly():
    config = replace(TINY, warmup_steps=4, learning_rate=0.5)
    state = tiny_state(config)
    data = open_training_data("digits", 16)
    rates = []
    for step in range(5):
        train_step(config, state, make_batch(config, data, TargetFeatures(None), step, "cpu"))
        rates.append(state.optimizer.param_groups[0]["lr"])
    assert rates == [0.125, 0.25, 0.375, 0.5, 0.5]


def test_the_learning_rate_falls_linearly_to_zero_over_the_last_steps():
    config = replace(TINY, num_steps=6, decay_steps=4, learning_rate=0.5)
    rates = [config.learning_rate_at(step) for step in range(7)]
    assert rates == [0.5, 0.5, 0.5, 0.375, 0.25, 0.125, 0.0]


def test_a_run_whose_learning_rate_falls_cannot_be_made_longer(tmp_path):
    config = replace(TINY, num_steps=2, decay_steps=1)
    train(config, tmp_path / "run", reporting=QUIET)
    with pytest.raises(OutputExistsError, match="num_steps"):
        train(replace(config, num_steps=3), tmp_path / "run", resume=True, reporting=QUIET)


def test_a_loss_that_is_not_finite_stops_the_run_and_changes_nothing():
    state = tiny_state()
    data = open_training_data("digits", 16)
    batch = make_batch(TINY, data, TargetFeatures(None), 0, "cpu")
    before = [p.clone() for p in state.model.parameters()]
    with pytest.raises(RepaError, match="the loss is nan at step 1"):
        train_step(TINY, state, replace(batch, data=batch.data * float("nan")))
    assert all(torch.equal(a, b) for a, b in zip(before, state.model.parameters(), strict=True))


def test_target_features_are_the_encoders_and_are_computed_once(tmp_path):
    data = replace(
        open_training_data("digits", 32),
        all_images=open_training_data("digits", 32).all_images[:70],
    )
    notes = []
    first = TargetFeatures.open("efficientnet-lite1", data, tmp_path, "cpu", notes.append)
    first.save(tmp_path)
    again = TargetFeatures.open("efficientnet-lite1", data, tmp_path, "cpu", notes.append)
    assert len(notes) == 1
    chosen = np.array([69, 2])
    expected = load_encoder("efficientnet-lite1")(data.images(chosen))
    for features in (first, again):
        torch.testing.assert_close(features(chosen, "cpu")[0], expected, atol=1e-4, rtol=1e-4)
    assert first.dims == [112]
    assert first.num_tokens == 64


def test_alignment_trains_the_projectors_and_the_blocks_before_them():
    config = replace(TINY, model="SiT-Pico/4", image_size=32, projector_dim=16)
    state = tiny_state(config, target_dims=[112])
    data = open_training_data("digits", 32)
    targets = TargetFeatures(torch.randn(data.count, 64, 112))
    values = [
        train_step(config, state, make_batch(config, data, targets, 0, "cpu"))["alignment"]
        for _ in range(20)
    ]
    assert values[-1] < values[0] - 0.01


def test_an_encoder_whose_grid_is_not_the_tokens_is_refused(tmp_path):
    config = replace(TINY, encoder="efficientnet-lite1")
    out = tmp_path / "run"
    out.mkdir()
    (out / "config.json").write_text(config.to_json())
    TargetFeatures(torch.zeros(901, 64, 112)).save(out)
    with pytest.raises(RepaError, match="64 features an image and 4 tokens"):
        train(config, out, resume=True, reporting=QUIET)


def test_checkpoints_hold_published_names_and_say_what_they_are(tmp_path):
    last = train(replace(TINY, num_steps=1), tmp_path / "run", reporting=QUIET)
    tensors = load_file(last / "ema.safetensors")
    assert "blocks.0.adaLN_modulation.1.weight" in tensors
    from safetensors import safe_open

    with safe_open(last / "ema.safetensors", "pt") as file:
        description = json.loads(file.metadata()["repa"])
    assert description["weights"] == "ema"
    assert description["step"] == 1
    assert description["dataset"] == "digits"
    assert description["model"]["patch_size"] == 8


def test_previews_are_contact_sheets_of_ten_by_ten(tmp_path):
    out = tmp_path / "run"
    train(replace(TINY, num_steps=1), out, reporting=QUIET)
    with Image.open(out / "previews/step-0000001.png") as sheet:
        assert sheet.size == (4 + 10 * 68, 4 + 10 * 82)


def test_bfloat16_training_stays_close_to_float32_without_being_it():
    data = open_training_data("digits", 16)
    batch = make_batch(TINY, data, TargetFeatures(None), 0, "cpu")
    losses = []
    for config in (TINY, replace(TINY, precision="bf16")):
        state = tiny_state(config)
        torch.manual_seed(0)
        for layer in (state.model.final_layer.linear, state.model.final_layer.adaLN_modulation[1]):
            torch.nn.init.normal_(layer.weight, std=0.2)
        losses.append(train_step(config, state, batch)["loss"])
    assert losses[0] != losses[1]
    assert losses[0] == pytest.approx(losses[1], rel=2e-2)


def test_a_mistyped_setting_leaves_nothing_behind(tmp_path):
    with pytest.raises(RepaError, match="did you mean 'SiT-Pico/8'"):
        train(replace(TINY, model="SiT-Pico/9"), tmp_path / "run", reporting=QUIET)
    assert not (tmp_path / "run").exists()


def test_damaged_settings_of_a_run_are_named(tmp_path):
    (tmp_path / "config.json").write_text('{"data": "dig')
    with pytest.raises(CheckpointFormatError, match=r"config\.json: holds no settings"):
        train(TINY, tmp_path, resume=True, reporting=QUIET)


def test_two_processes_cannot_train_in_one_folder(tmp_path):
    with (
        locked(tmp_path / "run"),
        pytest.raises(OutputExistsError, match="another process trains"),
    ):
        train(TINY, tmp_path / "run", reporting=QUIET)


def test_features_of_other_images_are_refused(tmp_path):
    TargetFeatures(torch.zeros(5, 64, 112)).save(tmp_path)
    with pytest.raises(CheckpointFormatError, match="5 images, the data set has 901"):
        data = open_training_data("digits", 32)
        TargetFeatures.open("efficientnet-lite1", data, tmp_path, "cpu", print)


def test_a_gradient_that_is_not_finite_stops_the_run_and_changes_nothing():
    state = tiny_state()
    data = open_training_data("digits", 16)
    batch = make_batch(TINY, data, TargetFeatures(None), 0, "cpu")
    before = [p.clone() for p in state.model.parameters()]
    state.model.final_layer.linear.weight.register_hook(lambda gradient: gradient * float("inf"))
    with pytest.raises(RepaError, match=r"the gradient's norm is (nan|inf)"):
        train_step(TINY, state, batch)
    assert all(torch.equal(a, b) for a, b in zip(before, state.model.parameters(), strict=True))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": "SiT-XXL/2"}, "unknown model 'SiT-XXL/2'; did you mean 'SiT-XL/2'"),
        ({"encoder_depth": 9}, "encoder_depth must be from 1 to 3"),
        ({"image_size": 20}, "patch_size 8 must divide input_size 20"),
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


def test_unknown_settings_of_a_stored_run_are_refused():
    from dataclasses import asdict

    from repa.training.settings import TrainConfig

    assert TrainConfig.from_mapping(asdict(TINY)) == TINY
    with pytest.raises(UnknownNameError, match="did you mean 'learning_rate'"):
        TrainConfig.from_mapping({**asdict(TINY), "learning_rat": 1})


CLI = [sys.executable, "-m", "repa_cli", "train"]
CLI_TINY = ["--model", "SiT-Pico/8", "--image-size", "16", "--encoder", "none"]
CLI_TINY += ["--encoder-depth", "1", "--batch-size", "8", "--warmup-steps", "0"]
CLI_TINY += ["--decay-steps", "0"]


def test_command_trains_resumes_and_refuses_to_overwrite(tmp_path):
    def run(*arguments):
        return subprocess.run(
            [*CLI, *CLI_TINY, "--out", "run", *arguments],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )

    done = run("--steps", "2", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["checkpoint"] == "run/checkpoints/step-0000002"
    again = run("--steps", "3")
    assert again.returncode == 1
    assert again.stderr.count("\n") == 1
    assert "--resume" in again.stderr
    command = [*CLI, "--out", "run", "--steps", "3", "--resume"]  # the rest is the run's own
    resumed = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert resumed.returncode == 0, resumed.stderr
    assert "step-0000003" in resumed.stdout
    nothing = [*CLI, "--out", "rnu", "--resume"]
    refused = subprocess.run(nothing, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert refused.returncode == 1 and "rnu holds no run to go on with" in refused.stderr
    assert not (tmp_path / "rnu").exists()
    typo = run("--step", "3", "--resume")
    assert typo.returncode == 2
    assert typo.stderr.count("\n") == 1


def test_command_killed_without_mercy_resumes_from_the_last_checkpoint(tmp_path):
    arguments = [*CLI, *CLI_TINY, "--steps", "40", "--checkpoint-every", "2", "--out", "run"]
    process = subprocess.Popen(arguments, cwd=tmp_path, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 60
    while not latest_checkpoint(tmp_path / "run/checkpoints") and time.monotonic() < deadline:
        time.sleep(0.01)
    process.kill()
    process.communicate()
    done = subprocess.run(
        [*arguments, "--resume"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    whole = train(replace(TINY, num_steps=40), tmp_path / "whole", reporting=QUIET)
    killed = latest_checkpoint(tmp_path / "run/checkpoints")
    ours, theirs = load_file(killed / "ema.safetensors"), load_file(whole / "ema.safetensors")
    for name, tensor in ours.items():
        torch.testing.assert_close(tensor, theirs[name], atol=1e-5, rtol=1e-4)
