"""What a run writes goes on with it, and the checkpoints that it kept for good stay."""

import json
import pickle
from dataclasses import replace

import pytest
from tiny_run import QUIET, TINY

import repa.training.run.folder as folder_module
from repa.errors import CheckpointFormatError
from repa.training.loop import train
from repa.training.run.milestones import record_reporting, run_reporting
from repa.training.settings import Reporting

EVERY = replace(QUIET, log_every=2, checkpoint_every=1, keep_every=2)


def steps(out):
    return sorted(int(path.name[5:]) for path in (out / "checkpoints").iterdir())


def go_on(out, num_steps, **options):
    train(replace(TINY, num_steps=num_steps), out, resume=True, **options)
    return steps(out)


@pytest.fixture
def run(tmp_path):
    """A run of eight steps that keeps every second checkpoint."""
    train(replace(TINY, num_steps=8), tmp_path / "run", reporting=EVERY)
    assert steps(tmp_path / "run") == [2, 4, 6, 7, 8]
    return tmp_path / "run"


def test_a_run_goes_on_writing_what_it_wrote_unless_it_is_told_otherwise(run):
    assert run_reporting(run) == EVERY
    assert pickle.loads(pickle.dumps(run_reporting(run))) == EVERY  # to other processes
    assert go_on(run, 11) == [2, 4, 6, 8, 10, 11]
    logged = [json.loads(line)["step"] for line in (run / "log.jsonl").read_text().splitlines()]
    assert logged == [2, 4, 6, 8, 10, 11]
    go_on(run, 12, reporting=replace(EVERY, log_every=1))
    assert run_reporting(run).log_every == 1


def test_milestones_stay_whatever_is_kept_from_then_on(run):
    assert go_on(run, 10, reporting=replace(EVERY, keep_every=3)) == [2, 4, 6, 8, 9, 10]
    # What was kept at first is known still, and what is kept since.
    none = replace(EVERY, keep_every=0, keep_last=1)
    assert go_on(run, 12, reporting=none) == [2, 4, 6, 8, 9, 12]
    assert go_on(run, 13) == [2, 4, 6, 8, 9, 13]


def test_milestones_of_steps_that_are_taken_anew_are_none(run):
    none = replace(EVERY, keep_every=0, keep_last=1)
    assert go_on(run, 9, from_step=4, reporting=none) == [2, 4, 9]


def test_all_checkpoints_stay_where_a_folder_does_not_say_which_it_keeps(run):
    (run / "reporting.json").unlink()
    notes = []
    reporting = replace(QUIET, checkpoint_every=1, keep_last=1, on_note=notes.append)
    assert go_on(run, 10, reporting=reporting) == [2, 4, 6, 7, 8, 10]
    assert "does not say which checkpoints it keeps: those of steps 2, 4, 6, 7, 8 stay" in notes[0]
    notes.clear()
    assert go_on(run, 11, reporting=reporting) == [2, 4, 6, 7, 8, 11]
    assert not [note for note in notes if "does not say" in note]


def test_evaluations_that_end_take_with_them_how_they_were_made():
    before = Reporting(eval_every=5, eval_num=20, eval_reference="mine", log_every=3)
    assert Reporting.going_on(before, eval_num=30) == replace(before, eval_num=30)
    assert Reporting.going_on(before, eval_every=0) == Reporting(log_every=3)
    assert Reporting.going_on(None, log_every=4) == Reporting(log_every=4)


def test_a_reference_is_found_again_from_wherever_the_run_is_called(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "few.npz").touch()
    for name, stored in (("few.npz", str(tmp_path / "few.npz")), ("digits-heldout",) * 2):
        asked = replace(QUIET, eval_every=5, eval_reference=name)
        record_reporting(tmp_path, asked, 0, lambda note: None)
        assert run_reporting(tmp_path) == replace(asked, eval_reference=stored)


@pytest.mark.parametrize("text", ['{"log_every": 5}', "[", '{"milestones": ["x"]}', "5"])
def test_a_damaged_memory_of_it_is_named(run, text):
    (run / "reporting.json").write_text(text)
    with pytest.raises(
        CheckpointFormatError, match=r"reporting.json: is damaged .*checkpoints stay"
    ):
        go_on(run, 9)
    assert steps(run) == [2, 4, 6, 7, 8]


def test_a_run_killed_before_its_settings_are_written_can_be_started(tmp_path, monkeypatch):
    def killed(*arguments):
        raise RuntimeError("killed")

    with monkeypatch.context() as patch:
        patch.setattr(folder_module, "_write_config", killed)
        with pytest.raises(RuntimeError, match="killed"):
            train(TINY, tmp_path, reporting=EVERY)
    assert (tmp_path / "reporting.json").exists()
    assert train(TINY, tmp_path, reporting=QUIET).name == "step-0000006"
