"""Files in the place of a sample file that are not ours, or damaged: named, and not touched."""

import json
import os
import zipfile

import numpy as np
import pytest
from sample_files import (
    SETTINGS,
    beside,
    files,
    finish,
    made_up,
    open_writer,
)

from repa.errors import OutputExistsError
from repa.generation.sample_files.sample_run import read_manifest
from repa_base.in_place import marks_file


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
