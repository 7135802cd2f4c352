import math
from dataclasses import asdict

import pytest

from metrics import MetricSettings
from repa.checkpoints.names import SAMPLED
from repa.generation.settings import SampleConfig
from repa.registry import entry_names, find_entry, load_registry
from repa.registry.published import closest_published_row, compare_with_row, lint_protocol

MEASURED = {
    "num_images": 50_000,
    "reference": "adm-imagenet-256",
    "network": "inception",
}


def manifest(**changes):
    """What `repa sample` writes for its default settings."""
    config = SampleConfig()
    made = {
        "model": config.model,
        "solver": config.solver,
        "num_steps": config.num_steps,
        "cfg_scale": config.cfg_scale,
        "guidance_interval": list(config.guidance_interval),
        "labels": config.labels,
        "autoencoder": "sd-vae-ft-ema",
        "quantizer": config.quantizer,
        "seed": 3,
    }
    return made | changes


def closest(made, **measured):
    return closest_published_row(made, **MEASURED | measured)


def test_default_command_is_comparable_with_the_row_of_1_42():
    row = closest(manifest())
    assert row.comparable and lint_protocol(row) == []
    assert (row.metrics["FID"], row.metrics["Recall"]) == (1.42, 0.65)
    assert "Table 4" in row.source and "Table 9" in row.note and "0.64" in row.note


@pytest.mark.parametrize(
    ("cfg", "interval", "fid"),
    [
        # field notes on arXiv 2410.06940: tables 4, 7, 8 and 9
        (1.0, [0.0, 1.0], 5.9),
        (1.0, [0.0, 0.7], 5.9),  # guidance is off: the interval does not matter
        (1.35, [0.0, 1.0], 1.80),
        (1.4, [0.0, 1.0], 1.90),
        (1.9, [0.0, 0.7], 1.45),
        (2.0, [0.0, 0.65], 1.44),
        (2.0, [0.0, 0.8], 2.23),
    ],
)
def test_each_setting_finds_its_own_row(cfg, interval, fid):
    row = closest(manifest(cfg_scale=cfg, guidance_interval=interval))
    assert row.comparable and row.metrics["FID"] == fid


def test_every_row_is_found_by_its_own_settings():
    rows = load_registry()["published"]
    assert sum(entry["checkpoint"] == SampleConfig.model for entry in rows.values()) == 13
    for name, entry in rows.items():
        reference = find_entry("datasets", entry["dataset"])["reference"]
        made = manifest(model=entry["checkpoint"], **entry["settings"])
        row = closest(made, reference=reference)
        assert row.comparable and row.name == name


def test_row_of_an_interval_that_is_not_stated_is_shown_and_never_compared():
    made = manifest(model="sra-xl-2-512", cfg_scale=2.5)
    row = closest(made, reference=find_entry("datasets", "imagenet-512")["reference"])
    assert (row.metrics["FID"], row.metrics["IS"]) == (2.07, 302.2)
    assert list(map(str, row.differences)) == ["guidance_interval [0.0, 0.7] instead of not stated"]
    assert compare_with_row(row, {"FID": 2.07}) == []


@pytest.mark.parametrize("name", ["sit-xl-2-256", "dit-xl-2-256", "internal-guidance-xl-2-256"])
def test_guidance_of_other_channels_or_heads_is_another_protocol(name):
    rows = [e for e in load_registry()["published"].values() if e["checkpoint"] == name]
    settings = dict(rows[0]["settings"])
    for key in ("guided_channels", "internal_scale", "internal_interval"):
        settings.pop(key, None)
    row = closest(manifest(model=name, **settings))
    assert not row.comparable


@pytest.mark.parametrize("name", entry_names("checkpoints"))
def test_default_command_of_a_registered_model_is_a_published_row_where_there_is_one(name):
    entries = [e for e in load_registry()["published"].values() if e["checkpoint"] == name]
    if not entries or name in ("sit-xl-2-256", "self-flow-xl-2-256", "sra-xl-2-512"):
        return  # READMEs do not state the first's sampler and the last's interval of guidance
    config = SampleConfig.for_model(name)
    known = {key: getattr(config, key) for key in SAMPLED} | {"num_images": config.num_images}
    known = {k: list(v) if isinstance(v, tuple) else v for k, v in known.items()}
    assert any(
        all(known.get(key, value) == value for key, value in e["settings"].items()) for e in entries
    )


@pytest.mark.parametrize(
    ("made", "measured", "setting"),
    [
        ({"cfg_scale": 1.75}, {}, "cfg_scale 1.75 instead of 1.8"),
        ({"num_steps": 50}, {}, "num_steps 50 instead of 250"),
        ({"solver": "heun"}, {}, "solver heun instead of sde"),
        ({"autoencoder": "sd-vae-ft-mse"}, {}, "autoencoder sd-vae-ft-mse instead of sd-vae-ft-e"),
        ({"quantizer": "round"}, {}, "quantizer round instead of truncate"),
        ({"labels": "balanced"}, {}, "labels balanced instead of random"),
        ({"labels": [207]}, {}, "labels [207] instead of random"),
        ({}, {"num_images": 500}, "num_images 500 instead of 50000"),
        ({}, {"reference": "mine.npz"}, "reference mine.npz instead of adm-imagenet-256"),
        ({}, {"network": "inception-clean"}, "network inception-clean instead of inception"),
        ({}, {"settings": MetricSettings(distances="exact")}, "distances exact instead of adm"),
        ({}, {"settings": MetricSettings(num_neighbors=5)}, "num_neighbors 5 instead of 3"),
        ({}, {"settings": MetricSettings(split_size=500)}, "split_size 500 instead of 5000"),
        ({"times": "uniform"}, {}, "times uniform instead of published"),
        ({"guidance": "apg"}, {}, "guidance apg instead of cfg"),
        ({"guide": "abc"}, {}, "guide abc instead of None"),
        ({"dtype": "bf16"}, {}, "dtype bf16 instead of float32"),
        ({"compile": True}, {}, "compile True instead of False"),
        ({}, {"registered_weights": False}, "weights others instead of as registered"),
    ],
)
def test_a_near_miss_is_not_compared_and_the_warning_names_the_setting(made, measured, setting):
    row = closest(manifest(**made), **measured)
    assert len(row.differences) == 1
    (warning,) = lint_protocol(row)
    assert setting in str(warning) and "FID 1.42" in warning.effect
    assert compare_with_row(row, {"FID": 1.42}) == []


def test_the_row_with_the_fewest_differences_is_the_closest():
    row = closest(manifest(cfg_scale=2.0, guidance_interval=[0.0, 0.65], num_steps=249))
    assert row.name == "repa-xl-2-cfg-2.0-interval-0.65"


def test_the_name_of_a_file_does_not_make_it_the_published_reference():
    row = closest(manifest(), reference="/data/VIRTUAL_imagenet256_labeled.npz")
    assert [difference.setting for difference in row.differences] == ["reference"]


@pytest.mark.parametrize("made", [None, {}, {"model": "digits"}, {"model": None}, {"model": [1]}])
def test_nothing_is_published_about_other_models(made):
    assert closest(made) is None
    assert lint_protocol(None) == [] and compare_with_row(None, {"FID": 1.0}) == []


def test_a_manifest_with_settings_of_any_type_is_only_another_protocol():
    row = closest(manifest(cfg_scale="1.8", guidance_interval=None, num_steps={"a": 1}))
    assert not row.comparable


def test_difference_is_measured_minus_published_and_without_errors_there_is_no_verdict():
    (value,) = compare_with_row(closest(manifest()), {"FID": 1.5})
    assert math.isclose(value.difference, 0.08)
    assert value.tolerance is None and value.inside is None


@pytest.mark.parametrize(("measured", "inside"), [(1.48, True), (1.36, True), (1.49, False)])
def test_two_errors_of_the_difference_and_half_of_the_last_digit_are_allowed(measured, inside):
    (value,) = compare_with_row(closest(manifest()), {"FID": measured}, {"FID": 0.02})
    # 2 sqrt(0.02^2 + 0.02^2) = 0.0566, and 1.42 may stand for anything from 1.415 to 1.425.
    assert math.isclose(value.tolerance, math.sqrt(4 * (0.02**2 + 0.02**2)) + 0.005)
    assert value.inside is inside


def test_half_of_the_last_digit_is_that_of_the_number_as_printed():
    row = closest(manifest(cfg_scale=1.0))
    values = compare_with_row(row, {"FID": 5.94, "sFID": 5.73}, {"FID": 0.0, "sFID": 0.0})
    assert [value.tolerance for value in values] == pytest.approx([0.05, 0.005])  # "5.9", "5.73"
    assert all(value.inside for value in values)


def test_metrics_that_one_side_lacks_are_left_out():
    values = compare_with_row(closest(manifest()), {"FID": 1.5, "KID": 0.1, "IS": 300.0})
    assert [value.label for value in values] == ["FID", "IS"]


def test_rows_become_plain_values():
    import json

    row = closest(manifest(num_steps=100))
    plain = json.loads(json.dumps(asdict(row)))
    assert plain["differences"] == [{"setting": "num_steps", "published": 250, "here": 100}]
