import errno
import os
import tracemalloc
import zipfile
from functools import partial

import numpy as np
import pytest
from sample_files import OTHER, SETTINGS, beside, files, finish, made_up, open_writer, savez_bytes

from repa.errors import InUseError, OutputExistsError
from repa.generation.sample_files import progress_file, sample_file
from repa.generation.sample_files.opening import attach_output
from repa.generation.sample_files.sample_run import read_manifest
from repa_base.in_place import stored_zip


@pytest.mark.parametrize(("num_images", "image_size"), [(1, 1), (7, 4), (300, 8)])
@pytest.mark.parametrize("limit", [zipfile.ZIP64_LIMIT, 500, 20], ids=["32bit", "64bit", "all64"])
def test_finished_file_is_byte_for_byte_what_numpy_savez_writes(
    path, tmp_path, monkeypatch, num_images, image_size, limit
):
    # A small limit makes both writers use 64-bit fields without gigabytes.
    monkeypatch.setattr(zipfile, "ZIP64_LIMIT", limit)
    monkeypatch.setattr(stored_zip, "_WIDE_FROM", limit)
    images, labels = made_up(num_images, image_size)
    sizes = {"num_images": num_images, "image_size": image_size}
    with open_writer(path, **sizes) as writer:
        writer.write(0, images, labels)
        assert writer.finish() == 0
    expected = savez_bytes(tmp_path / "numpy.npz", images, labels, {**SETTINGS, **sizes})
    assert path.read_bytes() == expected


@pytest.mark.slow
def test_file_beyond_four_gigabytes_is_read_by_zipfile_and_numpy(path):
    num_images, image_size = 1400, 1024  # 4.4 GB
    images = np.full((1, image_size, image_size, 3), 200, np.uint8)
    with open_writer(path, num_images=num_images, image_size=image_size) as writer:
        for i in range(num_images):
            writer.write(i, images, np.array([i]))
        assert writer.finish() == 0
    with zipfile.ZipFile(path) as file:
        assert file.testzip() is None
    with np.load(path) as file:
        assert file["arr_1"].tolist() == list(range(num_images))


def test_file_is_read_as_the_adm_evaluator_reads_it(path):
    images, labels = made_up()
    finish(path)
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
    with open_writer(path) as first, attach_output(path, first.run) as second:
        assert first.num_done() == 2 and first.is_done(5, 2) and not first.is_done(4, 2)
        second.write(0, images[:1], labels[:1])
        first.write(3, images[3:6], labels[3:6])
        second.write(1, images[1:3], labels[1:3])
        assert first.num_done() == second.num_done() == 7
        assert first.finish() == 0
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


def test_output_that_appears_during_the_run_is_not_replaced(path):
    with open_writer(path) as writer:
        writer.write(0, *made_up())
        path.write_bytes(b"precious")
        with pytest.raises(OutputExistsError, match="appeared during the run"):
            writer.finish()
    assert path.read_bytes() == b"precious"
    assert beside(path, "part").exists()


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
        out = path.with_name(f"{num_images}.npz")
        images, labels = made_up(5000, 8)
        tracemalloc.start()
        with open_writer(out, num_images=num_images, image_size=8) as writer:
            for first in range(0, num_images, len(images)):
                writer.write(first, images, labels)
            assert writer.finish() == 0
        _, highest = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return highest

    small, large = peak(10_000), peak(40_000)  # 2 and 8 MB of images
    assert large < small + 100_000, (small, large)


def test_marks_are_counted_in_pieces(path, monkeypatch):
    monkeypatch.setattr(progress_file, "_PIECE", 3)
    images, labels = made_up()
    with open_writer(path) as writer:
        write = partial(writer.write, images=images[:1], labels=labels[:1])
        for i in (0, 2, 3, 6):
            write(i)
        assert writer.num_done() == 4
        assert [i for i in range(7) if writer.is_done(i, 1)] == [0, 2, 3, 6]
        assert not writer.is_done(2, 3) and writer.is_done(2, 2)


def spoil(path, offset, replacement):
    """Replace bytes of a file in place."""
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(replacement)


def flip(path, offset):
    spoil(path, offset, bytes([path.read_bytes()[offset] ^ 0x10]))


def filled(path, **changes):
    """Leave an unfinished file whose images are all written and marked; return its run."""
    with open_writer(path, **changes) as writer:
        writer.write(0, *made_up(writer.run.num_images, writer.run.manifest["image_size"]))
        return writer.run


@pytest.mark.parametrize("chunk_bytes", [1, 100, 1 << 20])
def test_image_or_label_that_the_disk_did_not_keep_is_found_and_only_that(
    path, tmp_path, monkeypatch, chunk_bytes
):
    monkeypatch.setattr(sample_file, "_CHUNK_BYTES", chunk_bytes)
    expected = finish(tmp_path / "whole.npz")
    images, labels, _ = filled(path).members
    part = beside(path, "part")
    flip(part, images.data_offset + 2 * 48 + 47)
    flip(part, labels.data_offset + 8 * 4)
    spoil(part, images.data_offset + 5 * 48 + 40, bytes(10))  # the end of one, the start of another
    with open_writer(path) as writer:
        assert writer.finish() == 4 and not path.exists()
        assert [i for i in range(7) if not writer.is_done(i, 1)] == [2, 4, 5, 6]
        with pytest.raises(ValueError, match="4 of 7 images are not written"):
            writer.finish()
    assert finish(path) == expected


def test_images_that_have_changed_places_are_found(path):
    images = filled(path).members[0]
    part = beside(path, "part")
    rows = part.read_bytes()[images.data_offset :][: 2 * 48]
    spoil(part, images.data_offset, rows[48:] + rows[:48])
    with open_writer(path) as writer:
        assert writer.finish() == 2


def test_every_byte_of_an_unfinished_file_may_be_damaged(path, tmp_path):
    small = {"num_images": 3, "image_size": 2}
    expected = finish(tmp_path / "whole.npz", **small)
    for offset in range(0, len(expected), 13):
        filled(path, **small)
        flip(beside(path, "part"), offset)
        assert finish(path, **small) == expected, offset
        path.unlink()


def test_file_that_is_longer_or_shorter_than_it_should_be_ends_the_same(path, tmp_path):
    expected = finish(tmp_path / "whole.npz")
    for size in (0, 1, 500, len(expected) - 1, len(expected) + 1, 2 * len(expected)):
        filled(path)
        os.truncate(beside(path, "part"), size)
        assert finish(path) == expected
        path.unlink()


def test_marks_of_another_value_than_ours_count_for_nothing(path, tmp_path):
    expected = finish(tmp_path / "whole.npz")
    open_writer(path).close()
    progress = beside(path, "progress")
    start = len(progress.read_bytes()) - 7 * 8
    for value in (b"\1", b"\xff", b"\1\0\0\0\1\0\0\0"):
        spoil(progress, start, (value * 56)[:56])
        assert finish(path) == expected
        path.unlink()
        open_writer(path).close()


def test_process_left_over_from_another_run_writes_into_nothing(path, tmp_path):
    """Two processes, of which the first is killed; the run is repeated with another seed."""
    expected = finish(tmp_path / "whole.npz", seed=1, **OTHER)
    first = open_writer(path)
    left_over = attach_output(path, first.run)
    first.close()  # as a kill does
    images, labels = made_up()
    left_over.write(0, images[:1], labels[:1])
    second = open_writer(path, overwrite=True, **OTHER)
    assert second.num_done() == 0
    with pytest.raises(InUseError, match="being written by another run by now"):
        left_over.write(1, images[1:3], labels[1:3])
    # It may have looked just before: its files are no longer those under the names.
    left_over._check_current = lambda: None
    left_over.write(0, images, labels)
    left_over.close()
    assert second.num_done() == 0
    second.close()
    assert finish(path, seed=1, **OTHER) == expected


def test_process_left_over_from_the_same_run_stops_when_it_is_continued(path, tmp_path):
    expected = finish(tmp_path / "whole.npz")
    first = open_writer(path)
    left_over = attach_output(path, first.run)
    first.close()
    images, labels = made_up()
    left_over.write(0, images[:2], labels[:2])
    with open_writer(path) as second:
        assert second.num_done() == 2
        with pytest.raises(InUseError):
            left_over.write(2, images[2:], labels[2:])
    assert finish(path) == expected
    with pytest.raises(InUseError):
        left_over.write(2, np.zeros_like(images[2:]), labels[2:])
    with pytest.raises(InUseError):
        left_over.finish()
    left_over.close()
    assert path.read_bytes() == expected


def test_process_that_comes_too_late_finds_another_run(path, tmp_path):
    with open_writer(path) as first:
        run = first.run
    with pytest.raises(InUseError, match="another run's by now"):
        attach_output(tmp_path / "nothing.npz", run)
    late = pytest.raises(InUseError, match="another run's by now")
    with open_writer(path, overwrite=True, **OTHER), late:
        attach_output(path, run)
    finish(path, **OTHER)
    with pytest.raises(InUseError, match="another run's by now"):
        attach_output(path, run)
