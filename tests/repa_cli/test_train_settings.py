"""What is typed for `repa train`, or stands in a file: what holds, and what is refused."""

import json
import re

import pytest

import repa.training.loop as loop
from repa.generation.settings import SampleConfig
from repa.training.settings import Reporting, TrainConfig
from repa.training.settings.sections import SECTIONS
from repa_base.settings import flag_of, rules


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
        ("--grid", "sheet.jpg"),
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


@pytest.mark.parametrize(
    ("options", "code", "said"),
    [
        (["--init", "runn"], 2, "unknown model, file or folder 'runn'"),
        (["--init", "run", "--model", "SiT-Ti/8"], 1, "tensor pos_embed is"),
        (["--init", ""], 2, "--init"),
        (["--align-until", 3], 2, "--align-until"),
        (["--projector", "conv"], 2, "--projector"),
        (["--projector-dim", 9], 2, "--projector-dim"),
        (["--alignment-weight", 0.1], 2, "--alignment-weight"),
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
        ('[model]\nmodel = "SiT-XXL/2"', "my.toml: [model] model: unknown model 'SiT-XXL/2'"),
        ('[alignment]\nencoder = "dinov2-vit-x"', "my.toml: [alignment] encoder: unknown"),
        ("[alignment]\nencoder_depth = 99", "my.toml: [alignment] encoder_depth must be"),
        ('[data]\ndata = "digit"', "my.toml: [data] data: no data set"),
        ("[optimizer]\nbatch_size = 7\naccumulate = 2", "my.toml: [optimizer] batch_size 7 cannot"),
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


def test_what_is_typed_ends_what_the_file_says_of_aligning_and_evaluating(training, tmp_path):
    text = '[alignment]\nprojector = "conv"\n[reporting]\neval_every = 1\neval_num = 200\n'
    (tmp_path / "my.toml").write_text(text)
    given = ("--config", "my.toml", "--steps", 1, "--encoder", "none")
    code, _, error = training(*given, "--eval-every", 0)
    assert code == 0, error
    stored = json.loads((tmp_path / "run/reporting.json").read_text())
    assert stored["eval_every"] == 0 and stored["eval_num"] == Reporting.eval_num


def test_what_reads_ahead_has_no_effect_on_a_dry_run(training):
    code, out, error = training("--steps", 1, "--dry-run", "--workers", 2)
    assert code == 2 and not out and error.count("\n") == 1
    assert "--workers: has no effect with --dry-run" in error


def test_a_dry_run_tells_settings_sizes_and_time_and_writes_nothing(
    training, tmp_path, monkeypatch
):
    monkeypatch.setattr("repa_base.device.ENOUGH", 0.05)
    code, out, error = training("--steps", 9, "--dry-run", "--validate-every", 3)
    assert code == 0, error
    rows = dict(re.split("  +", line, maxsplit=1) for line in out.splitlines() if "  " in line)
    assert rows["run.num_steps"] == "9" and rows["optimizer.batch_size"] == "8"
    assert rows["reporting.validate_every"] == "3" and rows["parameters"] == "0.2 million"
    assert rows["steps an epoch"] == "112.6" and rows["a checkpoint"].endswith("MB")
    assert re.fullmatch(r"[\d.e-]+ s, the fastest of \d+ on 8 at once", rows["a step"])
    keys = set(re.findall(r"^([a-z]+)\.(\w+)\b", out, re.MULTILINE))
    sections = {**SECTIONS, "reporting": Reporting}
    assert keys == {(s, key) for s, settings in sections.items() for key in rules(settings)}
    assert rows["times"] == "estimated from what this machine did just now"
    assert not list(tmp_path.iterdir())
    code, out, _ = training("--steps", 9, "--dry-run", "--json", "--accumulate", 3)
    assert code == 2 and not out  # 8 images cannot be divided
    code, out, _ = training("--steps", 9, "--dry-run", "--json", "--accumulate", 4)
    assert json.loads(out)["share"] == 2 and not list(tmp_path.iterdir())


def test_a_dry_run_is_of_the_run_that_is_asked_for(training, tmp_path, monkeypatch):
    monkeypatch.setattr("repa_base.device.ENOUGH", 0.05)
    assert training("--steps", 2, "--preview-every", 0)[0] == 0
    code, out, error = training("--steps", 4, "--resume", "--dry-run")
    assert code == 0 and "\nthe 2 steps left " in out, error
    code, out, _ = training("--steps", 4, "--resume", "--dry-run", "--json")
    assert json.loads(out)["steps_taken"] == 2
    for options, code, said in (
        (["--steps", 4], 1, "add --resume, or another --out"),
        (["--steps", 4, "--from-step", 2], 2, "--from-step"),
        (["--steps", 4, "--resume", "--from-step", 1], 2, "--from-step"),
        (["--steps", 4, "--resume", "--skip", 2], 2, "--skip"),
        (["--steps", 4, "--out", "new", "--init", "nonsense"], 2, "'nonsense'"),
    ):
        found, out, error = training(*options, "--dry-run")
        assert found == code and not out and error.count("\n") == 1 and said in error
    assert not (tmp_path / "new").exists()
