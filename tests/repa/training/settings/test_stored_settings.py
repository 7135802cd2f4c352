"""Settings of a run as they are stored: by sections, and as earlier versions wrote them."""

import json
import shutil
from dataclasses import asdict, fields, replace
from pathlib import Path

import pytest
from tiny_run import QUIET, TINY

from repa.errors import OutputExistsError, RepaError, UnknownNameError
from repa.training.loop import train
from repa.training.run.folder import read_run_config
from repa.training.settings import SECTIONS, TrainConfig, settings_by_name, settings_of
from repa_base.checksums import seal_folder

FLAT_RUN = Path(__file__).parents[3] / "goldens/flat_run"


def test_every_setting_has_one_section_and_is_told_in_their_order():
    names = [f.name for section in SECTIONS.values() for f in fields(section)]
    assert names == [f.name for f in fields(TrainConfig)]
    assert len(set(names)) == len(names)


def test_settings_that_were_stored_are_the_same():
    config = replace(TINY, seed=3, path_type="cosine", precision="bf16")
    stored = json.loads(json.dumps(config.sections()))
    assert TrainConfig.from_mapping(stored) == config
    assert stored["run"] == {"num_steps": 6, "seed": 3}


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"optimizer": {"learning_rat": 1}}, "setting 'learning_rat'; did you mean 'learning_rate"),
        ({"optimiser": {}}, "section 'optimiser'; did you mean 'optimizer'"),
        ({"optimizer": {}, "run": 3}, "section run holds 3, no settings"),
        ({"optimizer": {"seed": 3}}, "unknown setting 'seed'"),
    ],
)
def test_what_no_version_stored_is_refused(values, said):
    with pytest.raises(RepaError, match=said):
        TrainConfig.from_mapping(values)


def test_settings_of_earlier_versions_lie_side_by_side():
    assert settings_by_name({"seed": 1, "data": "digits"}) == {"seed": 1, "data": "digits"}
    with pytest.raises(UnknownNameError, match="did you mean 'seed'"):
        settings_by_name({"sed": 1})
    assert TrainConfig.from_mapping(asdict(TINY)) == TINY
    assert settings_by_name(asdict(TINY)) == settings_by_name(TINY.sections()) == asdict(TINY)


def files_of(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_run_of_a_version_without_sections_opens_and_its_draws_are_not_mixed_with_others(
    tmp_path,
):
    out = tmp_path / "run"
    config = replace(TINY, num_steps=4, learning_rate=5e-4)
    last = train(config, out, skip=[4], reporting=QUIET)
    for name in ("config.json", "history.jsonl"):
        shutil.copy(FLAT_RUN / name, out)
    shutil.copy(FLAT_RUN / "state.json", last)
    seal_folder(last)
    assert read_run_config(out) == config
    before = files_of(out)
    with pytest.raises(OutputExistsError, match=r"draws are of format 1, .* --init") as caught:
        train(replace(config, num_steps=5), out, resume=True, reporting=QUIET)
    assert "\n" not in str(caught.value)
    assert files_of(out) == before
    # What the message advises: its weights are what another run begins with.
    begun = replace(config, init=str(out), num_steps=1)
    assert train(begun, tmp_path / "new", reporting=QUIET).name == "step-0000001"


def test_weights_of_an_encoder_are_found_again_from_wherever_a_run_is_called(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = settings_of(encoder="dinov2-vit-s=weights.pth,efficientnet-lite1")
    assert config.encoder == f"dinov2-vit-s={tmp_path}/weights.pth,efficientnet-lite1"
    stored = TrainConfig.from_mapping(json.loads(json.dumps(config.sections())))
    monkeypatch.chdir(tmp_path.parent)
    assert TrainConfig.from_mapping(stored.sections()) == config
    assert settings_of(encoder="timm:a , efficientnet-lite1").encoder == (
        "timm:a , efficientnet-lite1"
    )
