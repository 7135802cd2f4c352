import json
from dataclasses import fields, replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from repa import SIT_SIZES, SiT
from repa.errors import CheckpointFormatError, SettingError
from repa.generation import Protocol, SampleConfig, defaults_of
from repa.registry import load_registry

DIGITS = {"num_images": 500, "solver": "heun", "num_steps": 25, "labels": "balanced"}


def save_run(folder, dataset, path_type="linear"):
    settings = {"input_size": 8, "in_channels": 3, "num_classes": 5, "encoder_depth": 1}
    settings |= {**SIT_SIZES["SiT-Pico/4"], "target_dims": []}
    description = {"format": 1, "model": settings, "path_type": path_type, "dataset": dataset}
    path = folder / "checkpoints" / "step-0000001" / "ema.safetensors"
    path.parent.mkdir(parents=True)
    save_file(SiT(**settings).state_dict(), path, metadata={"repa": json.dumps(description)})
    return path


def test_released_model_has_the_published_protocol_and_digits_its_own():
    assert SampleConfig.for_model() == SampleConfig.for_model("sit-xl-2-repa-256") == SampleConfig()
    own = SampleConfig.for_model("digits")
    assert own == SampleConfig(model="digits", cfg_scale=2.0, **DIGITS)
    assert own.guidance_interval == (0.0, 0.7)


def test_what_is_given_beats_the_model_s_defaults():
    published = Protocol()
    given = {name: getattr(published, name) for name in ("solver", "num_steps", "labels")}
    settings = SampleConfig.for_model("digits", num_images=50_000, cfg_scale=1.8, **given)
    assert settings == SampleConfig(model="digits")


def test_protocol_of_a_model_is_that_of_its_sample_file():
    protocol, config = Protocol.for_model("digits", seed=3), SampleConfig.for_model("digits")
    own = {f.name: getattr(config, f.name) for f in fields(Protocol)}
    assert protocol == replace(Protocol(**own), seed=3)


def test_trained_model_has_the_defaults_of_the_registered_one_of_its_data_set(tmp_path):
    file = save_run(tmp_path / "run", "digits")
    for model in (tmp_path / "run", str(file)):
        own = defaults_of(model)
        assert (own.registered, own.dataset) == ("digits", "digits")
        assert SampleConfig.for_model(model).num_images == 500
    save_run(tmp_path / "other", "flowers")
    assert SampleConfig.for_model(tmp_path / "other") == SampleConfig(model=tmp_path / "other")


def test_name_of_a_model_is_no_file_of_that_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "digits").write_text("no checkpoint")
    assert defaults_of("digits").dataset is None
    with pytest.raises(CheckpointFormatError, match="no checkpoint"):
        defaults_of("./digits")


def test_setting_out_of_range_is_refused_before_a_file_is_read(tmp_path):
    (tmp_path / "x.pt").write_text("no checkpoint")
    with pytest.raises(SettingError, match="num_steps must be from 1 to 10000"):
        SampleConfig.for_model(tmp_path / "x.pt", num_steps=0)


def test_an_interval_of_internal_guidance_that_nobody_asked_for_is_refused():
    for model in ("digits", "sit-xl-2-repa-256"):
        with pytest.raises(SettingError, match="changes nothing where internal_scale is 1"):
            SampleConfig.for_model(model, internal_interval=(0.0, 0.5))
    given = {"internal_interval": (0.0, 0.5)}
    SampleConfig.for_model("digits", internal_scale=1.2, **given)
    assert SampleConfig.for_model("internal-guidance-xl-2-256", **given).internal_scale == 1.4


def test_registry_lists_departures_alone():
    published = SampleConfig()
    for model, entry in load_registry()["checkpoints"].items():
        for name, value in entry.get("sampling", {}).items():
            value = tuple(value) if isinstance(value, list) else value
            assert value != getattr(published, name), (model, name)
        SampleConfig.for_model(model)


def test_defaults_need_no_file_of_a_registered_model(tmp_path, monkeypatch):
    monkeypatch.setenv("REPA_CACHE", str(tmp_path))
    before = torch.get_rng_state()
    SampleConfig.for_model("sit-xl-2-repa-256")
    assert not list(tmp_path.iterdir()) and torch.equal(before, torch.get_rng_state())


def test_networks_of_sra_are_sampled_by_the_script_of_the_form_that_they_have():
    recorded = Path(__file__).parents[2] / "goldens/dialects"
    own, of_dit = (
        SampleConfig.for_model(recorded / f"{name}.pt", num_heads=4)
        for name in ("sra_train", "sra_dit")
    )
    assert (own.solver, own.cfg_scale, own.quantizer) == ("sde", 1.8, "truncate")
    assert (of_dit.solver, of_dit.cfg_scale, of_dit.quantizer) == ("ddpm", 1.5, "round")
    assert of_dit.guidance_interval == (0.0, 1.0)


def test_fast_beats_the_model_s_own_solver_and_keeps_the_rest():
    fast = SampleConfig.for_model("digits", fast=True)
    assert (fast.solver, fast.num_steps, fast.times, fast.shift) == ("sa", 12, "shifted", 0.5)
    assert (fast.cfg_scale, fast.labels, fast.num_images) == (2.0, "balanced", 500)
    assert fast == SampleConfig.for_model(
        "digits", solver="sa", num_steps=12, times="shifted", shift=0.5
    )
    more = SampleConfig.for_model("digits", fast=True, num_steps=20, order=3)
    assert more == replace(fast, num_steps=20, order=3)


@pytest.mark.parametrize(
    "typed", [{"solver": "sa"}, {"times": "shifted"}, {"times": (1.0, 0.0)}, {"shift": 0.5}]
)
def test_fast_beside_a_solver_or_times_is_refused(typed):
    with pytest.raises(SettingError, match=f"fast chooses the {next(iter(typed))}") as error:
        SampleConfig.for_model("digits", fast=True, **typed)
    assert error.value.field == "fast"


def test_fast_is_refused_for_a_registered_network_and_a_file_of_another_path(tmp_path):
    file = save_run(tmp_path / "run", "digits", path_type="cosine")
    for model, path in (("dit-xl-2-256", "ddpm"), (file, "cosine")):
        with pytest.raises(SettingError, match=f"linear path; this one's is {path}") as error:
            SampleConfig.for_model(model, fast=True)
        assert error.value.field == "fast"
    assert SampleConfig.for_model(save_run(tmp_path / "a", "digits"), fast=True).solver == "sa"
