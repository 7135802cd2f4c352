"""Runs of `generate` that go on, are shared, repeated, extended and replaced."""

import signal
import subprocess
import sys
from itertools import pairwise

import pytest
from tiny_checkpoint import save_tiny
from tiny_generation import NUM_IMAGES, read, run
from worlds import run_world, start_world

from repa.checkpoints import Checkpoint
from repa.errors import (
    ChecksumError,
    OutputExistsError,
)
from repa.generation.job import generate
from repa.generation.sample_files.sample_file import NpzWriter
from repa.generation.settings import SampleConfig

KILLED_RUN = """
import os, signal, sys
from pathlib import Path
from repa.generation import Protocol, images_of, integration, job
from repa.generation.job import generate
from repa.generation.settings import SampleConfig

def kill(done, total):
    if done > 10:  # in the middle of the second batch of 7
        os.kill(os.getpid(), signal.SIGKILL)

generate(SampleConfig(model=sys.argv[1], num_images=20, num_steps=4, batch_size=7, device="cpu",
                      out=Path(sys.argv[2]), solver=sys.argv[3]), progress=kill)
"""


@pytest.mark.parametrize("solver", ["sde", "sa"])
def test_killed_run_goes_on_and_ends_with_the_bytes_of_an_uninterrupted_one(
    settings, tmp_path, solver
):
    settings |= {"solver": solver}
    expected = run(settings, out=tmp_path / "whole.npz").read_bytes()
    arguments = [sys.executable, "-c", KILLED_RUN, settings["model"], str(settings["out"]), solver]
    assert subprocess.run(arguments, check=False).returncode == -signal.SIGKILL
    assert not settings["out"].exists()
    progress = []
    generate(SampleConfig(**settings), progress=lambda done, total: progress.append((done, total)))
    assert progress[0] == (7, NUM_IMAGES) and progress[-1] == (NUM_IMAGES, NUM_IMAGES)
    assert settings["out"].read_bytes() == expected
    assert sorted(path.name for path in tmp_path.iterdir()) == ["samples.npz", "whole.npz"]


def test_interrupted_run_goes_on_in_its_own_blocks_whatever_batch_size_is_asked_for(
    settings, tmp_path
):
    expected = run(settings, out=tmp_path / "whole.npz").read_bytes()

    def interrupt(done, total):
        if done >= 14:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        generate(SampleConfig(**settings), progress=interrupt)
    notes, sizes = [], []
    config = SampleConfig(**{**settings, "batch_size": 4})
    generate(config, progress=lambda done, _: sizes.append(done), on_note=notes.append)
    assert notes == ["going on with the run's blocks of 7 images, not 4."]
    assert sizes[0] == 14 and settings["out"].read_bytes() == expected
    assert generate(config).was_finished


RANK = """
import sys
from pathlib import Path
from repa.generation.job import generate
from repa.generation.settings import SampleConfig
from repa_base.processes import joined_processes

model, out, num_images, *shares = sys.argv[1:]
totals = set()
with joined_processes() as processes:
    config = SampleConfig(model=model.format(rank=processes.rank), num_images=int(num_images),
                          num_steps=4, batch_size=7, device="cpu", out=Path(out))
    progress = lambda done, total: totals.add(total)
    file = generate(config, processes=processes, progress=progress)
assert file.path.exists(), "every process returns when the file is complete"
assert not file.was_finished
assert totals == {int(shares[processes.rank])}, "every process has its share"
"""


@pytest.mark.parametrize("before", [None, 20], ids=["from nothing", "extending"])
def test_two_processes_give_the_bytes_of_one(settings, tmp_path, before):
    expected = run(settings, num_images=30, out=tmp_path / "one.npz").read_bytes()
    if before:
        run(settings, num_images=before)
    arguments = ("-c", RANK, settings["model"], settings["out"], 30, 16, 14)
    assert run_world(2, *arguments) == [(0, "", "")] * 2
    assert settings["out"].read_bytes() == expected


def test_what_the_first_process_refuses_all_refuse_in_the_same_words(settings):
    settings["out"].with_name("samples.npz.progress").write_text("precious")
    arguments = ("-c", RANK, settings["model"], settings["out"], 30, 16, 14)
    for code, _, err in run_world(2, *arguments):
        assert code == 1
        assert "OutputExistsError" in err and "samples.npz.progress was not made by" in err


def test_processes_that_find_other_checkpoints_make_no_file_together(settings, tmp_path):
    for rank in (0, 1):
        save_tiny(tmp_path / f"tiny-{rank}.safetensors", depth=1 + rank)
    template = tmp_path / "tiny-{rank}.safetensors"
    for code, _, err in run_world(2, "-c", RANK, template, settings["out"], 30, 16, 14):
        assert code == 1 and "process 1 would make other images than the first one" in err
    assert not list(tmp_path.glob("samples*"))


LEFT_OVER = """
import os, signal, sys, time
from pathlib import Path
from repa.generation.job import generate
from repa.generation.settings import SampleConfig
from repa_base.processes import joined_processes

def progress(done, total):
    if done >= 7 and processes.is_first:
        os.kill(os.getpid(), signal.SIGKILL)
    while done >= 7 and not Path(sys.argv[3]).exists():
        time.sleep(0.05)

with joined_processes() as processes:
    generate(SampleConfig(model=sys.argv[1], num_images=40, num_steps=4, batch_size=7,
                          device="cpu", out=Path(sys.argv[2])),
             processes=processes, progress=progress)
"""


@pytest.mark.slow
def test_process_that_a_kill_left_over_puts_nothing_into_the_next_run(settings, tmp_path):
    settings |= {"num_images": 40, "seed": 1, "overwrite": True}
    expected = run(settings, out=tmp_path / "whole.npz").read_bytes()
    go = tmp_path / "go"
    arguments = ("-c", LEFT_OVER, settings["model"], settings["out"], go)
    first, left_over = start_world(2, *arguments)
    assert first.wait(timeout=300) == -signal.SIGKILL

    def interrupt(done, total):
        if done >= 7:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        generate(SampleConfig(**settings), progress=interrupt)
    go.touch()  # now it goes on with its own images
    _, err = left_over.communicate(timeout=300)
    assert left_over.returncode == 1 and "being written by another run by now" in err
    first.communicate()
    done = []
    generate(SampleConfig(**settings), progress=lambda made, total: done.append(made))
    assert done[0] == 7 and settings["out"].read_bytes() == expected


def test_finished_run_is_repeated_without_loading_a_network(settings, monkeypatch):
    before = run(settings).read_bytes()

    def fail(*arguments):
        raise AssertionError("a network was built")

    monkeypatch.setattr(Checkpoint, "model", property(fail))
    progress = []
    again = generate(SampleConfig(**settings), progress=lambda *values: progress.append(values))
    assert again.was_finished and again.path == settings["out"]
    assert progress == [(NUM_IMAGES, NUM_IMAGES)]
    assert settings["out"].read_bytes() == before


@pytest.mark.parametrize(
    "changes",
    [{"seed": 1}, {"cfg_scale": 1.0}, {"num_steps": 5}, {"labels": "balanced"}],
)
def test_output_of_other_settings_is_replaced_only_on_request(settings, changes):
    before = run(settings).read_bytes()
    with pytest.raises(OutputExistsError, match=f"other settings .*{next(iter(changes))}"):
        run(settings, **changes)
    assert settings["out"].read_bytes() == before
    assert run(settings, overwrite=True, **changes).read_bytes() != before


def test_longer_file_is_cut_on_no_account(settings):
    before = run(settings).read_bytes()
    with pytest.raises(OutputExistsError, match="holds 20 images of these settings, not 19; use"):
        run(settings, num_images=19)
    assert settings["out"].read_bytes() == before
    assert len(read(run(settings, num_images=19, overwrite=True))[0]) == 19


@pytest.mark.parametrize(
    ("solver", "labels", "longer"),
    [("sde", "random", 22), ("heun", "balanced", 28), ("dopri5", "random", 30)],
)
def test_extended_file_is_that_of_a_run_of_the_whole_length(
    settings, tmp_path, solver, labels, longer
):
    settings |= {"solver": solver, "labels": labels}
    expected = run(settings, num_images=longer, out=tmp_path / "whole.npz").read_bytes()
    run(settings)
    notes, done = [], []
    generate(
        SampleConfig(**{**settings, "num_images": longer, "batch_size": 5}),
        progress=lambda *seen: done.append(seen),
        on_note=notes.append,
    )
    assert settings["out"].read_bytes() == expected
    assert done[0] == (14, longer)
    assert notes == [
        f"extending {settings['out']}: 14 of its images stay.",
        "going on with the run's blocks of 7 images, not 5.",
    ]


def test_interrupted_run_is_extended_too(settings, tmp_path):
    expected = run(settings, num_images=30, out=tmp_path / "whole.npz").read_bytes()

    def interrupt(done, total):
        if done >= NUM_IMAGES:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        generate(SampleConfig(**settings), progress=interrupt)
    done = []
    longer = SampleConfig(**{**settings, "num_images": 30})
    generate(longer, progress=lambda *seen: done.append(seen))
    assert done[0] == (14, 30)
    assert settings["out"].read_bytes() == expected


def spoiled_while_it_is_filled(monkeypatch, times):
    """Let the disk lose an image just before the file is completed, so many times."""
    finish, left = NpzWriter.finish, [None] * times

    def spoil(writer):
        if left:
            left.pop()
            with writer.path.with_name("samples.npz.part").open("r+b") as part:
                part.seek(writer.run.members[0].data_offset + 8 * 192)  # image 8
                part.write(bytes(100))
        return finish(writer)

    monkeypatch.setattr(NpzWriter, "finish", spoil)


def test_image_that_the_disk_lost_is_made_again(settings, tmp_path, monkeypatch):
    expected = run(settings, out=tmp_path / "whole.npz").read_bytes()
    spoiled_while_it_is_filled(monkeypatch, times=2)
    notes, done = [], []
    result = generate(
        SampleConfig(**settings),
        progress=lambda made, total: done.append(made),
        on_note=notes.append,
    )
    assert not result.was_finished and settings["out"].read_bytes() == expected
    assert notes == ["damaged on disk: 1 of 20 images; making them again."] * 2
    falls = [after for before, after in pairwise(done) if after < before]
    assert falls == [13, 13] and done[-1] == NUM_IMAGES  # a block of 7 is made again


def test_disk_that_keeps_nothing_is_an_error_and_not_an_endless_loop(settings, monkeypatch):
    spoiled_while_it_is_filled(monkeypatch, times=100)
    with pytest.raises(ChecksumError, match=r"samples\.npz\.part does not keep what is written"):
        run(settings)
    assert not settings["out"].exists()


def test_run_whose_images_are_all_there_but_not_its_headers_was_not_finished(settings, monkeypatch):
    with monkeypatch.context() as patch:

        def interrupt(self):
            raise KeyboardInterrupt

        patch.setattr(NpzWriter, "finish", interrupt)
        with pytest.raises(KeyboardInterrupt):
            run(settings)
    assert not generate(SampleConfig(**settings)).was_finished
    assert generate(SampleConfig(**settings)).was_finished
