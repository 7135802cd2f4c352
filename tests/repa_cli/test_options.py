"""Options that are made of settings: one default, one range, one name."""

from dataclasses import fields

import pytest

from repa.generation.settings import SampleConfig
from repa.training.settings import PRESETS, TrainConfig
from repa_base.settings import flag_of, rules

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
        assert TrainConfig.from_mapping({f.name: getattr(preset, f.name) for f in fields(preset)})
