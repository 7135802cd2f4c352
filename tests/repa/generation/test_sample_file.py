import errno
import json
import os
import signal
import subprocess
import sys
import tracemalloc
import zipfile
from functools import partial

import numpy as np
import pytest

from repa.errors import OutputExistsError
from repa.generation import npz_layout, progress_file
from repa.generation.opening import attach_output, open_output
from repa.generation.sample_run import read_manifest
from repa_base.locks import lock_if_free

SETTINGS = {
    "seed": 1,
    "cfg_scale": 1.8,
    "num_images": 7,
    "image_size": 4,
    "batch_size": 2,
    "versions": {"torch": "2"},
}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "samples.npz"


def open_writer(path, *, overwrite=False, **changes):
    return open_output(path, {**SETTINGS, **changes}, overwrite=overwrite)


def made_up(num_images=7, image_size=4):
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (num_images, image_size, image_size, 3), dtype=np.uint8)
    return images, random.integers(0, 10, num_images)


def savez_bytes(path, images, labels, manifest):
    np.savez(path, arr_0=images, arr_1=labels, manifest=np.array(json.dumps(manifest)))
    return path.read_bytes()


def files(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize(("num_images", "image_size"), [(1, 1), (7, 4), (300, 8)])
@pytest.mark.parametrize("limit", [zipfile.ZIP64_LIMIT, 500, 20], ids=["32bit", "64bit", "all64"])
def test_finished_file_is_byte_for_byte_what_numpy_savez_writes(
    path, tmp_path, monkeypatch, num_images, image_size, limit
):
    # A small limit makes both writers use 64-bit fields without gigabytes.
    monkeypatch.setattr(zipfile, "ZIP64_LIMIT", limit)
    monkeypatch.setattr(npz_layout, "_ZIP64_LIMIT", limit)
    images, labels = made_up(num_images, image_size)
    with open_writer(path, num_images=num_images, image_size=image_size) as writer:
        writer.write(0, images, labels)
        writer.finish()
    assert path.read_bytes() == savez_bytes(tmp_path / "numpy.npz", images, labels, SETTINGS)


@pytest.mark.slow
def test_file_beyond_four_gigabytes_is_read_by_zipfile_and_numpy(path):
    num_images, image_size = 1400, 1024  # 4.4 GB
    images = np.full((1, image_size, image_size, 3), 200, np.uint8)
    with open_writer(path, num_images=num_images, image_size=image_size) as writer:
        for i in range(num_images):
            writer.write(i, images, np.array([i]))
        writer.finish()
    with zipfile.ZipFile(path) as file:
        assert file.testzip() is None
    with np.load(path) as file:
        assert file["arr_1"].tolist() == list(range(num_images))


def test_file_is_read_as_the_adm_evaluator_reads_it(path):
    images, labels = made_up()
    with open_writer(path) as writer:
        writer.write(0, images, labels)
        writer.finish()
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        with archive.open("arr_0.npy") as file:
            assert np.lib.format.read_magic(file) == (1, 0)
            shape, fortran_order, dtype = np.lib.format.read_array_header_1_0(file)
            assert (shape, fortran_order, dtype) == ((7, 4, 4, 3), False, np.uint8)
            for image in images:
                assert file.read(48) == image.tobytes()
            assert file.read() == b""
    with np.load(path, allow_pickle=False) as file:
        assert np.array_equal(file["arr_1"], labels) and file["arr_1"].dtype == np.int64
        assert file["manifest"].shape == ()
    assert read_manifest(path) == SETTINGS


def test_bytes_do_not_depend_on_order_interruptions_or_the_number_of_writers(path, tmp_path):
    images, labels = made_up()
    with open_writer(path) as writer:
        writer.write(5, images[5:], labels[5:])
    assert files(tmp_path) == ["samples.npz.part", "samples.npz.progress"]
    with open_writer(path) as first, open_writer(path, attach=True) as second:
        assert first.num_done() == 2 and first.is_done(5, 2) and not first.is_done(4, 2)
        second.write(0, images[:1], labels[:1])
        first.write(3, images[3:6], labels[3:6])
        second.write(1, images[1:3], labels[1:3])
        assert first.num_done() == second.num_done() == 7
        first.finish()
    assert files(tmp_path) == ["samples.npz"]
    assert path.read_bytes() == savez_bytes(tmp_path / "numpy.npz", images, labels, SETTINGS)


def test_image_is_marked_only_after_it_is_on_disk(path, monkeypatch):
    images, labels = made_up()
    with open_writer(path) as writer:
        with monkeypatch.context() as patch:

            def fail(descriptor):
                raise OSError(errno.EIO, "Input/output error")

            patch.setattr(os, "fsync", fail)
            with pytest.raises(OSError, match="Input/output"):
                writer.write(0, images, labels)
        assert writer.num_done() == 0


def test_unfinished_file_is_refused_its_name(path):
    images, labels = made_up()
    with open_writer(path) as writer:
        writer.write(0, images[:6], labels[:6])
        with pytest.raises(ValueError, match="1 of 7 images are not written"):
            writer.finish()
    assert not path.exists()


def test_finished_run_is_recognised_and_left_alone(path, tmp_path):
    images, labels = made_up()
    with open_writer(path) as writer:
        writer.write(0, images, labels)
        writer.finish()
    before = path.read_bytes(), path.stat().st_mtime_ns
    for changes in ({}, {"overwrite": True}, {"attach": True}):
        with open_writer(path, **changes) as writer:
            assert writer.finished and writer.num_done() == 7 and writer.is_done(0, 7)
            writer.finish()
    assert before == (path.read_bytes(), path.stat().st_mtime_ns)
    assert files(tmp_path) == ["samples.npz"]


OTHER = {**SETTINGS, "cfg_scale": 1.5, "versions": {"torch": "3"}}


def test_finished_output_of_other_settings_is_replaced_only_on_request_and_when_complete(path):
    images, labels = made_up()
    with open_writer(path) as writer:
        writer.write(0, images, labels)
        writer.finish()
    before = path.read_bytes()
    with pytest.raises(
        OutputExistsError, match=r"cfg_scale 1\.8 there, 1\.5 here, versions\.torch"
    ):
        open_writer(path, manifest=OTHER)
    with open_writer(path, manifest=OTHER, overwrite=True) as writer:
        assert writer.num_done() == 0
        writer.write(0, images, labels)
        assert path.read_bytes() == before
        writer.finish()
    assert read_manifest(path) == OTHER


def test_unfinished_output_of_other_settings_is_replaced_only_on_request(path, tmp_path):
    images, labels = made_up()
    with open_writer(path) as writer:
        writer.write(0, images, labels)
    before = (tmp_path / "samples.npz.part").read_bytes()
    with pytest.raises(OutputExistsError, match=r"samples\.npz\.part was made by other settings"):
        open_writer(path, manifest=OTHER)
    assert (tmp_path / "samples.npz.part").read_bytes() == before
    with open_writer(path) as writer:
        assert writer.num_done() == 7
    with open_writer(path, manifest=OTHER, overwrite=True) as writer:
        assert writer.num_done() == 0


def test_files_of_others_are_refused(path, tmp_path):
    path.write_bytes(b"precious")
    with pytest.raises(OutputExistsError, match="was not made by this command"):
        open_writer(path)
    path.unlink()
    (tmp_path / "samples.npz.part").write_bytes(b"precious")
    with pytest.raises(OutputExistsError, match="no unfinished run of ours"):
        open_writer(path)
    assert files(tmp_path) == ["samples.npz.part"]
    assert (tmp_path / "samples.npz.part").read_bytes() == b"precious"
    path.mkdir()
    with pytest.raises(OutputExistsError, match="is a folder"):
        open_writer(path, overwrite=True)


def test_truncated_output_counts_as_no_output_of_ours(path):
    images, labels = made_up()
    with open_writer(path) as writer:
        writer.write(0, images, labels)
        writer.finish()
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
    with open_writer(path) as writer:
        writer.write(0, *made_up())
        writer.finish()
    damage(path)
    before = path.read_bytes()
    assert read_manifest(path) is None
    with pytest.raises(OutputExistsError, match="was not made by this command"):
        open_writer(path)
    with open_writer(path, overwrite=True) as writer:
        assert writer.num_done() == 0
    assert path.read_bytes() == before


def test_crash_while_the_files_are_made_is_recovered_from(path, tmp_path):
    with open_writer(path) as writer:
        writer.write(0, *made_up())
    os.truncate(tmp_path / "samples.npz.part", 100)
    with open_writer(path) as writer:
        assert writer.num_done() == 0
        writer.write(0, *made_up())
        writer.finish()
    open_writer(tmp_path / "b.npz").close()
    (tmp_path / "b.npz.part").unlink()
    with open_writer(tmp_path / "b.npz") as writer:
        assert writer.num_done() == 0
    (tmp_path / "c.npz.progress").write_bytes(b"")
    with open_writer(tmp_path / "c.npz") as writer:
        assert writer.num_done() == 0


KILLED_START = """
import json, os, signal, sys
from pathlib import Path
from repa.generation.sample_file import NpzWriter

allocate = os.posix_fallocate

def kill(*arguments):
    if sys.argv[2] == "after":
        allocate(*arguments)
    os.kill(os.getpid(), signal.SIGKILL)

os.posix_fallocate = kill
NpzWriter(Path(sys.argv[1]), num_images=7, image_size=4, manifest=json.loads(sys.argv[3]))
"""


@pytest.mark.parametrize("moment", ["before", "after"])
def test_run_that_was_killed_while_room_was_reserved_is_started_again(path, tmp_path, moment):
    arguments = [sys.executable, "-c", KILLED_START, str(path), moment, json.dumps(SETTINGS)]
    assert subprocess.run(arguments, check=False).returncode == -signal.SIGKILL
    assert files(tmp_path) == ["samples.npz.part", "samples.npz.progress"]
    with pytest.raises(OutputExistsError, match="was made by other settings"):
        open_writer(path, manifest=OTHER)
    images, labels = made_up()
    with open_writer(path) as writer:
        assert writer.num_done() == 0
        writer.write(0, images, labels)
        writer.finish()
    assert path.read_bytes() == savez_bytes(tmp_path / "numpy.npz", images, labels, SETTINGS)


def test_crash_between_the_two_steps_of_finishing_leaves_a_finished_file(path, tmp_path):
    with open_writer(path) as writer:
        writer.write(0, *made_up())
        progress = (tmp_path / "samples.npz.progress").read_bytes()
        writer.finish()
    (tmp_path / "samples.npz.progress").write_bytes(progress)
    with open_writer(path) as writer:
        assert writer.finished
    with open_writer(path, manifest=OTHER, overwrite=True) as writer:
        assert writer.num_done() == 0


def test_second_run_of_the_same_output_is_refused_while_the_first_lasts(path):
    with open_writer(path), pytest.raises(OutputExistsError, match="being written by another run"):
        open_writer(path)
    open_writer(path).close()


def test_run_that_another_finishes_before_the_lock_is_had_is_found_finished(path, monkeypatch):
    other = open_writer(path)
    other.write(0, *made_up())

    def lock(descriptor, name):
        other.finish()
        other.close()
        return lock_if_free(descriptor, name)

    monkeypatch.setattr(sample_file, "lock_if_free", lock)
    with open_writer(path) as writer:
        assert writer.finished
    assert files(path.parent) == [path.name]


def test_output_that_appears_during_the_run_is_not_replaced(path, tmp_path):
    with open_writer(path) as writer:
        writer.write(0, *made_up())
        path.write_bytes(b"precious")
        with pytest.raises(OutputExistsError, match="appeared during the run"):
            writer.finish()
    assert path.read_bytes() == b"precious"
    assert (tmp_path / "samples.npz.part").exists()


def test_file_that_does_not_fit_on_the_disk_is_refused_before_the_first_image(path, tmp_path):
    with pytest.raises(OSError, match=r"No space: the file needs 3.* MB") as caught:
        open_writer(path, num_images=10**9, image_size=1024)
    assert caught.value.errno == errno.ENOSPC
    assert files(tmp_path) == []


def test_disk_that_fills_up_while_room_is_reserved_leaves_nothing(path, tmp_path, monkeypatch):
    def fail(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", fail)
    with pytest.raises(OSError, match="No space: the file needs"):
        open_writer(path)
    assert files(tmp_path) == []


def test_disk_space_is_reserved_before_the_first_image(path, tmp_path):
    with open_writer(path, num_images=1000, image_size=32):
        assert 512 * (tmp_path / "samples.npz.part").stat().st_blocks >= 1000 * 32 * 32 * 3


def test_folder_that_cannot_be_written_is_an_error(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OSError, match="file"):
        open_writer(tmp_path / "file" / "samples.npz")


def test_missing_folders_are_made(tmp_path):
    open_writer(tmp_path / "a" / "b" / "samples.npz").close()
    assert len(files(tmp_path / "a" / "b")) == 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": np.zeros((2, 4, 4, 3))}, r"images must be uint8 \(2, 4, 4, 3\), got float64"),
        ({"images": np.zeros((2, 3, 4, 4), np.uint8)}, r"got uint8 \(2, 3, 4, 4\)"),
        ({"labels": np.zeros(2, np.int32)}, r"labels must be int64 \(2,\), got int32"),
        ({"labels": np.zeros(3, np.int64)}, r"labels must be int64 \(2,\), got int64 \(3,\)"),
        ({"first": 6}, "images 6 to 7 are not all in the file"),
        ({"first": -1}, "images -1 to 0 are not all in the file"),
    ],
)
def test_images_that_do_not_fit_the_file_are_refused(path, change, message):
    fitting = {"first": 0, "images": made_up(2)[0], "labels": np.zeros(2, np.int64)}
    with open_writer(path) as writer, pytest.raises(ValueError, match=message):
        writer.write(**{**fitting, **change})


def test_memory_does_not_grow_with_the_number_of_images(path):
    def peak(num_images):
        writer = open_writer(
            path.with_name(f"{num_images}.npz"), num_images=num_images, image_size=8
        )
        images, labels = made_up(5000, 8)
        tracemalloc.start()
        with writer:
            for first in range(0, num_images, len(images)):
                writer.write(first, images, labels)
            writer.finish()
        _, highest = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return highest

    small, large = peak(10_000), peak(100_000)  # 2 and 20 MB of images
    assert large < small + 200_000, (small, large)


def test_progress_bytes_are_counted_in_pieces(path, monkeypatch):
    monkeypatch.setattr(sample_file, "_CHUNK_BYTES", 3)
    images, labels = made_up()
    with open_writer(path) as writer:
        write = partial(writer.write, images=images[:1], labels=labels[:1])
        for i in (0, 2, 3, 6):
            write(i)
        assert writer.num_done() == 4
        assert [i for i in range(7) if writer.is_done(i, 1)] == [0, 2, 3, 6]
