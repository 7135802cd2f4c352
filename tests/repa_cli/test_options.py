"""Options that are made of settings: one default, one range, one name."""

import inspect
from dataclasses import fields
from typing import get_args

import pytest
from typer.main import get_command

from repa.generation.settings import SampleConfig
from repa.training.settings import PRESETS, TrainConfig
from repa_base.settings import flag_of, rules
from repa_cli.app import app

HELP = {"sample": SampleConfig, "train": TrainConfig}


@pytest.mark.parametrize("command", HELP)
def test_every_setting_has_an_option_and_its_help(repa, command, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("TERMINAL_WIDTH", "200")
    code, out, _ = repa(command, "--help")
    assert code == 0
    for name in rules(HELP[command]):
        assert (
            f"{flag_of(HELP[command], name)} " in out or f"{flag_of(HELP[command], name)}\n" in out
        )


def test_the_help_shows_the_defaults_of_the_settings(repa):
    text = " ".join(repa("sample", "--help")[1].split())
    for shown in (
        "[default: 250; digits: 25]",
        "[default: 50000; digits: 500]",
        "[default: 0,0.7]",
        "[default: sde; digits: heun]",
        "[default: truncate]",
    ):
        assert shown in text


@pytest.mark.parametrize(
    ("command", "name", "value"),
    [
        *(("sample", name, "-1") for name in ("num_images", "num_steps", "batch_size", "seed")),
        *(("sample", name, "nan") for name in ("cfg_scale", "guidance_interval")),
        *(("sample", name, "x") for name in ("solver", "labels", "quantizer", "model", "out")),
        *(
            ("train", field.name, "-1")
            for field in fields(TrainConfig)
            if field.type in (int, float)
        ),
        *(("train", name, "0") for name in ("learning_rate", "max_grad_norm", "num_steps")),
        *(("train", name, "nan") for name in ("learning_rate", "ema_decay", "weight_decay")),
        *(("train", name, "inf") for name in ("learning_rate", "alignment_weight")),
        *(
            ("train", name, "x")
            for name in ("data", "encoder", "path_type", "weighting", "precision", "model")
        ),
    ],
)
def test_everything_mistyped_is_one_line_with_the_option_and_exit_code_2(
    repa, tmp_path, monkeypatch, command, name, value
):
    monkeypatch.chdir(tmp_path)
    flag = flag_of(HELP[command], name)
    code, out, err = repa(command, flag, value)
    assert (code, out) == (2, ""), err
    assert err.startswith("repa: error: ") and err.count("\n") == 1
    assert flag in err or name == "model"
    assert not list(tmp_path.iterdir())


def test_presets_are_settings_like_those_that_are_typed():
    for preset in PRESETS.values():
        assert preset.keys() < rules(TrainConfig).keys()
        assert TrainConfig(**{"data": "digits", **preset})


def whole_number_options():
    """Every option of every command that takes whole numbers, but of how many processes."""
    built = get_command(app).commands
    for command in app.registered_commands:
        parameters = inspect.signature(command.callback).parameters
        for option in built[command.callback.__name__].params:
            annotation = parameters[option.name].annotation
            kind = (get_args(annotation) or (annotation,))[0]
            if kind in (int, int | None, list[int] | None) and option.name != "processes":
                yield command.callback.__name__, option.opts[0]


OTHER_ARGUMENTS = {"fid": ["x.npz"], "stats": ["x.npz", "--out", "y.npz"], "grid": ["x.npz"]}
OTHER_ARGUMENTS["grid"] += ["--out", "y.png"]
OTHER_ARGUMENTS |= {"export": ["digits", "x.safetensors"], "prepare": ["x", "--out", "y"]}
OTHER_ARGUMENTS |= {"data": ["x"], "inspect": ["digits"]}


def test_all_commands_have_whole_numbers_among_their_options_or_are_known_to_have_none():
    found = {command for command, _ in whole_number_options()}
    assert found == {
        "sample",
        "fid",
        "stats",
        "train",
        "grid",
        "export",
        "inspect",
        "prepare",
        "data",
    }
    assert {("sample", "--num"), ("train", "--skip")} < set(whole_number_options())


@pytest.mark.parametrize(("command", "flag"), list(whole_number_options()))
@pytest.mark.parametrize("value", [10**21, 1 << 63])
def test_a_number_beyond_64_bits_is_mistyped_whatever_the_option(
    repa, tmp_path, monkeypatch, command, flag, value
):
    monkeypatch.chdir(tmp_path)
    code, out, error = repa(command, *OTHER_ARGUMENTS.get(command, []), f"{flag}={value}")
    assert code == 2 and not out and error.count("\n") == 1 and flag in error
    assert not list(tmp_path.iterdir())
