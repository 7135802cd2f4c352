import json
import random
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_run import QUIET, TINY, file_bytes

import repa.training.run.folder as run_folder
from repa.errors import CheckpointFormatError, CheckpointMismatchError, SettingError
from repa.training.loop import train
from repa.training.run.folder import checkpoints_of
from repa.training.run.resuming import Start, start_of
from repa_base.checksums import SUMS, seal_folder, unsealed

FILES = ["ema.safetensors", "model.safetensors", "optimizer.safetensors", "state.json", SUMS]
NEWEST, BEFORE = "checkpoints/step-0000006", "checkpoints/step-0000003"
LONGER = replace(TINY, num_steps=9)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run of six steps with checkpoints of steps 3 and 6."""
    out = tmp_path_factory.mktemp("finished") / "run"
    train(TINY, out, reporting=QUIET)
    return out


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The last checkpoint of nine steps without a break."""
    return train(LONGER, tmp_path_factory.mktemp("whole") / "run", reporting=QUIET)


@pytest.fixture
def run(finished, tmp_path):
    return shutil.copytree(finished, tmp_path / "run")


def unseal(checkpoint):
    """Make a checkpoint what earlier versions wrote."""
    (checkpoint / SUMS).unlink()
    state = json.loads((checkpoint / "state.json").read_text())
    (checkpoint / "state.json").write_text(json.dumps({**state, "format": 1}, indent=2) + "\n")


def logged(out):
    return [json.loads(x)["step"] for x in (out / "log.jsonl").read_text().splitlines()]


def resumed(out, config=LONGER, **options):
    return train(config, out, resume=True, reporting=QUIET, **options)


def offered(error):
    """The step of the command that a message offers."""
    (step,) = re.findall(r"go on from before it with: repa train .* --from-step (\d+)$", str(error))
    return int(step)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", ["flip", "cut", "empty", "gone"])
def test_a_damaged_newest_checkpoint_is_named_and_the_one_before_it_leads_to_the_same_end(
    run, whole, name, damage
):
    path = run / NEWEST / name
    content = path.read_bytes()
    if damage == "gone":
        path.unlink()
    else:
        place = random.Random(name).randrange(len(content))
        flipped = content[:place] + bytes([content[place] ^ 4]) + content[place + 1 :]
        path.write_bytes({"flip": flipped, "cut": content[:place], "empty": b""}[damage])
    before = file_bytes(run / BEFORE)
    with pytest.raises(CheckpointFormatError, match=f"{NEWEST} is damaged") as caught:
        resumed(run)
    assert "\n" not in str(caught.value) and offered(caught.value) == 3
    assert file_bytes(run / BEFORE) == before
    last = resumed(run, from_step=3)
    assert file_bytes(last) == file_bytes(whole)
    assert logged(run) == [1, 2, 3, 4, 5, 6, 7, 8, 9]
    assert [p.name for p in (run / "set-aside").iterdir()] == ["step-0000006"]
    assert resumed(run) == last  # and so it goes on, by itself


@pytest.mark.parametrize(
    "state",
    [
        "5",
        "[]",
        "{}",
        "null",
        "\udcff",
        "[" * 100_000,
        {"step": None},
        {"step": "6"},
        {"step": 6.0},
        {"step": True},
        {"step": [6]},
        {"step": -6},
        {"step": 3},
        {"step": 10**30},
        {"config": None},
        {"config": {"seed": 1}},
        {"config": {"data": ["digits"]}},
        {"format": 3},
        {"format": [1]},
    ],
)
@pytest.mark.parametrize("has_checksums", [True, False])
def test_a_state_that_is_not_of_this_step_and_run_is_damage(run, whole, state, has_checksums):
    folder = run / NEWEST
    unseal(folder)
    path = folder / "state.json"
    if isinstance(state, dict):
        state = json.dumps({**json.loads(path.read_text()), **state})
    path.write_bytes(state.encode("utf-8", "surrogateescape"))
    if has_checksums:
        seal_folder(folder)
    with pytest.raises(CheckpointFormatError, match=f"{NEWEST} is damaged") as caught:
        resumed(run)
    assert file_bytes(resumed(run, from_step=offered(caught.value))) == file_bytes(whole)


def test_a_new_checkpoint_without_its_checksums_is_damage(run):
    (run / NEWEST / SUMS).unlink()
    with pytest.raises(CheckpointFormatError, match="SHA256SUMS is missing"):
        resumed(run)


def test_checkpoints_of_an_earlier_version_go_on_and_are_said_to_be_unchecked(run, whole):
    notes = []
    for step in (NEWEST, BEFORE):
        unseal(run / step)
    reporting = replace(QUIET, on_note=notes.append)
    last = train(LONGER, run, resume=True, reporting=reporting)
    assert file_bytes(last) == file_bytes(whole)
    assert [note for note in notes if "checksums" in note] == [
        f"{run / NEWEST}: an earlier version wrote it without checksums, so that damage would not "
        "be seen."
    ]


@pytest.mark.parametrize("name", FILES[:3])
@pytest.mark.parametrize("change", ["shape", "missing", "unexpected"])
def test_tensors_that_are_not_this_networks_are_refused_also_without_checksums(run, name, change):
    unseal(run / NEWEST)
    path = run / NEWEST / name
    tensors = load_file(path)
    key = next(n for n in sorted(tensors) if tensors[n].ndim > 1)
    if change == "shape":
        tensors[key] = tensors[key][:1]  # what would be broadcast
    elif change == "missing":
        del tensors[key]
    else:
        tensors["other"] = torch.zeros(1)
    save_file(tensors, path)
    with pytest.raises(CheckpointMismatchError, match=name):
        resumed(run)


def test_the_checkpoint_that_is_offered_is_whole_or_else_the_start(run, whole):
    for step in (NEWEST, BEFORE):
        (run / step / "optimizer.safetensors").write_bytes(b"damaged")
    with pytest.raises(CheckpointFormatError, match=f"{NEWEST} is damaged") as caught:
        resumed(run)
    assert offered(caught.value) == 0
    last = resumed(run, from_step=0)
    assert file_bytes(last) == file_bytes(whole)
    assert logged(run) == list(range(1, 10))
    assert len(list((run / "set-aside").iterdir())) == 2


def test_a_run_that_goes_back_says_so_in_its_history(run):
    resumed(run, replace(LONGER, learning_rate=5e-4), from_step=3)
    (entry,) = [unsealed(json.loads(x)) for x in (run / "history.jsonl").read_text().splitlines()]
    changed = {"num_steps": [6, 9], "learning_rate": [0.001, 0.0005]}
    assert entry == {"from_step": 4, "changed": changed, "skip": [], "instead_of": 6}


def test_nothing_is_set_aside_before_the_earlier_checkpoint_is_read(run):
    (run / BEFORE / "model.safetensors").write_bytes(b"damaged")
    with pytest.raises(CheckpointFormatError, match=f"{BEFORE} is damaged"):
        resumed(run, from_step=3)
    assert len(checkpoints_of(run)) == 2 and not (run / "set-aside").exists()
    assert logged(run) == [1, 2, 3, 4, 5, 6]


def test_a_step_without_a_checkpoint_and_a_new_run_are_not_gone_back_to(run, tmp_path):
    with pytest.raises(SettingError, match="5 has no checkpoint; there are those of steps 3, 6"):
        resumed(run, from_step=5)
    with pytest.raises(SettingError, match="add --resume") as caught:
        train(TINY, tmp_path / "new", from_step=0, reporting=QUIET)
    assert caught.value.field == "from_step" and not (tmp_path / "new").exists()


FALLING = replace(TINY, decay_steps=2)


def test_a_run_whose_rate_fell_is_not_made_longer_unasked_and_every_advice_leads_to_an_end(
    tmp_path,
):
    out, keep = tmp_path / "run", replace(QUIET, checkpoint_every=2)
    train(FALLING, out, reporting=keep)
    before = {path: path.read_bytes() for path in out.rglob("*.*") if path.is_file()}
    longer = replace(FALLING, num_steps=9)
    with pytest.raises(SettingError, match=r"would jump to 0\.001") as caught:
        resumed(out, longer)
    assert caught.value.field == "num_steps" and "--from-step 4" in str(caught.value)
    assert before == {path: path.read_bytes() for path in before}
    assert not (out / "history.jsonl").exists()
    for asked in (replace(longer, decay_steps=0), replace(longer, learning_rate=1e-4)):
        copy = shutil.copytree(out, tmp_path / f"{asked.decay_steps}")
        assert resumed(copy, asked).name == "step-0000009"
    last = resumed(out, longer, from_step=4)
    whole = train(longer, tmp_path / "whole", reporting=QUIET)
    assert file_bytes(last) == file_bytes(whole)


@pytest.mark.parametrize(("steps", "is_allowed"), [(4, True), (5, True), (6, False)])
def test_a_fall_has_begun_with_its_first_lower_rate(tmp_path, steps, is_allowed):
    # Of seven steps the last two fall: rates 1, 1, 1, 1, 1, 1, 1/2 with the fall from step 6 on.
    config, rates = replace(FALLING, num_steps=7), []
    for step in range(7):
        rates.append(config.learning_rate_at(step) / config.learning_rate)
    assert rates == [1, 1, 1, 1, 1, 1, 0.5]
    out = tmp_path / "run"

    def cut(step, losses):
        if step == steps + 2:
            raise RuntimeError("power cut")

    reporting = replace(QUIET, checkpoint_every=steps + 1, on_step=cut)
    with pytest.raises(RuntimeError) if steps < 6 else pytest.MonkeyPatch.context():
        train(config, out, reporting=reporting)
    if is_allowed:
        assert resumed(out, replace(config, num_steps=9)).name == "step-0000009"
    else:
        with pytest.raises(SettingError, match="would move the fall"):
            resumed(out, replace(config, num_steps=9))


@pytest.mark.parametrize("moved", [0, 1, 2])
def test_a_run_that_was_killed_as_it_went_back_still_does(run, whole, monkeypatch, moved):
    def killed(path, target):
        if path.parent.name == "checkpoints":
            done.append(path)
            if len(done) > moved:
                raise KeyboardInterrupt
        return rename(path, target)

    def killed_at_last(path, text):
        if path.name == "config.json" and len(done) == 2:
            raise KeyboardInterrupt
        return write_text(path, text)

    done, rename, write_text = [], Path.rename, run_folder.write_text
    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", killed)
        patch.setattr(run_folder, "write_text", killed_at_last)
        with pytest.raises(KeyboardInterrupt):
            resumed(run, from_step=0)
    assert len(checkpoints_of(run)) == 2 - moved
    notes = []
    last = train(LONGER, run, resume=True, reporting=replace(QUIET, on_note=notes.append))
    assert file_bytes(last) == file_bytes(whole) and logged(run) == list(range(1, 10))
    assert not any("resuming" in note for note in notes) and "set-aside" in notes[0]
    assert len(list((run / "set-aside").iterdir())) == 2
    (entry,) = [unsealed(json.loads(x)) for x in (run / "history.jsonl").read_text().splitlines()]
    assert (entry["from_step"], entry["instead_of"]) == (1, 6)
    assert resumed(run) == last and len(checkpoints_of(run)) == 2  # it goes back once


def test_a_run_that_was_killed_as_it_went_back_may_go_to_another_step(run, whole, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(run_folder, "set_aside", lambda out, later: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            resumed(run, from_step=0)
    assert start_of(run, None).step == 0 and start_of(run, 3).instead_of == 6
    assert start_of(run, 6) == Start(run / NEWEST, [], None)
    assert file_bytes(resumed(run, from_step=6)) == file_bytes(whole)
    assert start_of(run, None).step == 9
