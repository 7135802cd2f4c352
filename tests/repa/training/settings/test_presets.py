"""Presets: the published recipes, and that nothing contradicts them unsaid."""

from dataclasses import asdict, fields

import pytest
from prepared_sets import SIDE, numbered_set

import repa.data.samples.opening as opening
from repa.errors import SettingError, UnknownNameError
from repa.models.sit import SIT_SIZES
from repa.training.settings import (
    PRESETS,
    SECTIONS,
    Reporting,
    TrainConfig,
    settings_going_on,
    settings_of,
)
from repa_base.settings import rules


@pytest.fixture
def prepared(tmp_path, monkeypatch):
    """The path of a prepared set."""
    (tmp_path / "prepared.json").touch()
    one = numbered_set(features=("clip-vit-l",))
    monkeypatch.setattr(opening, "open_prepared", lambda folder: one)
    return str(tmp_path)


# Options of REPA's README and defaults of its train.py at 67f7145, but for the precision.
RECIPE = {
    "image_size": 256,
    "flip": False,
    "qk_norm": False,
    "encoder": "dinov2-vit-b",
    "projector": "mlp",
    "projector_dim": 2048,
    "normalise_targets": "none",
    "alignment_weight": 0.5,
    "align_until": 0,
    "path_type": "linear",
    "weighting": "uniform",
    "label_dropout": 0.1,
    "num_steps": 400_000,
    "batch_size": 256,
    "learning_rate": 1e-4,
    "warmup_steps": 0,
    "decay_steps": 0,
    "weight_decay": 0.0,
    "max_grad_norm": 1.0,
    "ema_decay": 0.9999,
    "precision": "bf16",
    "seed": 0,
}
SIZES = {  # model, and depth of alignment: the paper's, and for S as for B
    "repa-xl2": ("SiT-XL/2", 8),
    "repa-l2": ("SiT-L/2", 8),
    "repa-b2": ("SiT-B/2", 4),
    "repa-s2": ("SiT-S/2", 4),
}
DIGITS = {"data": "digits", "image_size": 32, "model": "SiT-Ti/4", "num_steps": 5500}
DIGITS |= {"batch_size": 64, "encoder": "efficientnet-lite1", "encoder_depth": 3}
DIGITS |= {"projector_dim": 256, "alignment_weight": 0.5, "learning_rate": 1e-3, "ema_decay": 0.999}
DIGITS |= {"warmup_steps": 200, "decay_steps": 1500, "precision": "fp32"}


def test_published_presets_leave_nothing_to_defaults_but_what_a_run_says_itself():
    own = {"data", "init", "init_sha256", "encoder_precision"}  # the last moves last digits alone
    own |= {"accumulate", "patience", "compile", "recompute"}  # how a step is taken
    for name in SIZES:
        for section in SECTIONS.values():
            assert rules(section).keys() - own <= PRESETS[name].keys()


@pytest.mark.parametrize(("name", "model", "depth"), [(n, *s) for n, s in SIZES.items()])
def test_presets_are_the_published_recipe_with_the_papers_depths(name, model, depth, prepared):
    found = asdict(settings_of(name, data=prepared)) | {"image_size": PRESETS[name]["image_size"]}
    wanted = {**RECIPE, "model": model, "encoder_depth": depth}
    assert {key: found[key] for key in wanted} == wanted and model in SIT_SIZES


def test_the_digits_are_trained_as_their_document_says():
    found = asdict(settings_of("digits"))
    wanted = {**RECIPE, **DIGITS}
    assert {key: found[key] for key in wanted} == wanted


@pytest.mark.parametrize(
    ("given", "field", "said"),
    [
        ({"model": "SiT-XL/2"}, "model", "is SiT-B/2 in the preset repa-b2"),
        ({"data": "digits"}, "data", "prepared set of your own"),
        ({"data": None}, "data", "prepared set of your own"),
        ({"data": "."}, "data", "prepared set of your own"),  # pictures as they lie
        ({"encoder": "none", "projector": "conv"}, "projector", "needs an encoder"),
        ({"encoder": "none", "alignment_weight": 0.25}, "alignment_weight", "needs an encoder"),
        ({"encoder": "none", "projector_dim": 64}, "projector_dim", "needs an encoder"),
        ({"encoder_depth": 0}, "encoder_depth", "at least 1"),
    ],
)
def test_what_contradicts_a_preset_is_refused(given, field, said, prepared, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path.parent)
    given = {"data": prepared, **given}
    given = {name: value for name, value in given.items() if value is not None}
    with pytest.raises(SettingError, match=said) as caught:
        settings_of("repa-b2", **given)
    assert caught.value.field == field


def test_an_unknown_preset_is_named_with_the_closest():
    with pytest.raises(UnknownNameError, match="did you mean 'repa-xl2'"):
        settings_of("repa-xl")


def test_without_a_preset_nothing_is_the_digits_and_a_path_the_published_recipe(tmp_path):
    assert settings_of() == settings_of("digits")
    assert settings_of(num_steps=3, data="digits").model == "SiT-Ti/4"
    config = settings_of(data=str(tmp_path))
    assert config.model.startswith("SiT-XL/") and config.batch_size == 256
    assert {f.name for f in fields(config)} >= rules(TrainConfig).keys()


def test_a_preset_keeps_its_encoder_where_a_prepared_set_has_another(tmp_path, monkeypatch):
    (tmp_path / "prepared.json").touch()
    monkeypatch.setattr(
        opening, "open_prepared", lambda folder: numbered_set(features=("clip-vit-l",))
    )
    config = settings_of("repa-b2", data=str(tmp_path))
    assert config.encoder == "dinov2-vit-b" and config.image_size == SIDE
    assert settings_of("digits", data=str(tmp_path)).encoder == "clip-vit-l"


@pytest.mark.parametrize(("preset", "usual"), [("digits", 256), ("repa-b2", 2048), (None, 2048)])
def test_a_width_is_not_given_to_a_projector_that_has_none(prepared, preset, usual):
    given = {"data": prepared, "projector": "conv"}
    assert settings_of(preset, **given).projector == "conv"
    assert settings_of(preset, **given, projector_dim=usual)  # as a dry run lists it
    assert settings_of(preset, **{**given, "projector": "mlp"}, projector_dim=512)
    with pytest.raises(SettingError, match="512 is the width of the mlp") as caught:
        settings_of(preset, **given, projector_dim=512)
    assert caught.value.field == "projector_dim"


@pytest.mark.parametrize(("name", "value"), [("alignment_weight", 0.25), ("projector_dim", 64)])
def test_how_to_align_is_refused_where_nothing_is_and_a_stored_run_opens(name, value):
    usual = getattr(settings_of(), name)
    plain = settings_of(encoder="none", **{name: usual})  # as a dry run lists it
    with pytest.raises(SettingError, match=f"{name} {value} needs an encoder") as caught:
        settings_of(encoder="none", **{name: value})
    assert caught.value.field == name
    stored = TrainConfig.from_mapping({**asdict(plain), name: value})
    assert settings_going_on(stored, num_steps=9, **{name: value}).num_steps == 9
    with pytest.raises(SettingError, match=f"{name} {usual} needs an encoder"):
        settings_going_on(stored, **{name: usual})


@pytest.mark.parametrize(("name", "value"), [("eval_num", 5000), ("eval_reference", "mine")])
def test_how_to_evaluate_is_refused_where_it_is_not_said_how_often(name, value):
    assert getattr(Reporting(eval_every=7, **{name: value}), name) == value
    with pytest.raises(SettingError, match=f"{name} {value} is of evaluations: give --eval") as e:
        Reporting(**{name: value})
    assert e.value.field == name
