"""Settings in a file of one's own."""

import pytest

from repa.errors import SettingError
from repa.training.settings import PRESETS, SECTIONS, Reporting, TrainConfig, read_config_file
from repa_base.settings import rules

GOOD = """
preset = "digits"
[optimizer]
learning_rate = 2e-4
batch_size = 16
[alignment]
encoder = "none"
[reporting]
log_every = 5
"""


@pytest.fixture
def read(tmp_path):
    def of(text):
        path = tmp_path / "my.toml"
        path.write_text(text)
        return read_config_file(path)

    return of


def test_a_file_says_a_preset_settings_and_what_is_reported(read):
    file = read(GOOD)
    assert file.preset == "digits" and file.reporting == {"log_every": 5}
    assert file.settings == {"learning_rate": 2e-4, "batch_size": 16, "encoder": "none"}
    assert read("").settings == {}


def test_every_setting_that_has_an_option_can_stand_in_a_file(read):
    values = {"data": "digits", "num_steps": 1} | dict(PRESETS["repa-s2"])
    for section, settings in SECTIONS.items():
        for name in rules(settings):
            value = values.get(name, getattr(settings, name, None))
            text = str(value).lower() if isinstance(value, bool) else repr(value)
            text = '"x"' if name == "init" else text
            assert read(f"[{section}]\n{name} = {text}").settings.keys() == {name}
    assert rules(Reporting).keys().isdisjoint(rules(TrainConfig))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[optimizer]\nlearning_rat = 1", "optimizer.learning_rat; did you mean optimizer.learn"),
        ("[model]\nencodr = 'none'", "model.encodr; did you mean alignment.encoder"),
        ("[model]\nseed = 1", "model.seed is unknown; it belongs under [run]"),
        ("[model]\nxyz = 1", "unknown key model.xyz (known: model, qk_norm, init)"),
        ("[model]\ninit_sha256 = 'x'", "unknown key model.init_sha256; did you mean model.init"),
        ("[optimiser]\nseed = 1", "unknown section 'optimiser'; did you mean 'optimizer'"),
        ("learning_rate = 1", "learning_rate belongs under [optimizer]"),
        ("run = 1", "run is a section: write [run]"),
        ("preset = 'repa-xl'", "unknown preset 'repa-xl'; did you mean 'repa-xl2'"),
        ("preset = 3", "unknown preset 3"),
        ("[optimizer]\nlearning_rate = -1", "[optimizer] learning_rate must be above 0, got -1"),
        ("[optimizer]\nlearning_rate = '1e-4'", "[optimizer] learning_rate must be a number"),
        ("[optimizer]\nbatch_size = true", "[optimizer] batch_size must be a whole number"),
        ("[data]\ndata = 3", "[data] data must be text, got 3"),
        (
            "[precision]\nprecision = 'fp16'",
            "[precision] unknown precision 'fp16'; did you mean 'bf16'",
        ),
        ("[reporting]\nlog_every = 0", "[reporting] log_every must be at least 1"),
        ("[reporting]\non_step = 0", "unknown key reporting.on_step"),
        ("[run", "is no TOML"),
        ("a = " + "[" * 5000, "is no TOML"),
    ],
)
def test_what_cannot_be_meant_is_one_line_that_names_file_and_key(read, text, said):
    with pytest.raises(SettingError) as caught:
        read(text)
    assert said in str(caught.value) and "my.toml: " in str(caught.value)
    assert "\n" not in str(caught.value) and caught.value.field == "config"


def test_what_is_typed_takes_with_it_what_the_file_says_of_it(read):
    text = '[alignment]\nencoder = "clip-vit-l"\nprojector = "conv"\nalign_until = 5\n'
    text += "encoder_depth = 2\n[optimizer]\nbatch_size = 8\n"
    file = read(text + "[reporting]\neval_every = 500\neval_num = 200\n")
    kept = {"encoder_depth": 2, "batch_size": 8}
    evaluated = {"eval_every": 500, "eval_num": 200}
    aligned = {"encoder": "clip-vit-l", "projector": "conv", "align_until": 5}
    assert file.under({}) == kept | evaluated | aligned
    assert file.under({"encoder": "none"}) == kept | evaluated | {"encoder": "none"}
    assert file.under({"eval_every": 0}) == kept | aligned | {"eval_every": 0}
    assert file.under({"eval_every": 0, "eval_num": 3})["eval_num"] == 3  # refused by Reporting
    wide = read("[alignment]\nprojector_dim = 512\n")
    assert wide.under({"projector": "conv"}) == {"projector": "conv"}
    assert wide.under({"projector": "mlp"})["projector_dim"] == 512
    assert not wide.under({"encoder": " none "}).keys() - {"encoder"}


def test_a_setting_that_is_refused_later_is_named_in_the_file_unless_it_was_typed(read):
    file = read("[optimizer]\nbatch_size = 7\n")
    wrong = SettingError("batch_size", "batch_size 7 cannot be shared.")
    said = r"my\.toml: \[optimizer\] batch_size 7 cannot be shared\.$"
    with pytest.raises(SettingError, match=said) as caught, file.named_in_errors(()):
        raise wrong
    assert caught.value.field == "config"
    for typed, error in ((("batch_size",), wrong), ((), SettingError("model", "model is none."))):
        with pytest.raises(SettingError) as caught, file.named_in_errors(typed):
            raise error
        assert caught.value is error
