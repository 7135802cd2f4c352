"""What is found beside and under the name of an output, and what becomes of it."""

import errno
import json
import os
import signal
import subprocess
import sys
import zipfile

import killed_anywhere
import numpy as np
import pytest
from sample_files import (
    OTHER,
    SETTINGS,
    beside,
    files,
    finish,
    made_up,
    open_writer,
    savez_bytes,
)

from repa.errors import InUseError, OutputExistsError
from repa.generation.sample_files import opening
from repa.generation.sample_files.opening import unfinished_part
from repa.generation.sample_files.sample_run import read_manifest
from repa_base.in_place import marks_file
from repa_base.locks import lock_if_free


@pytest.fixture
def path(tmp_path):
    return tmp_path / "samples.npz"


def begin(path, count, **changes):
    """Leave an unfinished run with its first images."""
    with open_writer(path, **changes) as writer:
        images, labels = made_up(writer.run.num_images)
        writer.write(0, images[:count], labels[:count])


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


def deeply_nested(path):
    path.write_bytes(b"[" * 100_000)


def truly_nested(path):
    path.write_bytes(b'{"num_images":' * 50_000 + b"7" + b"}" * 50_000 + b"\n" + bytes(7))


def text(path):
    path.write_text("progress of my thesis")


def other_json(path):
    path.write_text(json.dumps({"num_images": 7}) + "\n1234567")


def pipe(path):
    os.mkfifo(path)


def link_to_what_is_missing(path):
    path.symlink_to(path.with_name("elsewhere"))


def folder(path):
    path.mkdir()


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize(
    "make",
    [deeply_nested, truly_nested, text, other_json, pipe, link_to_what_is_missing, folder],
)
def test_progress_file_of_a_stranger_is_named_and_never_touched(path, tmp_path, make, overwrite):
    progress = beside(path, "progress")
    make(progress)
    before = progress.lstat(), progress.read_bytes() if progress.is_file() else None
    message = r"samples\.npz\.progress was not made by this command; use another --out"
    for content in (None, b"part", None):
        if content:
            beside(path, "part").write_bytes(content)
        with pytest.raises(OutputExistsError, match=message):
            open_writer(path, overwrite=overwrite)
        beside(path, "part").unlink(missing_ok=True)
    assert files(tmp_path) == ["samples.npz.progress"]
    assert before == (progress.lstat(), progress.read_bytes() if progress.is_file() else None)


def test_progress_file_of_a_stranger_is_not_locked(path, monkeypatch):
    text(beside(path, "progress"))
    monkeypatch.setattr(marks_file, "lock_if_free", pytest.fail)
    with pytest.raises(OutputExistsError):
        open_writer(path, overwrite=True)


def test_finished_file_does_not_mind_a_strangers_progress_file(path):
    finish(path)
    text(beside(path, "progress"))
    assert open_writer(path) is None
    assert beside(path, "progress").read_text() == "progress of my thesis"


@pytest.mark.parametrize("overwrite", [False, True])
def test_part_of_a_stranger_is_refused(path, tmp_path, overwrite):
    part = beside(path, "part")
    part.write_bytes(b"precious")
    with pytest.raises(OutputExistsError, match=r"\.part: no samples\.npz\.progress tells whose"):
        open_writer(path, overwrite=overwrite)
    beside(path, "progress").write_bytes(b"")
    with pytest.raises(OutputExistsError, match=r"\.part: no samples\.npz\.progress tells whose"):
        open_writer(path, overwrite=overwrite)
    assert part.read_bytes() == b"precious"


def test_output_of_a_stranger_is_refused(path):
    path.write_bytes(b"precious")
    with pytest.raises(OutputExistsError, match="was not made by this command"):
        open_writer(path)
    assert path.read_bytes() == b"precious"
    path.unlink()
    path.mkdir()
    with pytest.raises(OutputExistsError, match="is a folder"):
        open_writer(path, overwrite=True)


def test_truncated_output_counts_as_no_output_of_ours(path):
    finish(path)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(OutputExistsError, match="was not made by this command"):
        open_writer(path)


def encrypted(path):
    mark_every_member(path, offset=8, value=1)


def compressed_in_an_unknown_way(path):
    mark_every_member(path, offset=10, value=97)


def mark_every_member(path, offset, value):
    """Set a byte in every entry of the archive's directory."""
    content = bytearray(path.read_bytes())
    start = -1
    while (start := content.find(b"PK\1\2", start + 1)) >= 0:
        content[start + offset] = value
    path.write_bytes(content)


def deflated_and_damaged(path):
    images, labels = made_up()
    text = json.dumps({**SETTINGS, "note": list(range(1000))})
    np.savez_compressed(path, arr_0=images, arr_1=labels, manifest=np.array(text))
    with zipfile.ZipFile(path) as archive:
        info = archive.getinfo("manifest.npy")
    content = bytearray(path.read_bytes())
    middle = info.header_offset + 100 + info.compress_size // 2
    content[middle : middle + 50] = b"\xff" * 50
    path.write_bytes(content)


def text_of_impossible_characters(path):
    images, labels = made_up()
    text = np.frombuffer(b"\xff\xff\xff\x7f" * 9, "<U9").reshape(())
    np.savez(path, arr_0=images, arr_1=labels, manifest=text)


def array_of_objects(path):
    np.savez(path, arr_0=np.array([{}], object))


def no_images(path):
    np.savez(path, manifest=np.array(json.dumps(SETTINGS)))


@pytest.mark.parametrize(
    "damage",
    [
        encrypted,
        compressed_in_an_unknown_way,
        deflated_and_damaged,
        text_of_impossible_characters,
        array_of_objects,
        no_images,
    ],
)
def test_output_that_cannot_be_read_counts_as_no_output_of_ours(path, damage):
    finish(path)
    damage(path)
    before = path.read_bytes()
    assert read_manifest(path) is None
    with pytest.raises(OutputExistsError, match="was not made by this command"):
        open_writer(path)
    with open_writer(path, overwrite=True) as writer:
        assert writer.num_done() == 0
    assert path.read_bytes() == before


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


# Extending: 9 images of blocks of 2, after 7.
LONG = {"num_images": 9}


def test_finished_file_is_extended_in_whole_blocks_and_stays_until_then(path, tmp_path):
    expected, before = finish(tmp_path / "whole.npz", **LONG), finish(path)
    with open_writer(path, batch_size=64, **LONG) as writer:
        assert writer.run.block_size == 2 and writer.num_taken_over == 6
        assert [i for i in range(9) if writer.is_done(i, 1)] == [0, 1, 2, 3, 4, 5]
        writer.write(6, *(rows[6:] for rows in made_up(9)))
        assert path.read_bytes() == before
        assert writer.finish() == 0
    assert path.read_bytes() == expected
    assert files(tmp_path) == ["samples.npz", "whole.npz"]
    assert open_writer(path, **LONG) is None


def test_extension_that_was_killed_goes_on(path, tmp_path):
    expected, before = finish(tmp_path / "whole.npz", **LONG), finish(path)
    with open_writer(path, **LONG) as writer:
        writer.write(7, *(rows[7:8] for rows in made_up(9)))
    assert open_writer(path) is None, "the shorter file is still what it was"
    with open_writer(path, **LONG) as writer:
        assert (writer.num_done(), writer.num_taken_over) == (7, 0)
    assert path.read_bytes() == before
    assert finish(path, **LONG) == expected


@pytest.mark.parametrize("moment", ["put", "mark"])
def test_extension_that_was_killed_while_images_were_copied_goes_on(
    path, tmp_path, monkeypatch, moment
):
    expected, before = finish(tmp_path / "whole.npz", **LONG), finish(path)

    def kill(*arguments):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(opening.NpzWriter, moment, kill)
        with pytest.raises(KeyboardInterrupt):
            open_writer(path, **LONG)
    assert path.read_bytes() == before
    with open_writer(path, **LONG) as writer:
        assert writer.num_taken_over == 6
    assert finish(path, **LONG) == expected


def test_damaged_file_is_not_extended(path, tmp_path):
    large = {"image_size": 64}  # beyond what is read to know the file
    expected = finish(tmp_path / "whole.npz", **large, **LONG)
    content = bytearray(finish(path, **large))
    content[80_000] ^= 1  # of an image
    path.write_bytes(content)
    with pytest.raises(OutputExistsError, match=r"cannot be extended \(.*CRC.*--overwrite"):
        open_writer(path, **large, **LONG)
    assert files(tmp_path) == ["samples.npz", "whole.npz"]
    with open_writer(path, overwrite=True, **large, **LONG) as writer:
        assert writer.num_done() == writer.num_taken_over == 0
    assert finish(path, overwrite=True, **large, **LONG) == expected


def test_file_that_does_not_tell_its_blocks_is_not_extended(path):
    """As those of earlier versions, of all solvers that choose no steps of their own."""
    before = finish_without_blocks(path)
    assert open_writer(path) is None
    message = "holds 7 images of these settings, not 9, in blocks of unknown size"
    with pytest.raises(OutputExistsError, match=message):
        open_writer(path, **LONG)
    assert path.read_bytes() == before
    with open_writer(path, overwrite=True, **LONG) as writer:
        assert writer.num_done() == 0


def finish_without_blocks(path):
    images, labels = made_up()
    return savez_bytes(path, images, labels, {**SETTINGS, "batch_size": None})


def test_file_with_other_images_than_its_manifest_says_is_not_extended(path):
    images, labels = made_up()
    before = savez_bytes(path, images[:5], labels[:5], SETTINGS)
    with pytest.raises(OutputExistsError, match="holds 7 images of these settings, not 9"):
        open_writer(path, **LONG)
    assert path.read_bytes() == before


def test_longer_file_is_not_cut(path):
    before = finish(path, **LONG)
    with pytest.raises(OutputExistsError, match="holds 9 images of these settings, not 7; use"):
        open_writer(path)
    assert path.read_bytes() == before
    begin(path.with_name("b.npz"), 1, **LONG)
    with pytest.raises(OutputExistsError, match=r"b\.npz\.part holds 9 images"):
        open_writer(path.with_name("b.npz"))


@pytest.mark.parametrize("longer", [8, 9, 300])
def test_unfinished_run_is_extended_in_whole_blocks(path, tmp_path, longer):
    expected = finish(tmp_path / "whole.npz", num_images=longer)
    begin(path, 7)
    with open_writer(path, num_images=longer) as writer:
        assert writer.num_done() == 6
        assert 512 * beside(path, "part").stat().st_blocks >= len(expected)
        assert writer.write(6, *(rows[6:] for rows in made_up(longer))) is None
        assert writer.finish() == 0, "the images that were there are still intact"
    assert path.read_bytes() == expected


def test_unfinished_run_whose_extension_was_killed_ends_the_same(path, tmp_path, monkeypatch):
    shorter = finish(tmp_path / "short.npz")
    expected = finish(tmp_path / "whole.npz", **LONG)

    def kill(*arguments):
        raise KeyboardInterrupt

    for changes, ending in (({}, shorter), (LONG, expected)):
        begin(path, 7)
        with monkeypatch.context() as patch:
            patch.setattr(opening.ProgressFile, "replace", kill)
            with pytest.raises(KeyboardInterrupt):
                open_writer(path, **LONG)
        assert finish(path, **changes) == ending
        path.unlink()


def test_room_for_an_extension_is_found_out_before(path, tmp_path):
    before = finish(path)
    with pytest.raises(OSError, match="No space: the file needs"):
        open_writer(path, num_images=10**12)
    assert files(tmp_path) == ["samples.npz"] and path.read_bytes() == before
    begin(tmp_path / "b.npz", 7, **OTHER)
    with pytest.raises(OSError, match="No space: the file needs"):
        open_writer(tmp_path / "b.npz", num_images=10**12, **OTHER)
    with open_writer(tmp_path / "b.npz", **OTHER) as writer:
        assert writer.num_done() == 7


@pytest.mark.parametrize("step", [pytest.param(1, marks=pytest.mark.slow), 9])
def test_kill_between_any_two_calls_loses_nothing_and_changes_nothing(tmp_path, step):
    arguments = [sys.executable, killed_anywhere.__spec__.origin, tmp_path, str(step)]
    done = subprocess.run(arguments, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    kills = [int(line.split()[0]) for line in done.stdout.splitlines()]
    assert len(kills) == 8 and min(kills) > 40 / step
