import json
import signal
import subprocess
import sys
from dataclasses import asdict, replace
from types import SimpleNamespace

import pytest
from tiny_run import TINY as PLAIN

import repa.training.run.folder as run_folder
from repa.errors import CheckpointFormatError, OutputExistsError, SettingError
from repa.training.run.folder import (
    Log,
    check_run_folder,
    checkpoints_of,
    locked,
    read_run_config,
    record_settings,
    set_aside,
)
from repa.training.run.milestones import remove_old_checkpoints
from repa_base.checksums import sealed, unsealed

TINY = replace(PLAIN, encoder="efficientnet-lite1")
OTHER = {
    "num_steps": 7,
    "alignment_weight": 0.25,
    "label_dropout": 0.2,
    "learning_rate": 5e-4,
    "warmup_steps": 3,
    "decay_steps": 2,
    "weight_decay": 0.1,
    "max_grad_norm": 0.5,
    "ema_decay": 0.5,
    "precision": "bf16",
    "align_until": 4,
    "accumulate": 2,
    "patience": 3,
    "compile": True,
    "recompute": True,
}
FIXED = {
    "model": "SiT-Ti/8",
    "init": "start.pt",
    "init_sha256": "0" * 64,
    "image_size": 32,
    "flip": True,
    "encoder": "none",
    "encoder_precision": "bf16",
    "encoder_depth": 2,
    "projector": "conv",
    "projector_dim": 16,
    "normalise_targets": "spatial",
    "qk_norm": True,
    "path_type": "cosine",
    "weighting": "lognormal",
    "batch_size": 4,
    "seed": 1,
}


KILLED = """
import os, signal, sys
from pathlib import Path
from repa_base.files import replacing
with replacing(Path(sys.argv[1])) as partial:
    partial.write_bytes(b"half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def killed_while_writing(path):
    command = [sys.executable, "-c", KILLED, str(path)]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL


def begun(out, step=0, **changes):
    """Record a run's start, or, with changes, that it goes on with them after `step` steps."""
    before = read_run_config(out)
    config = replace(before or TINY, **changes)
    return record_settings(out, config, before=before, step=step, skip=())


def history(out):
    return [unsealed(json.loads(x)) for x in (out / "history.jsonl").read_text().splitlines()]


def test_every_setting_is_known_to_these_tests():
    assert {*OTHER, *FIXED, "data"} == set(asdict(TINY))  # there is but one data set


@pytest.mark.parametrize("name", OTHER)
def test_what_says_how_a_run_steps_may_change_and_the_history_says_since_when(tmp_path, name):
    begun(tmp_path)
    assert not (tmp_path / "history.jsonl").exists()
    config = replace(TINY, **{name: OTHER[name]})
    assert check_run_folder(config, tmp_path, resume=True) == TINY
    assert read_run_config(tmp_path) == TINY  # checking writes nothing
    _, notes = begun(tmp_path, step=3, **{name: OTHER[name]})
    assert read_run_config(tmp_path) == config
    old = getattr(TINY, name)
    assert history(tmp_path) == [
        {"from_step": 4, "changed": {name: [old, OTHER[name]]}, "skip": []}
    ]
    assert notes == [f"{name} {old} -> {OTHER[name]}"]
    begun(tmp_path, step=5)
    begun(tmp_path, step=5, **{name: old})
    assert [entry["from_step"] for entry in history(tmp_path)] == [4, 6]


@pytest.mark.parametrize("name", FIXED)
def test_what_decides_network_data_or_draws_may_not_change(tmp_path, name):
    begun(tmp_path)
    config = replace(TINY, **{name: FIXED[name]})
    with pytest.raises(OutputExistsError, match=rf"\({name}\): use another --out"):
        check_run_folder(config, tmp_path, resume=True)
    assert read_run_config(tmp_path) == TINY


def test_steps_left_out_are_remembered(tmp_path):
    begun(tmp_path)
    skipped, notes = record_settings(tmp_path, TINY, before=TINY, step=3, skip=[5, 4])
    assert skipped == {4, 5} and notes == [
        "without the update of step 4",
        "without the update of step 5",
    ]
    assert record_settings(tmp_path, TINY, before=TINY, step=3, skip=[]) == ({4, 5}, [])
    # A script that says so each time goes on, also when the step is behind the run.
    assert record_settings(tmp_path, TINY, before=TINY, step=5, skip=[4]) == ({4, 5}, [])
    assert history(tmp_path) == [{"from_step": 4, "changed": {}, "skip": [4, 5]}]


@pytest.mark.parametrize("number", [0, 3, 7])
def test_a_step_that_is_not_to_come_cannot_be_left_out(tmp_path, number):
    begun(tmp_path)
    with pytest.raises(SettingError, match="only steps after 3 and up to 6") as caught:
        record_settings(tmp_path, TINY, before=TINY, step=3, skip=[number])
    assert caught.value.field == "skip"
    assert not (tmp_path / "history.jsonl").exists()


@pytest.mark.parametrize(
    "text",
    [
        b'{"skip": [1]',
        b"[1]\n",
        b"{}",
        b'{"skip": 5}',
        b'{"skip": "12"}',
        b'{"skip": [1e999]}',
        b"\xff\xfe",
        b"[" * 100_000,
    ],
)
def test_a_damaged_history_is_named(tmp_path, text):
    begun(tmp_path)
    (tmp_path / "history.jsonl").write_bytes(text)
    with pytest.raises(CheckpointFormatError, match=r"history\.jsonl: is damaged"):
        begun(tmp_path, step=1)


def test_damaged_settings_of_a_run_are_named(tmp_path):
    (tmp_path / "config.json").write_text('{"data": "dig')
    with pytest.raises(CheckpointFormatError, match=r"config\.json: holds no settings"):
        check_run_folder(TINY, tmp_path, resume=True)


def test_a_run_cannot_end_before_the_step_that_it_has_reached(tmp_path):
    begun(tmp_path)
    with pytest.raises(SettingError, match=r"num_steps must be at least 5, .* got 4") as caught:
        begun(tmp_path, step=5, num_steps=4)
    assert caught.value.field == "num_steps"
    assert read_run_config(tmp_path) == TINY and not (tmp_path / "history.jsonl").exists()
    begun(tmp_path, step=5, num_steps=5)


@pytest.mark.parametrize(
    "change",
    [
        {"learning_rate": -1},
        {"learning_rate": "0.1"},
        {"data": None},
        {"model": 5},
        {"model": ["SiT-Ti/4"]},
        {"learning_rat": 1},
        {"num_steps": ...},
    ],
)
def test_settings_that_no_run_has_are_damage_to_its_file(tmp_path, change):
    values = {name: v for name, v in {**asdict(TINY), **change}.items() if v is not ...}
    (tmp_path / "config.json").write_text(json.dumps(values))
    with pytest.raises(CheckpointFormatError, match=r"config\.json: holds no settings"):
        read_run_config(tmp_path)


def test_no_change_holds_that_the_history_could_not_record(tmp_path, monkeypatch):
    def full(path, text):
        if path.name == "history.jsonl":
            raise OSError(28, "disk full")
        write_text(path, text)

    begun(tmp_path)
    write_text = run_folder.write_text
    monkeypatch.setattr(run_folder, "write_text", full)
    with pytest.raises(OSError, match="disk full"):
        begun(tmp_path, step=3, learning_rate=5e-4)
    assert read_run_config(tmp_path) == TINY


def test_a_folder_that_is_no_run_is_left_alone(tmp_path):
    (tmp_path / "thesis.txt").write_text("precious")
    with pytest.raises(OutputExistsError, match="holds no run"):
        check_run_folder(TINY, tmp_path, resume=True)
    assert (tmp_path / "thesis.txt").read_text() == "precious"


def test_two_processes_cannot_train_in_one_folder(tmp_path):
    with (
        locked(tmp_path / "run"),
        pytest.raises(OutputExistsError, match="another process trains"),
        locked(tmp_path / "run"),
    ):
        pass


@pytest.mark.parametrize(
    ("keep_last", "keep_every", "kept"),
    [
        (1, 0, [60]),
        (2, 0, [50, 60]),
        (2, 20, [20, 40, 50, 60]),
        (3, 30, [30, 40, 50, 60]),
        (9, 0, [10, 20, 30, 40, 50, 60]),
    ],
)
def test_the_latest_checkpoints_and_those_at_multiples_stay(tmp_path, keep_last, keep_every, kept):
    for step in range(10, 70, 10):
        (tmp_path / f"step-{step:07d}").mkdir()
        (tmp_path / f"step-{step:07d}/ema.safetensors").touch()
    remove_old_checkpoints(tmp_path, keep_last=keep_last, keep_every=keep_every)
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"step-{s:07d}" for s in kept]


def test_steps_are_counted_and_not_spelled(tmp_path):
    for step in (9_999_999, 10_000_000):
        (tmp_path / f"step-{step:07d}").mkdir()
    remove_old_checkpoints(tmp_path, keep_last=1, keep_every=0)
    assert [path.name for path in tmp_path.iterdir()] == ["step-10000000"]


def test_what_a_killed_process_left_of_a_checkpoint_is_removed(tmp_path):
    folder = tmp_path / "checkpoints"
    (folder / "step-0000001").mkdir(parents=True)
    killed_while_writing(folder / "step-0000002")
    assert checkpoints_of(tmp_path) == [folder / "step-0000001"]
    assert len(list(folder.iterdir())) == 2
    remove_old_checkpoints(folder, keep_last=1, keep_every=0)
    assert [path.name for path in folder.iterdir()] == ["step-0000001"]


def test_a_run_that_was_killed_in_its_very_first_write_can_be_started(tmp_path):
    killed_while_writing(tmp_path / "run" / "config.json")
    assert len(list((tmp_path / "run").iterdir())) == 1
    assert check_run_folder(TINY, tmp_path / "run", resume=False) is None
    with locked(tmp_path / "run"):
        assert [path.name for path in (tmp_path / "run").iterdir()] == ["run.lock"]


def test_a_run_that_is_opened_holds_nothing_that_a_kill_left_of_a_checkpoint(tmp_path):
    whole, killed = (tmp_path / f"checkpoints/step-000000{step}" for step in (1, 2))
    whole.mkdir(parents=True)
    killed_while_writing(killed)
    with locked(tmp_path):
        assert list((tmp_path / "checkpoints").iterdir()) == [whole]


def test_only_checkpoints_and_what_a_kill_left_of_them_are_removed(tmp_path):
    others = ["step-12", "step-0000001.bak", "best-step-0000001", "step-0000001-old", ".git"]
    others += ["step-abcdefg", "notes.part", ".step-0000001.backup", ".step-0000000.0a1b2c3d.part"]
    for name in [*others, "step-0000001", "step-0000002"]:
        (tmp_path / name).mkdir()
        (tmp_path / name / "precious").touch()
    remove_old_checkpoints(tmp_path, keep_last=1, keep_every=0)
    assert {path.name for path in tmp_path.iterdir()} == {*others, "step-0000002"}
    assert all((tmp_path / name / "precious").exists() for name in others)


def test_a_kill_while_removing_leaves_whole_checkpoints_and_the_next_time_cleans_up(
    tmp_path, monkeypatch
):
    folder = tmp_path / "checkpoints"
    for step in (1, 2, 3):
        (folder / f"step-{step:07d}").mkdir(parents=True)
        (folder / f"step-{step:07d}/ema.safetensors").touch()

    def killed(path, **options):
        next(path.rglob("ema.safetensors")).unlink()
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("shutil.rmtree", killed)
        with pytest.raises(KeyboardInterrupt):
            remove_old_checkpoints(folder, keep_last=1, keep_every=0)
    assert all((path / "ema.safetensors").exists() for path in folder.glob("step-*"))
    assert checkpoints_of(tmp_path)[0].name == "step-0000003"
    remove_old_checkpoints(folder, keep_last=1, keep_every=0)
    assert [path.name for path in folder.iterdir()] == ["step-0000003"]


def flipped(path, old, new):
    text = path.read_text()
    assert text.count(old) == 1 and len(old) == len(new)
    path.write_text(text.replace(old, new))


@pytest.mark.parametrize(
    ("old", "new"), [('"learning_rate": 0.001', '"learning_rate": 0.003'), ("crc32", "crc33")]
)
def test_a_changed_byte_in_the_settings_of_a_run_is_named(tmp_path, old, new):
    begun(tmp_path)
    flipped(tmp_path / "config.json", old, new)
    with pytest.raises(CheckpointFormatError, match=r"config\.json: holds no settings"):
        read_run_config(tmp_path)


def test_settings_nested_too_deeply_are_damage(tmp_path):
    (tmp_path / "config.json").write_text("[" * 100_000)
    with pytest.raises(CheckpointFormatError, match="nested too deeply"):
        read_run_config(tmp_path)


def test_damaged_settings_are_mended_by_those_of_a_checkpoint_as_the_message_says(tmp_path):
    begun(tmp_path)
    flipped(tmp_path / "config.json", '"seed": 0', '"seed": 5')
    with pytest.raises(CheckpointFormatError, match=r'"config" in its state\.json'):
        read_run_config(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(asdict(TINY)))
    assert read_run_config(tmp_path) == TINY
    begun(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text()).keys() > {"history_lines", "crc32"}


@pytest.mark.parametrize("cut", ["all", "last line", "flip"])
def test_a_history_that_lost_what_counts_is_named(tmp_path, cut):
    begun(tmp_path)
    for numbers in ([4], [5]):
        record_settings(tmp_path, TINY, before=TINY, step=3, skip=numbers)
    path = tmp_path / "history.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    if cut == "all":
        path.unlink()
    elif cut == "last line":
        path.write_text(lines[0])
    else:
        path.write_text(lines[0].replace('"skip": [4]', '"skip": [6]') + lines[1])
    with pytest.raises(CheckpointFormatError, match=r"history\.jsonl: is damaged"):
        begun(tmp_path, step=3)


def test_a_change_whose_recording_was_killed_never_held(tmp_path, monkeypatch):
    def killed(path, text):
        write_text(path, text)
        if path.name == "history.jsonl":
            raise KeyboardInterrupt

    begun(tmp_path)
    write_text = run_folder.write_text
    with monkeypatch.context() as patch:
        patch.setattr(run_folder, "write_text", killed)
        with pytest.raises(KeyboardInterrupt):
            record_settings(
                tmp_path, replace(TINY, learning_rate=5e-4), before=TINY, step=3, skip=[5]
            )
    assert len(history(tmp_path)) == 1 and read_run_config(tmp_path) == TINY
    assert record_settings(tmp_path, TINY, before=TINY, step=3, skip=[6]) == (
        {6},
        ["without the update of step 6"],
    )
    assert [entry["skip"] for entry in history(tmp_path)] == [[6]]


def test_a_history_of_an_earlier_version_counts_whole(tmp_path):
    entry = {"from_step": 3, "changed": {}, "skip": [4]}
    (tmp_path / "history.jsonl").write_text(json.dumps(entry) + "\n")
    (tmp_path / "config.json").write_text(json.dumps(asdict(TINY)))
    assert begun(tmp_path, step=2) == ({4}, [])
    record_settings(tmp_path, TINY, before=TINY, step=2, skip=[5])
    assert history(tmp_path) == [entry, {"from_step": 3, "changed": {}, "skip": [5]}]
    first = (tmp_path / "history.jsonl").read_text().splitlines()[0]
    assert json.loads(first) == sealed(entry)


@pytest.mark.parametrize(
    "junk", [b"\xff\xfe\x00\n", b"[" * 100_000 + b"\n", b'{"step": "x"}\n', b"5\n", b"\x85{}\n"]
)
def test_what_is_no_entry_of_a_log_is_dropped(tmp_path, junk):
    path = tmp_path / "log.jsonl"
    first, second = b'{"step": 1, "loss": 0.5}\n', b'{"step": 2, "loss": 0.25}\n'
    path.write_bytes(first + junk + second + b'{"step": 3}\n')
    log = Log(path, 2)
    assert path.read_bytes() == first + second
    log.write_step(3, {"loss": 0.125, "learning_rate": 1e-3})
    entry = json.loads(path.read_text().splitlines()[-1])
    assert entry.pop("steps_per_second") > 0
    assert entry == {"step": 3, "loss": 0.125, "learning_rate": 1e-3}


def test_the_log_tells_the_speed_of_the_steps_alone(tmp_path, monkeypatch):
    clock = iter([10.0, 14.0, 20.0])
    monkeypatch.setattr(run_folder, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    log = Log(tmp_path / "log.jsonl", 2)
    log.write_step(4, {})  # two steps in four seconds
    log.leave_out(2.0)
    log.write_step(12, {})  # eight in the other four
    entries = map(json.loads, (tmp_path / "log.jsonl").read_text().splitlines())
    assert [entry["steps_per_second"] for entry in entries] == [0.5, 2.0]


def test_what_is_set_aside_counts_no_more_and_replaces_what_was_set_aside_before(tmp_path):
    for mark in ("old", "new"):
        folder = tmp_path / "checkpoints/step-0000002"
        folder.mkdir(parents=True)
        (folder / mark).touch()
        set_aside(tmp_path, [folder])
    assert not checkpoints_of(tmp_path)
    assert [p.name for p in (tmp_path / "set-aside/step-0000002").iterdir()] == ["new"]
