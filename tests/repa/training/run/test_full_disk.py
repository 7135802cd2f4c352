"""What a run does when it cannot write: a full disk, and a file that may not grow."""

import errno
import json
import os
import resource
import subprocess
import sys
from collections import namedtuple
from dataclasses import replace

import pytest
from safetensors.torch import load_file
from tiny_run import QUIET, TINY, file_bytes, tiny_state

import repa.training.previews as previews
import repa_base.files as files
from repa.training.loop import train
from repa.training.run.folder import checkpoints_of

Usage = namedtuple("Usage", "total used free")
BUSY = replace(QUIET, checkpoint_every=2, preview_every=2)


@pytest.fixture(autouse=True)
def small_previews(monkeypatch):
    monkeypatch.setattr(previews, "_ROWS", 1)
    monkeypatch.setattr(previews, "_STEPS", 1)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return train(TINY, tmp_path_factory.mktemp("whole") / "run", reporting=QUIET)


def steps_logged(out):
    return [json.loads(x)["step"] for x in (out / "log.jsonl").read_text().splitlines()]


def filling_after(monkeypatch, checkpoints, out):
    """Let a disk have room for so many checkpoints and no more."""
    size = tiny_state().num_bytes

    def usage(path):
        return Usage(0, 0, int(size * 1.5) if len(checkpoints_of(out)) < checkpoints else size // 2)

    monkeypatch.setattr(files.shutil, "disk_usage", usage)


def test_a_state_knows_the_size_of_its_checkpoint(whole):
    on_disk = sum(path.stat().st_size for path in whole.iterdir())
    assert 0 <= on_disk - tiny_state().num_bytes < 40_000


def test_room_for_a_checkpoint_is_known_before_the_steps_that_lead_to_it(
    tmp_path, monkeypatch, whole
):
    out, taken = tmp_path / "run", []
    reporting = replace(BUSY, preview_every=0, on_step=lambda step, losses: taken.append(step))
    with monkeypatch.context() as patch:
        filling_after(patch, 1, out)
        with pytest.raises(OSError, match=r"step 4 needs .*; make room and go on with: repa train"):
            train(TINY, out, reporting=reporting)
    assert taken == [1, 2]
    assert [path.name for path in checkpoints_of(out)] == ["step-0000002"]
    assert file_bytes(train(TINY, out, resume=True, reporting=QUIET)) == file_bytes(whole)


def test_a_run_without_room_for_its_first_checkpoint_takes_no_step(tmp_path, monkeypatch):
    taken = []
    filling_after(monkeypatch, 0, tmp_path)
    with pytest.raises(OSError, match="the checkpoint of step 2 needs") as caught:
        train(TINY, tmp_path, reporting=replace(BUSY, on_step=lambda *step: taken.append(step)))
    assert caught.value.errno == errno.ENOSPC and not taken


@pytest.mark.parametrize(
    "full", ["log.jsonl", "step-0000004", "step-0000004.png", "model.safetensors"]
)
def test_whatever_a_full_disk_ends_goes_on_from_what_was_saved(tmp_path, monkeypatch, whole, full):
    out = tmp_path / "run"

    def refuse(path):
        if path.name == full and (full != "log.jsonl" or (saved / "step-0000002").exists()):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    saved = out / "checkpoints"
    opened, settle = files.Path.open, files._settle

    def open_(path, mode="r", *arguments, **options):
        if set(mode) & set("wax+"):
            refuse(path)
        return opened(path, mode, *arguments, **options)

    def settled(path, mode):
        refuse(path)
        if path.is_dir() and "step-0000004" in str(path):
            for inner in path.iterdir():
                refuse(inner)
        return settle(path, mode)

    with monkeypatch.context() as patch:
        patch.setattr(files.Path, "open", open_)
        patch.setattr(files, "_settle", settled)
        with pytest.raises(OSError, match="make room and go on with: repa train --out") as caught:
            train(TINY, out, reporting=BUSY)
    assert "\n" not in str(caught.value)
    assert "step-0000002" in [path.name for path in checkpoints_of(out)]
    assert not list(out.rglob(".*.part"))
    last = train(TINY, out, resume=True, reporting=BUSY)
    assert file_bytes(last) == file_bytes(whole)
    assert steps_logged(out) == [1, 2, 3, 4, 5, 6]
    assert sorted(path.name for path in (out / "previews").iterdir()) == [
        f"step-000000{step}.png" for step in (2, 4, 6)
    ]


def limited(tmp_path, limit, *arguments):
    """Run the command where no file may be larger than `limit` bytes."""

    def limit_files():
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    return subprocess.run(
        [sys.executable, "-m", "repa_cli", *map(str, arguments)],
        cwd=tmp_path,
        preexec_fn=limit_files,
        capture_output=True,
        text=True,
        check=False,
    )


SMALL = ("--model", "SiT-Pico/8", "--image-size", 16, "--encoder", "none", "--encoder-depth", 1)
SMALL += ("--batch-size", 8, "--warmup-steps", 0, "--decay-steps", 0, "--preview-every", 0)


def test_files_that_the_system_does_not_let_grow_are_one_line_of_training_and_of_export(
    tmp_path, whole
):
    arguments = ("train", *SMALL, "--steps", 6, "--checkpoint-every", 3, "--out", "run")
    done = limited(tmp_path, 100_000, *arguments)
    assert done.returncode == 1 and not done.stdout
    (line,) = [x for x in done.stderr.splitlines() if "error" in x]
    assert "File too large" in line and "Traceback" not in done.stderr
    assert "make room and go on with: repa train --out run --resume" in line
    done = limited(tmp_path, 10**9, *arguments, "--resume")
    assert done.returncode == 0, done.stderr
    last = load_file(tmp_path / "run/checkpoints/step-0000006/ema.safetensors")
    assert all(tensor.isfinite().all() for tensor in last.values())
    done = limited(tmp_path, 100_000, "export", "run", "out.safetensors")
    assert done.returncode == 1 and not done.stdout
    assert done.stderr.count("\n") == 1 and "out.safetensors: File too large" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
