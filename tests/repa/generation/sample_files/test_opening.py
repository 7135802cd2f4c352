"""Sample files that are begun, gone on with and finished."""

import errno
import json
import os
import signal
import subprocess
import sys

import killed_anywhere
import pytest
from sample_files import (
    OTHER,
    SETTINGS,
    begin,
    beside,
    files,
    finish,
    made_up,
    open_writer,
    savez_bytes,
)

from repa.errors import InUseError, OutputExistsError
from repa.generation.sample_files.opening import unfinished_part
from repa.generation.sample_files.sample_run import read_manifest
from repa_base.in_place import marks_file
from repa_base.locks import lock_if_free


def test_finished_run_is_recognised_and_left_alone(path, tmp_path):
    before = finish(path, cycle=(1, 2)), path.stat().st_mtime_ns
    for changes in ({}, {"overwrite": True}, {"batch_size": 5}):
        assert open_writer(path, cycle=(1, 2), **changes) is None
    assert before == (path.read_bytes(), path.stat().st_mtime_ns)
    assert files(tmp_path) == ["samples.npz"]


def test_finished_output_of_other_settings_is_replaced_only_on_request_and_when_complete(path):
    before = finish(path)
    with pytest.raises(
        OutputExistsError, match=r"cfg_scale 1\.8 there, 1\.5 here, versions\.torch"
    ):
        open_writer(path, **OTHER)
    with open_writer(path, overwrite=True, **OTHER) as writer:
        assert writer.num_done() == 0
        writer.write(0, *made_up())
        assert path.read_bytes() == before
        writer.finish()
    assert read_manifest(path) == {**SETTINGS, **OTHER}


def test_unfinished_output_of_other_settings_is_replaced_only_on_request(path):
    begin(path, 7)
    before = beside(path, "part").read_bytes()
    with pytest.raises(OutputExistsError, match=r"samples\.npz\.part was made by other settings"):
        open_writer(path, **OTHER)
    assert beside(path, "part").read_bytes() == before
    with open_writer(path) as writer:
        assert writer.num_done() == 7
    with open_writer(path, overwrite=True, **OTHER) as writer:
        assert writer.num_done() == 0


def test_crash_while_the_files_are_made_is_recovered_from(path, tmp_path):
    begin(path, 7)
    os.truncate(beside(path, "part"), 100)
    with open_writer(path) as writer:
        assert writer.num_done() == 0
    beside(path, "part").unlink()
    with open_writer(path) as writer:
        assert writer.num_done() == 0
    (tmp_path / "c.npz.progress").write_bytes(b"")
    with open_writer(tmp_path / "c.npz") as writer:
        assert writer.num_done() == 0


KILLED_START = """
import json, os, signal, sys
from pathlib import Path
from repa.generation.sample_files.opening import open_output

allocate = os.posix_fallocate

def kill(*arguments):
    if sys.argv[2] == "after":
        allocate(*arguments)
    os.kill(os.getpid(), signal.SIGKILL)

os.posix_fallocate = kill
open_output(Path(sys.argv[1]), json.loads(sys.argv[3]))
"""


@pytest.mark.parametrize("moment", ["before", "after"])
def test_run_that_was_killed_while_room_was_reserved_is_started_again(path, tmp_path, moment):
    arguments = [sys.executable, "-c", KILLED_START, str(path), moment, json.dumps(SETTINGS)]
    assert subprocess.run(arguments, check=False).returncode == -signal.SIGKILL
    assert files(tmp_path) == ["samples.npz.part", "samples.npz.progress"]
    with pytest.raises(OutputExistsError, match="was made by other settings"):
        open_writer(path, **OTHER)
    images, labels = made_up()
    with open_writer(path) as writer:
        assert writer.num_done() == 0
        writer.write(0, images, labels)
        writer.finish()
    assert path.read_bytes() == savez_bytes(tmp_path / "numpy.npz", images, labels, SETTINGS)


def test_crash_between_the_two_steps_of_finishing_leaves_a_finished_file(path, tmp_path):
    begin(path, 1)
    progress = beside(path, "progress").read_bytes()
    finish(path)
    beside(path, "progress").write_bytes(progress)
    assert open_writer(path) is None
    assert files(tmp_path) == ["samples.npz"]
    beside(path, "progress").write_bytes(progress)
    with open_writer(path, overwrite=True, **OTHER) as writer:
        assert writer.num_done() == 0


def test_second_run_of_the_same_output_is_refused_while_the_first_lasts(path):
    for count in (1, 2):  # a new run, one that is continued
        with open_writer(path) as writer:
            writer.write(0, *(rows[:count] for rows in made_up()))
            for overwrite in (False, True):
                with pytest.raises(InUseError, match="being written by another run"):
                    open_writer(path, overwrite=overwrite)
            assert writer.num_done() == count
    open_writer(path).close()


def test_run_that_another_finishes_before_the_lock_is_had_is_found_finished(path, monkeypatch):
    other = open_writer(path)
    other.write(0, *made_up())

    def lock(descriptor, name):
        if other.run:
            other.finish()
            other.close()
            other.run = None
        return lock_if_free(descriptor, name)

    monkeypatch.setattr(marks_file, "lock_if_free", lock)
    assert open_writer(path) is None
    assert files(path.parent) == [path.name]


def test_file_that_does_not_fit_on_the_disk_is_refused_before_the_first_image(path, tmp_path):
    with pytest.raises(OSError, match=r"No space: the file needs 3.* TB") as caught:
        open_writer(path, num_images=10**12, image_size=1024)
    assert caught.value.errno == errno.ENOSPC
    assert files(tmp_path) == []


def test_disk_that_fills_up_while_room_is_reserved_leaves_nothing(path, tmp_path, monkeypatch):
    def fail(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", fail)
    with pytest.raises(OSError, match="No space: the file needs"):
        open_writer(path)
    assert files(tmp_path) == []


def test_disk_space_is_reserved_before_the_first_image(path):
    with open_writer(path, num_images=1000, image_size=32):
        assert 512 * beside(path, "part").stat().st_blocks >= 1000 * 32 * 32 * 3


def test_folder_that_cannot_be_written_is_an_error(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OSError, match="file"):
        open_writer(tmp_path / "file" / "samples.npz")


def test_missing_folders_are_made(tmp_path):
    open_writer(tmp_path / "a" / "b" / "samples.npz").close()
    assert len(files(tmp_path / "a" / "b")) == 2


def test_link_stays_and_what_it_leads_to_is_written(path, tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    path.symlink_to("disk/real.npz")
    assert unfinished_part(path) is None
    begin(path, 2)
    assert files(tmp_path) == ["disk", "samples.npz"]
    assert unfinished_part(path) == disk / "real.npz.part"
    expected = finish(path)
    assert path.is_symlink() and (disk / "real.npz").read_bytes() == expected
    assert files(disk) == ["real.npz"]
    assert open_writer(path) is None
    finish(path, overwrite=True, **OTHER)
    assert path.is_symlink() and files(disk) == ["real.npz"]


def test_link_into_a_missing_folder_is_one_line(path, tmp_path):
    path.symlink_to("disk/real.npz")
    with pytest.raises(OSError, match=r"is a link into .*, a folder that is not there") as caught:
        open_writer(path, overwrite=True)
    assert caught.value.filename == str(path)
    assert files(tmp_path) == ["samples.npz"]
    path.unlink()
    path.symlink_to("samples.npz")
    with pytest.raises(OSError, match="is a link that leads to itself") as caught:
        open_writer(path, overwrite=True)
    assert caught.value.filename == str(path)


def test_run_goes_on_in_its_own_blocks(path, tmp_path):
    expected = finish(tmp_path / "whole.npz")
    begin(path, 3)
    with open_writer(path, batch_size=5) as writer:
        assert writer.run.block_size == 2 and writer.num_done() == 3
    assert finish(path, batch_size=6) == expected


def test_run_that_has_no_image_yet_takes_another_block_size(path, tmp_path):
    # A size that does not fit the memory of a GPU would otherwise stay for ever.
    open_writer(path, batch_size=64).close()
    assert finish(path) == finish(tmp_path / "whole.npz")


@pytest.mark.parametrize("step", [pytest.param(1, marks=pytest.mark.slow), 9])
def test_kill_between_any_two_calls_loses_nothing_and_changes_nothing(tmp_path, step):
    arguments = [sys.executable, killed_anywhere.__spec__.origin, tmp_path, str(step)]
    done = subprocess.run(arguments, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    kills = [int(line.split()[0]) for line in done.stdout.splitlines()]
    assert len(kills) == 8 and min(kills) > 40 / step
