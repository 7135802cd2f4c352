import json
import re
import shlex
import signal
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from pictures import class_folders
from safetensors.torch import load_file
from tiny_run import QUIET, TINY
from tqdm import tqdm

import repa.training.loop as loop
import repa.training.planning.timing as timing
import repa.training.previews as previews
import repa.training.run.opening as opening
import repa.training.watching.validation as validation
import repa_cli.train as train_command
from repa.data import load_digits, open_training_data
from repa.generation.settings import SampleConfig
from repa.training.batch import EpochOrder
from repa.training.loop import train
from repa.training.run.folder import latest_checkpoint
from repa.training.run.state import step_of
from repa.training.settings import Reporting, TrainConfig
from repa_base.settings import flag_of, rules

CLI = [sys.executable, "-m", "repa_cli", "train"]
CLI_TINY = ["--model", "SiT-Pico/8", "--image-size", "16", "--encoder", "none"]
CLI_TINY += ["--encoder-depth", "1", "--batch-size", "8", "--warmup-steps", "0"]
CLI_TINY += ["--decay-steps", "0"]


def names(folder):
    return sorted(path.name for path in (folder / "checkpoints").iterdir())


def files_of(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def training(repa, tmp_path, monkeypatch):
    """Run `repa train` with a tiny network in a folder of its own."""
    monkeypatch.setattr(previews, "_ROWS", 1)
    monkeypatch.setattr(previews, "_STEPS", 1)
    monkeypatch.chdir(tmp_path)
    return lambda *arguments: repa("train", *CLI_TINY, "--out", "run", *arguments)


def test_command_trains_resumes_and_refuses_to_overwrite(training, repa, tmp_path):
    code, out, error = training("--steps", 2, "--json")
    assert code == 0, error
    assert json.loads(out)["checkpoint"] == "run/checkpoints/step-0000002"
    code, _, error = training("--steps", 3)
    assert code == 1
    assert error.count("\n") == 1 and "--resume" in error
    # The rest is the run's own.
    code, out, error = repa("train", "--out", "run", "--steps", 3, "--resume")
    assert code == 0, error
    assert "step-0000003" in out
    code, _, error = repa("train", "--out", "rnu", "--resume")
    assert code == 1 and "rnu holds no run to go on with" in error
    assert not (tmp_path / "rnu").exists()
    code, _, error = training("--step", 3, "--resume")
    assert code == 2 and error.count("\n") == 1


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
    assert names(tmp_path / "run") == ["step-0000038", "step-0000040"]
    whole = train(replace(TINY, num_steps=40), tmp_path / "whole", reporting=QUIET)
    killed = latest_checkpoint(tmp_path / "run/checkpoints")
    ours, theirs = load_file(killed / "ema.safetensors"), load_file(whole / "ema.safetensors")
    for name, tensor in ours.items():
        torch.testing.assert_close(tensor, theirs[name], atol=1e-5, rtol=1e-4)


def advised(error):
    """The commands that a message advises, as they would be typed."""
    return [shlex.split(command)[1:] for command in re.findall(r"repa train [^;\n]*", error)]


@pytest.fixture
def damaged_images(monkeypatch):
    """Let two images of the digits be damaged, those of steps 4 and 6 of a tiny run."""

    class DamagedData:
        def __getattr__(self, name):
            return getattr(data, name)

        def batch(self, indices, generator):
            batch = data.batch(indices, generator)
            bad = torch.from_numpy(np.isin(indices, damaged))
            return replace(batch, inputs=batch.inputs.where(~bad[:, None, None, None], torch.nan))

    data = open_training_data("digits", 16)
    order = EpochOrder(TINY.seed, data.count)(np.arange(8 * TINY.batch_size))
    damaged = [order[3 * TINY.batch_size], order[5 * TINY.batch_size + 2]]
    monkeypatch.setattr(opening, "open_training_data", lambda name, size: DamagedData())


def log_of(run):
    return [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]


def test_a_run_that_meets_two_damaged_images_leaves_their_steps_out_and_says_so(
    training, tmp_path, damaged_images
):
    code, _, error = training("--steps", 8, "--checkpoint-every", 5, "--log-every", 3)
    assert code == 0, error
    assert "the loss or its gradient was not finite at step 4: left out." in error
    assert "the loss or its gradient was not finite at step 6: left out." in error
    entries = [(e["step"], e.get("not_finite"), "loss" in e) for e in log_of(tmp_path / "run")]
    assert entries == [(3, None, True), (6, [4, 6], False), (8, None, True)]
    # The weights are those of a run whose steps 4 and 6 are left out because that is asked for.
    skipped = train(replace(TINY, num_steps=8), tmp_path / "other", skip=[4, 6], reporting=QUIET)
    for name in ("model", "ema", "optimizer"):
        ours, theirs = (
            load_file(folder / f"{name}.safetensors")
            for folder in (latest_checkpoint(tmp_path / "run/checkpoints"), skipped)
        )
        assert all(torch.equal(ours[key], theirs[key]) for key in theirs), name


@pytest.mark.parametrize(
    ("option", "value"),
    [("--patience", "20"), ("--learning-rate", "0.0005"), ("--precision", "fp32")],
)
def test_a_run_out_of_patience_stops_before_it_saves_and_every_way_on_leads_to_the_end(
    training, repa, tmp_path, damaged_images, monkeypatch, option, value
):
    rare = ("--steps", 7, "--checkpoint-every", 2, "--log-every", 100, "--precision", "bf16")
    code, _, error = training(*rare, "--patience", 2)
    assert code == 1
    assert "error: the loss or its gradient was not finite at steps 4, 6. Go on" in error
    # What was saved after step 4 told of it first; step 6 is not saved.
    assert names(tmp_path / "run") == ["step-0000002", "step-0000004"]
    (command,) = [command for command in advised(error) if option in command]
    assert command[-2:] == [option, value]
    code, _, error = repa(*command)
    assert code == 0, error
    assert names(tmp_path / "run")[-1] == "step-0000007"


def test_command_keeps_the_checkpoints_asked_for(training, tmp_path):
    every = ("--checkpoint-every", 1)
    assert training("--steps", 5, *every, "--keep-last", 1, "--keep-every", 2)[0] == 0
    assert names(tmp_path / "run") == ["step-0000002", "step-0000004", "step-0000005"]


def test_command_leaves_out_several_steps(training, tmp_path):
    code, _, error = training("--steps", 3, "--skip", 1, "--skip", 3)
    assert code == 0 and "without the update of step 1, without the update of step 3" in error
    code, _, error = training("--steps", 4, "--resume", "--skip", 2)
    assert code == 2 and "--skip" in error and "only steps after 3 and up to 4" in error


def test_a_run_cannot_be_given_fewer_steps_than_it_has_taken(training, tmp_path):
    assert training("--steps", 3)[0] == 0
    before = files_of(tmp_path / "run")
    code, out, error = training("--steps", 2, "--resume")
    assert code == 2 and not out and error.count("\n") == 1
    assert "--steps" in error and "at least 3" in error
    assert files_of(tmp_path / "run") == before
    code, out, error = training("--steps", 3, "--resume")
    assert code == 0 and "step-0000003" in out
    assert files_of(tmp_path / "run") == before


def test_settings_damaged_in_the_folder_are_not_said_to_be_mistyped(training, tmp_path):
    assert training("--steps", 1)[0] == 0
    config = tmp_path / "run/config.json"
    for change in ({"learning_rate": -1}, {"learning_rat": 1}):
        config.write_text(json.dumps({**json.loads(config.read_text()), **change}))
        code, _, error = training("--steps", 2, "--resume")
        assert code == 1 and error.count("\n") == 1 and "run/config.json" in error


@pytest.mark.parametrize("size", [8, 200])
def test_images_whose_grid_the_encoder_does_not_give_are_an_error_of_their_size(
    training, tmp_path, size
):
    aligned = ("--encoder", "efficientnet-lite1", "--model", "SiT-Ti/4")
    code, out, error = training("--steps", 1, *aligned, "--image-size", size)
    assert code == 2 and not out and error.count("\n") == 1
    assert "--image-size" in error and f"not {size // 4} x {size // 4}" in error
    assert "images of 16 to 128 pixels would do" in error
    assert not list(tmp_path.glob("run/*.json"))


@pytest.mark.parametrize(
    ("encoder", "said"),
    [
        ("dinov2-vit-x", "did you mean 'dinov2-vit-"),
        ("efficientnet-lite1,mocov3-vit-b", "timm has no network of MoCo v3"),
        ("timm:no_such_network", "has no network 'no_such_network'"),
    ],
)
def test_an_encoder_that_there_is_not_is_an_error_of_its_option(training, tmp_path, encoder, said):
    code, out, error = training("--steps", 1, "--encoder", encoder)
    assert code == 2 and not out and error.count("\n") == 1
    assert "--encoder" in error and said in error
    assert not list(tmp_path.glob("run/*.json"))


def test_a_job_that_is_queued_again_starts_a_run_and_goes_on_with_the_settings_of_the_run(
    training, repa, tmp_path
):
    again = ("train", "--preset", "digits", "--out", "run", "--resume")
    code, _, error = training("--preset", "digits", "--resume", "--steps", 2)
    assert code == 0 and "--preset" not in error
    assert training("--resume", "--steps", 3, "--learning-rate", 5e-4)[0] == 0
    before = files_of(tmp_path / "run")
    code, _, error = repa(*again)
    assert code == 0, error
    assert "a preset only starts a run" in error
    assert files_of(tmp_path / "run") == before


def test_the_command_that_an_interrupted_run_names_goes_on_with_it(
    training, repa, tmp_path, monkeypatch
):
    def step(*arguments, **options):
        signal.raise_signal(signal.SIGINT)
        return train_step(*arguments, **options)

    train_step = loop.train_step
    with monkeypatch.context() as patch:
        patch.setattr(loop, "train_step", step)
        code, _, error = training("--steps", 3, "--out", "my run; it's new")
    assert code == 130
    (line,) = [line for line in error.splitlines() if "go on with: " in line]
    code, out, error = repa(*shlex.split(line.partition("go on with: repa ")[2]))
    assert code == 0, error
    assert "step-0000003" in out


def test_what_a_run_writes_has_the_defaults_of_the_library(training, monkeypatch):
    given = []

    def stop(*arguments, reporting, **options):
        given.append(reporting)
        raise loop.RepaError("enough")

    monkeypatch.setattr(loop, "train", stop)
    training("--steps", 1)
    training("--steps", 1, "--log-every", 7)
    for name in rules(Reporting):
        assert getattr(given[0], name) == getattr(Reporting(), name)
    assert given[1].log_every == 7


def mistyped(settings):
    """Values of every setting that its rule excludes: option and value."""
    for name, (declared, rule) in rules(settings).items():
        flag = flag_of(settings, name)
        if rule.low is not None:
            yield flag, rule.low - 1
        if rule.high is not None:
            yield flag, rule.high + 1
        if rule.above is not None:
            yield flag, rule.above
        if rule.choices:
            yield flag, "nonsense"
        if declared.type in (int, float):
            yield from ((flag, value) for value in ("many", "nan", "inf"))


@pytest.mark.parametrize(
    ("flag", "value"),
    [
        *mistyped(TrainConfig),
        *mistyped(Reporting),
        ("--model", "SiT-XXL/2"),
        ("--image-size", 20),  # no multiple of the patch
        ("--encoder-depth", 9),
        ("--preset", "digit"),
        ("--device", "gpu"),
        ("--skip", 0),
        ("--skip", 9),
    ],
)
def test_whatever_is_mistyped_in_training_has_exit_code_2_and_names_its_option(
    training, tmp_path, flag, value
):
    code, out, error = training("--steps", 2, flag, value)
    assert code == 2
    assert not out and error.count("\n") == 1 and flag in error
    assert not list(tmp_path.glob("run/*.json"))


@pytest.mark.parametrize(
    ("flag", "value"),
    [
        *mistyped(SampleConfig),
        ("--interval", "0.9,0.1"),
        ("--interval", "0.5"),
        ("--labels", "-1"),
        ("--labels", "1,x"),
        ("--out", "samples.png"),
        ("--model", "digit"),
        ("--device", "gpu"),
    ],
)
def test_whatever_is_mistyped_in_sampling_has_exit_code_2_and_names_its_option(
    repa, tmp_path, monkeypatch, flag, value
):
    monkeypatch.chdir(tmp_path)
    code, out, error = repa("sample", "--num", 1, f"{flag}={value}")
    assert code == 2
    assert not out and error.count("\n") == 1 and flag in error
    assert not list(tmp_path.iterdir())


def test_a_damaged_checkpoint_is_one_line_and_the_command_that_it_offers_leads_to_the_end(
    training, repa, tmp_path
):
    assert training("--steps", 6, "--checkpoint-every", 3)[0] == 0
    whole = files_of(tmp_path / "run/checkpoints/step-0000006")
    damaged = tmp_path / "run/checkpoints/step-0000006/optimizer.safetensors"
    content = damaged.read_bytes()
    damaged.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    for _ in range(2):  # nothing was changed by being told
        code, out, error = repa("train", "--out", "run", "--resume")
        assert code == 1 and not out and error.count("\n") == 1
        assert "step-0000006 is damaged: " in error and "optimizer.safetensors" in error
    (command,) = advised(error)
    assert command[-2:] == ["--from-step", "3"]
    code, out, error = repa(*command)
    assert code == 0, error
    assert "later checkpoints are in run/set-aside" in error
    assert files_of(tmp_path / "run/checkpoints/step-0000006") == whole
    assert repa("train", "--out", "run", "--resume")[0] == 0


@pytest.mark.parametrize(("arguments", "code"), [((), 2), (("--resume",), 2)])
def test_a_step_to_go_on_from_that_is_none_is_mistyped(training, arguments, code):
    assert training("--steps", 2)[0] == 0
    found, _, error = training("--steps", 2, *arguments, "--from-step", 1)
    assert found == code and error.count("\n") == 1 and "--from-step" in error


def test_a_finished_run_made_longer_ends_as_a_run_of_that_length_from_the_start(
    training, repa, tmp_path
):
    assert training("--steps", 3)[0] == 0
    code, _, error = repa("train", "--out", "run", "--resume", "--steps", 7)
    assert code == 0, error
    assert "num_steps 3 -> 7" in error
    assert training("--steps", 7, "--out", "whole")[0] == 0
    ours, theirs = (tmp_path / f"{run}/checkpoints/step-0000007" for run in ("run", "whole"))
    assert [p.read_bytes() for p in sorted(ours.iterdir())] == [
        p.read_bytes() for p in sorted(theirs.iterdir())
    ]


def test_a_run_whose_rate_fell_says_why_it_cannot_just_be_made_longer_and_what_can(
    training, repa, tmp_path
):
    assert training("--steps", 4, "--decay-steps", 3)[0] == 0
    longer = ("train", "--out", "run", "--resume", "--steps", 8)
    code, _, error = repa(*longer)
    assert code == 2 and error.count("\n") == 1
    assert "--steps" in error and "would jump to 0.001" in error and "--decay-steps 0" in error
    code, out, error = repa(*longer, "--decay-steps", 0)
    assert code == 0, error
    assert "step-0000008" in out


def test_the_note_on_a_rate_that_is_never_reached_advises_what_reaches_it(training, tmp_path):
    schedule = ("--warmup-steps", 20, "--decay-steps", 30)
    code, _, error = training("--steps", 10, *schedule)
    assert code == 0
    (line,) = [line for line in error.splitlines() if "learning rate comes to" in line]
    logged = [json.loads(x) for x in (tmp_path / "run/log.jsonl").read_text().splitlines()]
    assert all(0 < entry["learning_rate"] < 1e-3 for entry in logged)
    options = re.findall(r"(--(?:warmup|decay)-steps) (\d+)", line)
    advice = [part for option in options for part in option]
    code, _, error = training("--steps", 10, *advice, "--out", "other", "--log-every", 1)
    assert code == 0 and "learning rate comes to" not in error
    logged = [json.loads(x) for x in (tmp_path / "other/log.jsonl").read_text().splitlines()]
    assert max(entry["learning_rate"] for entry in logged) == 1e-3


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["INT", "TERM"]
)
def test_a_signal_ends_the_command_saved_with_the_code_of_the_signal(
    training, tmp_path, monkeypatch, number, code
):
    def step(*arguments, **options):
        signal.raise_signal(number)
        return train_step(*arguments, **options)

    train_step = loop.train_step
    monkeypatch.setattr(loop, "train_step", step)
    found, out, error = training("--steps", 3)
    assert found == code and not out
    assert "stopped after step 1, which is saved" in error.splitlines()[-1]
    assert names(tmp_path / "run") == ["step-0000001"]


def test_a_state_of_odd_types_and_a_binary_log_are_no_traceback(training, repa, tmp_path):
    assert training("--steps", 2, "--checkpoint-every", 1)[0] == 0
    (tmp_path / "run/log.jsonl").write_bytes(bytes(range(256)) * 9)
    assert training("--steps", 3, "--resume")[0] == 0
    state = tmp_path / "run/checkpoints/step-0000003/state.json"
    state.write_text('{"format": 1, "step": {"a": [3]}, "config": 7}')
    code, _, error = training("--steps", 4, "--resume")
    assert code == 1 and error.count("\n") == 1 and "step-0000003 is damaged" in error


def test_the_bar_keeps_its_length_beside_all_that_is_said_in_120_columns():
    losses = {"loss": "12.345", "align": "-0.999", "grad": "123.456", "img/s": "12345"}
    postfix = "".join(f", {name}={value}" for name, value in losses.items())
    shown = tqdm.format_meter(
        399_999,
        400_000,
        360_000,
        ncols=120,
        prefix="training",
        unit=" steps",
        bar_format=train_command._BAR,
        postfix=postfix.removeprefix(", "),
    )
    assert shown.count("█") + shown.count("▉") >= 18 and shown.endswith("img/s=12345]")
    assert len(shown) <= 120


def test_a_preview_says_that_it_is_being_drawn(training, monkeypatch):
    told = []

    def bars():
        return lambda name, done, total: told.append((name, done, total))

    monkeypatch.setattr(train_command, "progress_bars", bars)
    assert training("--steps", 2)[0] == 0
    assert {(name, total) for name, _, total in told} == {("preview of step 2", 100)}
    assert told[0][1] == 0 and told[-1][1] == 100
    told.clear()
    assert training("--steps", 2, "--out", "other", "--preview-every", 0)[0] == 0
    assert not told


def test_command_starts_a_run_from_another_one_and_says_what_is_made_anew(training, repa, tmp_path):
    code, _, error = training("--steps", 1)
    assert code == 0, error
    start = ["--init", "run", "--image-size", 32, "--steps", 1, "--out", "finer"]
    code, out, error = training(*start)
    assert code == 0 and "finer/checkpoints/step-0000001" in out
    assert "starting from run (SHA-256 " in error
    assert "position embedding made anew (4 x 4 tokens, not 2 x 2)" in error
    code, out, error = training(*start, "--resume", "--steps", 2, "--init", "other")
    assert code == 1 and not out and error.count("\n") == 1 and "other settings (init)" in error
    code, _, error = repa("train", "--out", "finer", "--resume", "--steps", 2)
    assert code == 0 and "starting from" not in error, error


@pytest.mark.parametrize(
    ("options", "code", "said"),
    [
        (["--init", "runn"], 2, "unknown model, file or folder 'runn'"),
        (["--init", "run", "--model", "SiT-Ti/8"], 1, "tensor pos_embed is"),
        (["--init", ""], 2, "--init"),
        (["--align-until", 3], 2, "--align-until"),
        (["--projector", "conv"], 2, "--projector"),
        (["--normalise-targets", "spatial"], 2, "--normalise-targets"),
    ],
)
def test_a_start_or_alignment_that_cannot_be_is_an_error_in_one_line(
    training, tmp_path, options, code, said
):
    training("--steps", 1)
    found, out, error = training("--steps", 1, "--out", "second", *options)
    assert found == code and not out and error.count("\n") == 1 and said in error
    assert not list(tmp_path.glob("second/*.json"))


def test_a_file_of_settings_beats_the_preset_and_what_is_typed_beats_the_file(
    training, repa, tmp_path
):
    text = "[optimizer]\nlearning_rate = 2e-4\nbatch_size = 3\n[run]\nnum_steps = 1\nseed = 5\n"
    (tmp_path / "my.toml").write_text(text + "[reporting]\nlog_every = 1\n")
    code, _, error = training("--config", "my.toml", "--seed", 6)
    assert code == 0, error
    stored = json.loads((tmp_path / "run/config.json").read_text())
    assert stored["run"] == {"num_steps": 1, "seed": 6}
    assert stored["optimizer"]["learning_rate"] == 2e-4
    assert stored["optimizer"]["batch_size"] == 8  # typed
    assert (tmp_path / "run/log.jsonl").read_text().count("\n") == 1
    code, _, error = repa("train", "--config", "my.toml", "--out", "run", "--resume")
    assert code == 1 and error.count("\n") == 1 and "other settings (" in error
    assert "seed" in error and "batch_size" in error


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[optimizer]\nlearning_rat = 1", "did you mean optimizer.learning_rate?"),
        ('preset = "repa-xl"', "did you mean 'repa-xl2'"),
        ('preset = "repa-b2"', "prepared set of your own"),
        ("[optimizer]\nlearning_rate = 0", "my.toml: [optimizer] learning_rate must be above 0"),
    ],
)
def test_a_file_of_settings_that_cannot_be_meant_is_mistyped(
    repa, tmp_path, monkeypatch, text, said
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my.toml").write_text(text)
    code, out, error = repa("train", "--config", "my.toml")
    assert code == 2 and not out and error.count("\n") == 1 and said in error
    assert [path.name for path in tmp_path.iterdir()] == ["my.toml"]
    assert repa("train", "--config", "none.toml")[0] == 2


def test_a_dry_run_tells_settings_sizes_and_time_and_writes_nothing(
    training, tmp_path, monkeypatch
):
    monkeypatch.setattr(timing, "_ENOUGH", 0.05)
    code, out, error = training("--steps", 9, "--dry-run", "--validate-every", 3)
    assert code == 0, error
    rows = dict(re.split("  +", line, maxsplit=1) for line in out.splitlines() if "  " in line)
    assert rows["run.num_steps"] == "9" and rows["optimizer.batch_size"] == "8"
    assert rows["reporting.validate_every"] == "3" and rows["parameters"] == "0.2 million"
    assert rows["steps an epoch"] == "112.6" and rows["a checkpoint"].endswith("MB")
    assert re.fullmatch(r"[\d.e-]+ s, the fastest of \d+ on 8 at once", rows["a step"])
    assert rows["times"] == "estimated from what this machine did just now"
    assert not list(tmp_path.iterdir())
    code, out, _ = training("--steps", 9, "--dry-run", "--json", "--accumulate", 3)
    assert code == 2 and not out  # 8 images cannot be divided
    code, out, _ = training("--steps", 9, "--dry-run", "--json", "--accumulate", 4)
    assert json.loads(out)["share"] == 2 and not list(tmp_path.iterdir())


def test_a_run_is_judged_on_the_way_and_the_log_and_the_plot_show_it(
    training, repa, tmp_path, monkeypatch
):
    monkeypatch.setattr(validation, "NUM_IMAGES", 8)
    monkeypatch.setenv("REPA_CACHE", str(tmp_path / "cache"))
    np.savez(tmp_path / "few.npz", load_digits("heldout", 16)[0][:12])
    judged = ("--validate-every", 2, "--eval-every", 4, "--eval-num", 10, "--eval-ref", "few.npz")
    code, _, error = training("--steps", 3, *judged, "--log-every", 1)
    assert code == 0, error
    log = [json.loads(line) for line in (tmp_path / "run/log.jsonl").read_text().splitlines()]
    held = [entry for entry in log if "held_out" in entry]
    metrics = [entry for entry in log if "metrics" in entry]
    assert [entry["step"] for entry in held] == [2, 3]
    assert [(entry["step"], entry["metrics_of"]) for entry in metrics] == [(3, 10)]
    assert all(entry["processes"] == 1 for entry in log if "loss" in entry)
    code, out, error = repa("plot", "run", "--out", "c.png", "--json")
    assert code == 0, error
    assert json.loads(out)["panels"][:2] == ["velocity loss", "FD-lite0"]
    # What was not done when the run was stopped is done when it goes on, and no more.
    (tmp_path / "run/log.jsonl").write_text("".join(json.dumps(e) + "\n" for e in log[:-1]))
    code, _, error = repa("train", "--out", "run", "--resume", *judged)
    again = [json.loads(line) for line in (tmp_path / "run/log.jsonl").read_text().splitlines()]
    assert code == 0 and again == log


@pytest.mark.parametrize(
    ("arguments", "option", "said"),
    [
        (["--validate-every", 2], "--validate-every", "none: prepare the data with"),
        (["--eval-every", 2], "--eval-every", "needs a reference"),
    ],
)
def test_what_cannot_be_judged_is_refused_before_a_run_begins(
    training, tmp_path, arguments, option, said
):
    class_folders(tmp_path / "mine")
    code, out, error = training("--data", "mine", "--steps", 2, *arguments)
    assert code == 2 and not out and error.count("\n") == 1
    assert option in error and said in error
    assert not list(tmp_path.glob("run/*.json"))


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["nothing", "--out", "c.png"], 1, "nothing holds no run (no such folder)"),
        (["empty", "--out", "c.png"], 1, "empty holds no run (no config.json in it)"),
        (["empty", "--out", "c.jpg"], 1, "must end in .png"),
        (["--out", "c.png"], 2, "'runs'"),
        (["empty"], 2, "--out"),
    ],
)
def test_a_plot_of_what_is_no_run_is_one_line(repa, tmp_path, monkeypatch, arguments, code, said):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    found, out, error = repa("plot", *arguments)
    assert found == code and not out and error.count("\n") == 1 and said in error
    assert not (tmp_path / "c.png").exists()


def test_processes_that_are_told_to_end_save_together_and_the_run_goes_on(tmp_path):
    arguments = [*CLI, *CLI_TINY, "--out", "run", "--log-every", "1", "--preview-every", "0"]
    process = subprocess.Popen(
        [*arguments, "--steps", "100000", "--processes", "2"],
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 120
    while not (tmp_path / "run/log.jsonl").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    error = process.communicate(timeout=120)[1]
    assert process.returncode == 143, error
    assert all(line.startswith("repa: ") for line in error.splitlines()), error
    (line,) = [line for line in error.splitlines() if "which is saved; go on with" in line]
    assert line.endswith("--out run --resume --processes 2")
    last = latest_checkpoint(tmp_path / "run/checkpoints")
    assert f"after step {step_of(last)}, which" in line
    # Any number of processes reads it.
    steps = ["--steps", str(step_of(last) + 1), "--resume"]
    done = subprocess.run(
        [*arguments, *steps], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
