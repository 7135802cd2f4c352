import errno
import os
import resource
import shutil
import signal
import stat
import subprocess
import sys
from contextlib import contextmanager

import pytest
import torch
from safetensors.torch import save_file

from repa_base import files
from repa_base.files import replacing, write_text
from repa_base.workplace import remove_leftovers

KILLED = """
import os, signal, sys
from pathlib import Path
from repa_base.files import replacing
with replacing(Path(sys.argv[1])) as partial:
    if sys.argv[2] == "folder":
        partial.mkdir()
        partial = partial / "inner"
    partial.write_bytes(b"half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def killed_while_writing(path, kind="file"):
    command = [sys.executable, "-c", KILLED, str(path), kind]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL


@contextmanager
def limited_size():
    """Let no file of this process grow beyond 100 kB, as if the disk were full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_kill_leaves_the_old_content_and_the_next_call_removes_what_else_it_left(tmp_path, kind):
    path = tmp_path / "name"
    write_text(path, "old")
    killed_while_writing(path, kind)
    assert path.read_text() == "old" and len(names(tmp_path)) == 2
    write_text(tmp_path / "other", "")
    assert len(names(tmp_path)) == 3
    write_text(path, "new")
    assert path.read_text() == "new" and names(tmp_path) == ["name", "other"]


def test_leftovers_of_any_name_are_removed_and_nothing_of_the_living_or_of_strangers(tmp_path):
    killed_while_writing(tmp_path / "step[1]", "folder")
    killed_while_writing(tmp_path / "b")
    (tmp_path / ".before-its-lock.0123abcd.part").mkdir()
    (tmp_path / ".stranger.0123abcd.part").mkdir()
    (tmp_path / ".stranger.0123abcd.part" / "file").touch()
    with replacing(tmp_path / "living") as partial:
        partial.touch()
        remove_leftovers(tmp_path, "step[1]")
        assert len(names(tmp_path)) == 4
        remove_leftovers(tmp_path)
    assert names(tmp_path) == [".stranger.0123abcd.part", "living"]


def test_two_at_once_do_not_disturb_each_other_and_the_last_one_stays(tmp_path):
    with replacing(tmp_path / "a") as first:
        first.write_text("first")
        write_text(tmp_path / "a", "second")
        assert (tmp_path / "a").read_text() == "second"
    assert (tmp_path / "a").read_text() == "first" and names(tmp_path) == ["a"]


def test_without_locks_no_process_removes_what_another_may_be_writing(tmp_path, monkeypatch):
    def no_locks(*_, **__):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("filelock.lock_descriptor", no_locks)
    with replacing(tmp_path / "a") as first:
        first.write_text("first")
        write_text(tmp_path / "a", "second")
    assert (tmp_path / "a").read_text() == "first" and names(tmp_path) == ["a"]


def test_failing_block_leaves_the_old_content_and_nothing_else(tmp_path):
    write_text(tmp_path / "a", "old")
    with pytest.raises(KeyboardInterrupt), replacing(tmp_path / "a") as partial:
        partial.mkdir()
        (partial / "half").touch()
        raise KeyboardInterrupt
    assert (tmp_path / "a").read_text() == "old" and names(tmp_path) == ["a"]


@pytest.mark.parametrize(
    "write",
    [
        lambda path: path.write_bytes(bytes(200_000)),
        lambda path: save_file({"x": torch.zeros(50_000)}, path),
    ],
    ids=["python", "safetensors"],
)
def test_full_disk_names_the_output(tmp_path, write):
    path = tmp_path / "out.bin"
    with (
        pytest.raises(OSError, match="too large") as caught,
        replacing(path) as partial,
        limited_size(),
    ):
        write(partial)
    assert (caught.value.errno, caught.value.filename) == (errno.EFBIG, str(path))
    assert names(tmp_path) == []


@pytest.mark.parametrize("make", [lambda path: path.open(), lambda path: path.mkdir(parents=True)])
def test_errors_of_other_files_and_in_words_stay_what_they_are(tmp_path, make):
    write_text(tmp_path / "file", "")
    other = tmp_path / "file" / "other"
    with pytest.raises(NotADirectoryError) as caught, replacing(tmp_path / "out"):
        make(other)
    assert caught.value.filename == str(other)
    with pytest.raises(OSError, match=r"^in words$"), replacing(tmp_path / "out"):
        raise OSError("in words")


def test_block_that_writes_nothing_is_an_error_that_names_the_output(tmp_path):
    with pytest.raises(FileNotFoundError) as caught, replacing(tmp_path / "out"):
        pass
    assert caught.value.filename == str(tmp_path / "out")


@pytest.mark.parametrize("old", ["nothing", "file", "full folder"])
def test_folder_takes_the_place_of_what_was_there(tmp_path, old):
    path = tmp_path / "deep" / "folder"
    if old == "full folder":
        path.mkdir(parents=True)
        (path / "old").touch()
    elif old == "file":
        write_text(path, "old")
    with replacing(path) as partial:
        partial.mkdir()
        (partial / "new").touch()
    assert names(path) == ["new"] and names(path.parent) == ["folder"]


def test_what_a_link_leads_to_is_replaced(tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "disk" / "file")
    write_text(tmp_path / "link", "one")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "disk" / "file").read_text() == "one" and len(names(tmp_path / "disk")) == 1


def test_new_files_get_the_usual_permissions_whoever_made_them(tmp_path):
    before = os.umask(0o027)
    try:
        with replacing(tmp_path / "folder") as partial:
            partial.mkdir()
            save_file({"x": torch.zeros(1)}, partial / "x")
            (partial / "y").touch(0o600)
    finally:
        os.umask(before)
    assert [stat.S_IMODE((tmp_path / "folder" / n).stat().st_mode) for n in "xy"] == [0o640] * 2


def test_everything_is_on_the_disk_before_it_gets_its_name(tmp_path, monkeypatch):
    path, flushed = tmp_path / "folder", []
    original = files.to_disk

    def recorded(file):
        original(file)
        flushed.append((file.name, path.exists()))

    monkeypatch.setattr(files, "to_disk", recorded)
    with replacing(path) as partial:
        (partial / "sub").mkdir(parents=True)
        (partial / "sub" / "file").touch()
    assert sorted(flushed[:-1]) == [("file", False), ("folder", False), ("sub", False)]
    assert flushed[-1] == (tmp_path.name, True)


def test_file_systems_that_cannot_flush_folders_are_written_too(tmp_path, monkeypatch):
    def flush(descriptor):
        refused = stat.S_ISDIR(os.fstat(descriptor).st_mode) or (tmp_path / "also-files").exists()
        if refused:
            raise OSError(errno.EINVAL, "Invalid argument")

    monkeypatch.setattr(os, "fsync", flush)
    write_text(tmp_path / "a", "one")
    assert (tmp_path / "a").read_text() == "one"
    (tmp_path / "also-files").touch()
    with pytest.raises(OSError, match=r"Invalid argument.*'.*/a'"):
        write_text(tmp_path / "a", "two")
    assert (tmp_path / "a").read_text() == "one"


def test_output_is_checked_before_any_work(tmp_path):
    write_text(tmp_path / "file", "")
    for path, words in (
        (tmp_path, "is a folder; use another --grid"),
        (tmp_path / "file", "exists; use --overwrite to replace it, or another --grid"),
    ):
        with pytest.raises(files.OutputExistsError, match=f"^{path} {words}"):
            files.check_output(path, option="--grid")
    files.check_output(tmp_path / "file", overwrite=True)
    files.check_output(tmp_path / "new" / "file")
    reason = r"no file can be made in this folder \(it is a file\): '.*/file'"
    with pytest.raises(OSError, match=reason):
        files.check_output(tmp_path / "file" / "out")
    assert names(tmp_path) == ["file", "new"] and names(tmp_path / "new") == []


def test_room_is_asked_for_where_the_file_goes(tmp_path, monkeypatch):
    asked = []
    usage = shutil.disk_usage(tmp_path)._replace(free=2_000_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: asked.append(path) or usage)
    files.check_room(2_000_000, tmp_path)
    message = r"^\[Errno 28\] No space: it takes 2\.1 MB, 2\.0 MB are free: '.*/file'$"
    with pytest.raises(OSError, match=message):
        files.check_room(2_100_000, tmp_path / "file", what="it takes")
    assert asked == [tmp_path, tmp_path]


@pytest.mark.parametrize(
    ("error", "reserved"), [(errno.EOPNOTSUPP, True), (errno.ENOSPC, False), (errno.EDQUOT, False)]
)
def test_room_is_reserved_or_the_file_refused(tmp_path, monkeypatch, error, reserved):
    def fail(*_):
        raise OSError(error, "no")

    with (tmp_path / "file").open("wb") as file:
        files.reserve(file.fileno(), 300_000, tmp_path / "file")
        status = os.fstat(file.fileno())
        assert status.st_size == 300_000 <= 512 * status.st_blocks
        monkeypatch.setattr(os, "posix_fallocate", fail)
        if reserved:
            files.reserve(file.fileno(), 400_000, tmp_path / "file")
            assert os.fstat(file.fileno()).st_size == 400_000
        else:
            with pytest.raises(OSError, match=r"No space: the file needs 400\.0 kB") as caught:
                files.reserve(file.fileno(), 400_000, tmp_path / "file")
            assert caught.value.errno == errno.ENOSPC


def test_all_is_written_at_its_place_in_however_many_calls(tmp_path, monkeypatch):
    original = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda fd, data, at: original(fd, data[:3], at))
    with (tmp_path / "file").open("w+b") as file:
        files.write_at(file.fileno(), b"0123456789", 2)
    assert (tmp_path / "file").read_bytes() == b"\0\0" + b"0123456789"


@pytest.mark.parametrize(
    ("size", "free", "texts"),
    [
        (1_000_001, 1_000_000, ("1.000001 MB", "1.000000 MB")),
        (50, 3, ("50 bytes", "3 bytes")),
        (9_830_000_000, 20_000_000, ("9.8 GB", "20.0 MB")),
        (2048, 1000, ("2.0 kB", "1.0 kB")),
    ],
)
def test_needed_and_free_space_are_told_apart_each_in_its_unit(
    monkeypatch, tmp_path, size, free, texts
):
    usage = shutil.disk_usage(tmp_path)._replace(free=free)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(OSError, match=f"needs {texts[0]}, {texts[1]} are free"):
        files.check_room(size, tmp_path)


def test_an_output_that_is_a_dangling_link_is_written_where_it_leads(tmp_path):
    (tmp_path / "other disk").mkdir()
    link, target = tmp_path / "link", tmp_path / "other disk" / "file"
    link.symlink_to(target)
    files.check_output(link)
    write_text(link, "content")
    assert link.is_symlink() and target.read_text() == "content"


def test_a_link_into_a_folder_that_does_not_exist_is_refused(tmp_path):
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "gone" / "file")
    with pytest.raises(OSError, match=r"is a link into .*/gone, a folder that is not there"):
        files.check_output(link)
    assert names(tmp_path) == ["link"]


@pytest.mark.parametrize("mask", [0o022, 0o077])
def test_outputs_have_the_modes_that_the_umask_gives(tmp_path, mask):
    before = os.umask(mask)
    try:
        save = tmp_path / "weights"
        with replacing(save) as partial:
            save_file({"a": torch.zeros(2)}, partial)
    finally:
        os.umask(before)
    assert stat.S_IMODE(save.stat().st_mode) == 0o666 & ~mask
