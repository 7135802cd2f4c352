"""Sample files that are made longer, in whole blocks."""

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

from repa.errors import OutputExistsError
from repa.generation.sample_files import opening

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
