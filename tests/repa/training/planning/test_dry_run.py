"""A dry run: counts against the real network, state and checkpoint, and that nothing is written."""

from dataclasses import replace
from functools import partial

import pytest
import torch
from pictures import class_folders
from tiny_run import QUIET, TINY, tiny_state
from torch.nn import functional as F

from repa.errors import (
    CheckpointMismatchError,
    OutputExistsError,
    SettingError,
    UnknownNameError,
)
from repa.models.sit import SIT_SIZES, SiT
from repa.training.loop import train
from repa.training.planning.dry_run import dry_run
from repa.training.planning.memory import sizes_of
from repa.training.run.state import model_settings
from repa.training.settings import settings_of

XL = settings_of("digits", model="SiT-XL/2", encoder_depth=8, projector_dim=2048)


def latents(size="SiT-XL/2", **changes):
    """Arguments of REPA's published networks."""
    given = {"input_size": 32, "in_channels": 4, "num_classes": 1000, "target_dims": [768]}
    return {**given, "projector_dim": 2048, "encoder_depth": 8, **SIT_SIZES[size], **changes}


def test_the_published_network_has_the_published_number_of_parameters():
    # SiT-XL/2 has 675 million (SiT, arXiv 2401.08740, table 1), the projector three layers.
    sizes = sizes_of(XL, latents())
    assert round(sizes.num_parameters / 1e6) == 675
    assert sizes.num_projector_parameters == 1153 * 2048 + 2049 * 2048 + 2049 * 768
    assert sizes.num_tokens == 256


@pytest.mark.parametrize("target_dims", [(), (5,)])
def test_counts_are_those_of_the_state_that_training_makes(target_dims):
    state = tiny_state(TINY, target_dims)
    image = torch.zeros(1, 16, 16, 3, dtype=torch.uint8)
    from repa.data import PixelData

    data = PixelData("digits", image, torch.zeros(1, dtype=torch.int64), num_classes=10)
    sizes = sizes_of(TINY, model_settings(TINY, data, list(target_dims)))
    everything = sum(p.numel() for p in state.model.parameters())
    assert sizes.num_parameters + sizes.num_projector_parameters == everything
    assert sizes.checkpoint_bytes == state.num_bytes
    moments = sum(t.nbytes for s in state.optimizer.state.values() for t in list(s.values())[1:])
    gradients = sum(p.nbytes for p in state.model.parameters() if p.requires_grad)
    weights = sum(t.nbytes for m in (state.model, state.ema) for t in m.state_dict().values())
    assert sizes.state_bytes == moments + gradients + weights
    shared = sizes_of(TINY, model_settings(TINY, data, list(target_dims)), processes=2)
    assert shared.state_bytes == sizes.state_bytes + gradients
    assert replace(shared, state_bytes=sizes.state_bytes) == sizes


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_what_a_step_keeps_of_images_is_what_the_real_one_keeps(precision):
    config = replace(TINY, precision=precision)
    settings = latents("SiT-Pico/8", input_size=16, num_classes=10, encoder_depth=1)
    sizes = sizes_of(config, settings)
    model = SiT(**settings, label_dropout=0.0)
    own, kept = {t.data_ptr() for t in model.state_dict().values()}, {}

    def keep(tensor):
        if tensor.untyped_storage().data_ptr() not in own:
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage()
        return tensor

    count = 7
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        x, t = torch.randn(count, 4, 16, 16), torch.rand(count)
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            velocity, (features,) = model(x, t, torch.zeros(count).long(), return_features=True)
            loss = velocity.float().square().mean()
            loss = loss + F.normalize(features.float(), dim=-1).square().mean()
    real = sum(storage.nbytes() for storage in kept.values())
    assert sizes.fixed_bytes + count * sizes.image_bytes == pytest.approx(real, rel=0.02)


def test_recomputing_and_half_precision_keep_less():
    settings = latents("SiT-S/2")
    plain, half, again = (
        sizes_of(replace(XL, **changes), settings)
        for changes in ({}, {"precision": "bf16"}, {"recompute": True})
    )
    assert half.image_bytes < 0.7 * plain.image_bytes
    assert again.image_bytes < 0.4 * plain.image_bytes
    assert plain.state_bytes == half.state_bytes


def test_a_dry_run_tells_and_writes_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr("repa_base.device.ENOUGH", 0.05)
    out = tmp_path / "run"
    plan = dry_run(replace(TINY, accumulate=2), out, processes=2)
    assert plan.share == 2 and plan.steps_per_epoch == 901 / 8
    assert plan.data == {"name": "digits", "count": 901, "num_classes": 10, "input": [3, 16, 16]}
    assert plan.timing is not None and plan.timing.step > 0 and plan.unmeasured is None
    assert plan.seconds == pytest.approx(6 * 2 * plan.timing.step)
    alone = dry_run(replace(TINY, accumulate=4), out, measured=False)
    gradients = sum(p.nbytes for p in tiny_state().model.parameters() if p.requires_grad)
    assert alone.share == 2 and plan.memory_bytes == alone.memory_bytes + gradients
    assert plan.timing.features == 0
    assert plan.to_dict()["settings"] == replace(TINY, accumulate=2).sections()
    assert not out.exists()


def test_the_checkpoint_of_a_run_has_the_bytes_that_were_told(tmp_path):
    plan = dry_run(replace(TINY, num_steps=1), tmp_path / "run", measured=False)
    last = train(replace(TINY, num_steps=1), tmp_path / "run", reporting=QUIET)
    found = sum(path.stat().st_size for path in last.iterdir())
    assert plan.sizes.checkpoint_bytes <= found < plan.sizes.checkpoint_bytes + 40_000
    assert plan.seconds is None and plan.unmeasured == "not asked for"


def test_what_training_would_refuse_is_refused(tmp_path):
    with pytest.raises(SettingError, match="cannot be divided among 3 processes"):
        dry_run(TINY, tmp_path, processes=3)
    with pytest.raises(SettingError, match="unknown model"):
        dry_run(replace(TINY, model="SiT-XXL/2"), tmp_path)


def test_a_network_that_has_no_room_is_not_measured(tmp_path, monkeypatch):
    monkeypatch.setattr("repa.training.planning.dry_run.free_memory", lambda device: 1000)
    plan = dry_run(TINY, tmp_path)
    assert plan.timing is None and "and 0.0 GiB are free" in plan.unmeasured


@pytest.fixture(scope="module")
def begun(tmp_path_factory):
    """A run of three steps of six, stopped."""
    out = tmp_path_factory.mktemp("begun") / "run"
    train(replace(TINY, num_steps=3), out, reporting=QUIET)
    return out


def test_a_run_that_goes_on_takes_the_time_of_the_steps_that_are_left(begun, monkeypatch):
    monkeypatch.setattr("repa_base.device.ENOUGH", 0.05)
    before = {path: path.read_bytes() for path in begun.rglob("*") if path.is_file()}
    plan = dry_run(TINY, begun, resume=True)
    assert (plan.steps_taken, plan.steps_left) == (3, 3)
    assert plan.seconds == pytest.approx(3 * plan.timing.step)
    assert dry_run(TINY, begun, resume=True, from_step=0, measured=False).steps_left == 6
    assert before == {path: path.read_bytes() for path in begun.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("kind", "said", "changes", "how"),
    [
        (OutputExistsError, "holds a run already: add --resume", {}, {}),
        (OutputExistsError, r"other settings \(seed\)", {"seed": 1}, {"resume": True}),
        (SettingError, "at least 3", {"num_steps": 2}, {"resume": True}),
        (SettingError, "step 3 cannot be left out", {}, {"resume": True, "skip": [3]}),
        (SettingError, "2 has no checkpoint", {}, {"resume": True, "from_step": 2}),
    ],
)
def test_what_the_folder_of_a_run_does_not_allow_is_refused(begun, kind, said, changes, how):
    config = replace(TINY, **changes)
    for begin in (partial(dry_run, measured=False), train):
        with pytest.raises(kind, match=said):
            begin(config, begun, **how)


@pytest.mark.parametrize(
    ("kind", "said", "changes", "how"),
    [
        (SettingError, "add --resume", {}, {"from_step": 5}),
        (SettingError, "step 9 cannot be left out", {}, {"skip": [9]}),
        (UnknownNameError, "unknown model, file or folder 'nonsense'", {"init": "nonsense"}, {}),
        (
            SettingError,
            "needs a reference",
            {"data": "mine"},
            {"reporting": replace(QUIET, eval_every=3)},
        ),
        (
            SettingError,
            "needs held-out images",
            {"data": "mine"},
            {"reporting": replace(QUIET, validate_every=3)},
        ),
    ],
)
def test_what_a_new_run_cannot_have_is_refused(tmp_path, monkeypatch, kind, said, changes, how):
    monkeypatch.chdir(tmp_path)
    class_folders(tmp_path / "mine")
    config, reporting = replace(TINY, **changes), how.pop("reporting", QUIET)
    for begin in (partial(dry_run, measured=False), train):
        with pytest.raises(kind, match=said):
            begin(config, tmp_path / "run", reporting=reporting, **how)
    assert not list(tmp_path.glob("run/*.json"))


def test_a_start_that_does_not_fit_is_refused(begun, tmp_path):
    config = replace(TINY, model="SiT-Ti/8", init=str(begun))
    for begin in (partial(dry_run, measured=False), train):
        with pytest.raises(CheckpointMismatchError, match=r"tensor pos_embed is .* SiT-Pico/8"):
            begin(config, tmp_path / "run")
    assert dry_run(replace(TINY, init=str(begun)), tmp_path / "run", measured=False)


def test_a_grid_that_the_encoder_does_not_give_is_an_error_of_the_images_size(tmp_path):
    config = replace(TINY, encoder="efficientnet-lite1", model="SiT-Ti/4", image_size=8)
    with pytest.raises(SettingError, match="images of 16 to 128 pixels would do") as caught:
        dry_run(config, tmp_path, measured=False)
    assert caught.value.field == "image_size"
