"""Progress files that are damaged, of an earlier version, or as they should be."""

import json
import os
import stat

import pytest
from sample_files import SETTINGS, beside, files, finish, made_up, open_writer

from repa.errors import OutputExistsError
from repa.generation.sample_files.progress_file import NOTHING, _header, find_run
from repa.generation.sample_files.sample_run import SampleRun

SMALL = {"num_images": 3, "image_size": 2}


def begin(path, **changes):
    """Leave an unfinished run that has its first two images; return its progress file."""
    with open_writer(path, **changes) as writer:
        images, labels = made_up(writer.run.num_images, writer.run.manifest["image_size"])
        writer.write(0, images[:2], labels[:2])
    return beside(path, "progress")


def test_every_run_has_an_identity_of_its_own_and_keeps_it(path):
    first = find_run(begin(path)).run
    with open_writer(path) as writer:
        assert writer.run == first
    assert SampleRun.new(SETTINGS).identity != SampleRun.new(SETTINGS).identity
    longer = first.of({**SETTINGS, "num_images": 9, "batch_size": 5})
    assert (longer.identity, longer.block_size, longer.num_images) == (first.identity, 2, 9)


@pytest.mark.parametrize("change", ["identity", "index", "image", "label"])
def test_mark_depends_on_all_that_it_stands_for(change):
    run = SampleRun.new(SETTINGS)
    mark = run.mark(3, b"image", b"label")
    others = {
        "identity": SampleRun.new(SETTINGS).mark(3, b"image", b"label"),
        "index": run.mark(4, b"image", b"label"),
        "image": run.mark(3, b"imagf", b"label"),
        "label": run.mark(3, b"image", b"labem"),
    }
    assert others[change] != mark and len(mark) == 8
    assert mark == run.mark(3, memoryview(b"image"), memoryview(b"label"))


def outcome(path, expected, *, overwrite=False):
    """Finish a run: "same" bytes as expected, or "refused" in one line, or the test fails."""
    try:
        content = finish(path, overwrite=overwrite, **SMALL)
    except OutputExistsError as error:
        assert "\n" not in str(error) and "samples.npz.p" in str(error)
        return "refused"
    assert content == expected
    path.unlink()
    return "same"


def test_every_byte_of_a_progress_file_may_be_damaged(path, tmp_path):
    expected = finish(tmp_path / "whole.npz", **SMALL)
    whole = begin(path, **SMALL).read_bytes()
    part = beside(path, "part").read_bytes()
    header = whole.index(b"\n") + 1
    beginning = whole.index(b":")
    for offset in (*range(0, header, 7), *range(header, len(whole))):
        for damaged in (
            whole[:offset] + bytes([whole[offset] ^ 0x10]) + whole[offset + 1 :],
            whole[:offset] + bytes(16) + whole[offset + 16 :] if offset % 16 == 0 else None,
            whole[:offset] if offset % 8 == 1 else None,
        ):
            if damaged is None:
                continue
            beside(path, "progress").write_bytes(damaged)
            beside(path, "part").write_bytes(part)
            kept = outcome(path, expected)
            assert kept == ("same" if offset >= header else "refused"), offset
            if kept == "refused" and offset % 5 == 0:
                # A file that does not begin as ours is taken for a stranger's, and stays.
                forced = outcome(path, expected, overwrite=True)
                assert forced == "same" if offset > beginning + 1 else forced, offset


def test_damaged_header_is_named_and_replaced_on_request(path):
    progress = begin(path)
    progress.write_bytes(progress.read_bytes().replace(b'"cfg_scale": 1.8', b'"cfg_scale": 1.9'))
    with pytest.raises(OutputExistsError, match=r"\.progress is damaged; use --overwrite"):
        open_writer(path)
    with open_writer(path, overwrite=True) as writer:
        assert writer.num_done() == 0


def test_header_of_ours_with_nested_or_odd_values_is_damaged(tmp_path):
    nested = b'{"repa_unfinished_samples": ' * 50_000 + b"2" + b"}" * 50_000 + b"\n"
    for line in (nested, b'{"repa_unfinished_samples": 2}\n', b'{"repa_unfinished_samples": '):
        path = tmp_path / "progress"
        path.write_bytes(line)
        assert find_run(path).trouble
    for odd in ({"num_images": "7"}, {"batch_size": None}, {"num_images": 0}, {"batch_size": {}}):
        path.write_bytes(_header(SampleRun.new({**SETTINGS, **odd})))
        assert find_run(path).trouble == "is damaged"


def test_run_that_an_earlier_version_began_is_refused_in_words_and_kept(path):
    text = json.dumps(SETTINGS)
    beside(path, "progress").write_bytes(text.encode() + b"\n" + b"\1\1\1\0\0\0\0")
    beside(path, "part").write_bytes(b"images")
    with pytest.raises(OutputExistsError, match=r"of an earlier version, .*--overwrite"):
        open_writer(path)
    assert beside(path, "part").read_bytes() == b"images"
    with open_writer(path, overwrite=True) as writer:
        assert writer.num_done() == 0
    # Without its images nothing is lost.
    beside(path, "part").unlink()
    beside(path, "progress").write_bytes(text.encode() + b"\n" + bytes(7))
    with open_writer(path) as writer:
        assert writer.num_done() == 0


def test_empty_or_missing_file_tells_nothing(tmp_path):
    assert find_run(tmp_path / "progress") == NOTHING
    (tmp_path / "progress").write_bytes(b"")
    assert find_run(tmp_path / "progress") == NOTHING


def test_file_is_replaced_whole_at_every_start_and_nothing_else_is_left(path, tmp_path):
    progress = begin(path)
    first = progress.stat()
    with progress.open("rb") as held:
        begin(path)
        assert progress.stat().st_ino != first.st_ino
        assert len(held.read()) == first.st_size, "the earlier file is not truncated"
    umask = os.umask(0)
    os.umask(umask)
    assert stat.S_IMODE(progress.stat().st_mode) == 0o666 & ~umask
    assert files(tmp_path) == ["samples.npz.part", "samples.npz.progress"]
