"""Prepared sets: what is in them, whatever happens while they are made."""

import errno
import hashlib
import json
import os
import zipfile

import numpy as np
import pytest
from pictures import class_folders, content, draw, noise

from repa.data import center_crop, open_prepared, open_source
from repa.data.overview import open_set
from repa.data.preparation import PrepareConfig, making, prepare, way_on
from repa.data.row_files import member_name
from repa.data.samples import open_training_data
from repa.errors import DataError, InUseError, OutputExistsError, SettingError
from repa_base.locks import lock_if_free


@pytest.fixture
def source(tmp_path):
    return class_folders(tmp_path / "src")


def config(tmp_path, **changes):
    usual = {"source": tmp_path / "src", "out": tmp_path / "out", "image_size": 16}
    return PrepareConfig(**{**usual, "batch_size": 4, "num_threads": 2, **changes})


def made(tmp_path, **changes):
    prepare(config(tmp_path, **changes))
    return open_prepared(tmp_path / "out")


def test_images_are_the_crops_of_the_source_with_its_classes(source, tmp_path):
    prepared, images = made(tmp_path), open_source(source)
    expected = [center_crop(images.picture(i).pixels, 16) for i in range(images.count)]
    assert np.array_equal(prepared.images(range(images.count)), expected)
    assert np.array_equal(prepared.images([3, 0, 3]), [expected[i] for i in (3, 0, 3)])
    assert prepared.labels.tolist() == images.labels.tolist()
    assert prepared.class_names == ("cat", "dog", "emu") and prepared.num_classes == 3
    assert (prepared.count, prepared.image_size) == (images.count, 16)
    assert prepared.latent_space is None and prepared.encoders == ()
    assert prepared.images([]).shape == (0, 16, 16, 3)


def test_images_and_labels_are_those_that_the_reference_records(golden, tmp_path):
    arrays, meta = golden("preprocess_crop")
    cases = {"im0": "img0_500x375", "im1": "img1_333x611", "im2": "img2_1200x800"}
    cases["im3"] = "img3_61x47"
    for name in meta["cli"]["source_files_sorted"]:
        path = tmp_path / "src" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(arrays[f"{cases[path.stem]}/png"].tobytes())
    prepared = made(tmp_path, image_size=64)
    assert np.array_equal(prepared.images(range(4)), arrays["cli64/images_in_output_order"])
    with zipfile.ZipFile(tmp_path / "out" / "images.zip") as archive:
        assert archive.namelist() == meta["cli"]["output_files"]
        told = json.loads(archive.read("dataset.json"))
    assert told == json.loads(meta["cli"]["dataset_json"])


def test_zip_is_one_that_others_read_and_that_is_a_source_itself(source, tmp_path):
    prepared = made(tmp_path)
    path = tmp_path / "out" / "images.zip"
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        assert {info.compress_type for info in archive.infolist()} == {zipfile.ZIP_STORED}
        assert archive.namelist()[0] == "00000/img00000000.png" == member_name(0)
    again = open_source(path)
    assert again.labels.tolist() == prepared.labels.tolist()
    assert np.array_equal(again.picture(5).pixels, prepared.images([5])[0])


def test_flat_source_has_null_labels(tmp_path):
    for number in range(3):
        draw(tmp_path / "src" / f"{number}.png", noise(number))
    prepared = made(tmp_path)
    assert prepared.labels.tolist() == [0, 0, 0] and prepared.num_classes == 1
    with zipfile.ZipFile(tmp_path / "out" / "images.zip") as archive:
        assert json.loads(archive.read("dataset.json")) == {"labels": None}


def test_manifest_tells_size_and_hash_of_every_file(source, tmp_path):
    made(tmp_path, held_out=3)
    manifest = json.loads((tmp_path / "out" / "prepared.json").read_text())
    assert set(content(tmp_path / "out")) == {*manifest["files"], "prepared.json"}
    for name, told in manifest["files"].items():
        data = (tmp_path / "out" / name).read_bytes()
        assert told == {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}


def test_held_out_images_are_the_others(source, tmp_path):
    whole, prepared = open_source(source), made(tmp_path, held_out=6)
    held = open_source(tmp_path / "out" / "held-out.zip")
    assert prepared.count == whole.count - 6 and held.count == 6
    both = [*prepared.images(range(prepared.count)), *(held.picture(i).pixels for i in range(6))]
    expected = [center_crop(whole.picture(i).pixels, 16) for i in range(whole.count)]
    assert sorted(map(bytes, both)) == sorted(map(bytes, expected))
    assert np.bincount(held.labels).tolist() == [2, 2, 2]


def test_prepared_again_it_is_finished_and_with_other_settings_refused(source, tmp_path):
    first = prepare(config(tmp_path))
    before = content(tmp_path / "out")
    assert not first.was_finished
    assert prepare(config(tmp_path, batch_size=7)).was_finished
    assert content(tmp_path / "out") == before
    with pytest.raises(OutputExistsError, match="has image size 16, not 8; use --overwrite"):
        prepare(config(tmp_path, image_size=8))
    assert content(tmp_path / "out") == before
    prepare(config(tmp_path, image_size=8, overwrite=True))
    assert open_prepared(tmp_path / "out").image_size == 8


def flip_a_byte(path, at=1000):
    with path.open("r+b") as file:
        file.seek(at)
        (byte,) = file.read(1)
        file.seek(at)
        file.write(bytes([byte ^ 16]))


def test_damaged_set_is_made_anew_by_overwrite(source, tmp_path):
    out = tmp_path / "out"
    expected = made(tmp_path) and content(out)
    flip_a_byte(out / "images.zip")
    with pytest.raises(DataError, match=r"row 1 is not .*; prepare the set anew with --overwrite"):
        open_prepared(out).images([1])
    again = prepare(config(tmp_path, overwrite=True))
    assert (again.was_finished, again.num_made) == (False, 15) and content(out) == expected


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            lambda out: (out / "images.zip").unlink(),
            r"images\.zip is missing: prepare .* anew with",
        ),
        (
            lambda out: os.truncate(out / "held-out.zip", 99),
            r"held-out\.zip is cut short: 99 bytes",
        ),
        (lambda out: flip_a_byte(out / "checksums.npz", 150), r"checksums\.npz is damaged"),
        (lambda out: flip_a_byte(out / "prepared.json", 40), r"prepared\.json is damaged"),
    ],
)
def test_damage_that_is_seen_without_reading_rows_does_not_pass_for_finished(
    source, tmp_path, damage, message
):
    out = tmp_path / "out"
    expected = made(tmp_path, held_out=3) and content(out)
    damage(out)
    left = content(out)
    with pytest.raises(DataError, match=message) as caught:
        prepare(config(tmp_path, held_out=3))
    assert "--overwrite" in str(caught.value) and content(out) == left
    assert not prepare(config(tmp_path, held_out=3, overwrite=True)).was_finished
    assert content(out) == expected


def test_what_can_be_known_is_refused_before_a_file_is_inspected(source, tmp_path, monkeypatch):
    def never(*arguments, **options):
        raise AssertionError("inspected")

    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        patch.setattr(making, "inspect", never)
        for amount, words in ((14, "14 comes to 14 of 15 images"), (0.01, "comes to 0 of 15")):
            with pytest.raises(SettingError, match=words) as caught:
                prepare(config(tmp_path, held_out=amount))
            assert caught.value.field == "held_out" and not out.exists()
    before = made(tmp_path, held_out=3) and content(out)
    monkeypatch.setattr(making, "inspect", never)
    for changes, words in (
        ({"held_out": 3, "image_size": 8}, "has image size 16, not 8"),
        ({}, "has held out 3, not none"),
        ({"held_out": 4}, "has held out amount 3, not 4"),
    ):
        with pytest.raises(OutputExistsError, match=f"{words}; use --overwrite"):
            prepare(config(tmp_path, **changes))
    (source / "fox").mkdir()
    draw(source / "fox" / "a.png", noise(1))
    with pytest.raises(OutputExistsError, match="is of other classes: the source has changed"):
        prepare(config(tmp_path, held_out=3))
    assert content(out) == before


def test_nothing_of_a_set_that_was_being_removed_stays_in_the_next(source, tmp_path):
    out = tmp_path / "out"
    expected = made(tmp_path) and content(out)
    prepare(config(tmp_path, held_out=3, overwrite=True))
    (out / "prepared.json").unlink()  # as a kill leaves it
    (out / "prepare.lock").touch()
    prepare(config(tmp_path))
    assert content(out) == expected


def test_changed_source_is_found(source, tmp_path):
    made(tmp_path)
    draw(source / "cat" / "1.png", noise(99))
    with pytest.raises(OutputExistsError, match="of other images: the source has changed"):
        prepare(config(tmp_path))
    draw(source / "cat" / "new.png", noise(98))
    with pytest.raises(OutputExistsError, match="the source has changed"):
        prepare(config(tmp_path))
    prepare(config(tmp_path, overwrite=True))
    assert open_prepared(tmp_path / "out").count == 16


def test_file_that_changes_while_it_is_prepared_is_an_error(source, tmp_path, monkeypatch):
    whole = making.inspect

    def then_change(*arguments, **options):
        seen = whole(*arguments, **options)
        draw(source / "dog" / "2.png", noise(77))
        return seen

    monkeypatch.setattr(making, "inspect", then_change)
    with pytest.raises(DataError, match=r"dog/2\.png has changed since it was inspected"):
        prepare(config(tmp_path))
    with pytest.raises(DataError, match="is not finished"):
        open_prepared(tmp_path / "out")
    monkeypatch.undo()
    with pytest.raises(OutputExistsError, match="is unfinished and is of other images"):
        prepare(config(tmp_path))
    prepare(config(tmp_path, overwrite=True))
    assert np.array_equal(
        open_prepared(tmp_path / "out").images([7])[0], center_crop(noise(77), 16)
    )


def test_overwrite_looks_again_at_files_whose_change_no_stamp_tells(tmp_path, monkeypatch):
    path = tmp_path / "src" / "1.ppm"
    for number in (0, 1):
        draw(path.with_name(f"{number}.ppm"), noise(number))
    with monkeypatch.context() as patch:
        patch.setattr(making, "fill", lambda *arguments, **options: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            prepare(config(tmp_path))
    times = (path.stat().st_atime_ns, path.stat().st_mtime_ns)
    path.write_bytes(path.read_bytes()[:-600] + bytes(600))
    os.utime(path, ns=times)
    with pytest.raises(DataError, match=r"1\.ppm has changed since .*; use --overwrite"):
        prepare(config(tmp_path))
    prepare(config(tmp_path, overwrite=True))
    expected = center_crop(open_source(tmp_path / "src").picture(1).pixels, 16)
    assert np.array_equal(open_prepared(tmp_path / "out").images([1])[0], expected)


def test_broken_files_stop_it_by_name_or_are_left_out_and_listed(source, tmp_path):
    (source / "cat" / "poor.png").write_bytes(b"no picture")
    (source / "dog" / "cut.png").write_bytes((source / "dog" / "0.png").read_bytes()[:-300])
    notes = []
    with pytest.raises(DataError, match="2 files to mend or remove, or leave out") as caught:
        prepare(config(tmp_path), on_note=notes.append)
    for name in ("cat/poor.png", "dog/cut.png"):
        assert name in str(caught.value) and any(name in note for note in notes)
    assert "\n" not in str(caught.value)
    prepared = made(tmp_path, skip_broken=True)
    assert prepared.count == 15 and prepared.manifest["skipped"] == ["cat/poor.png", "dog/cut.png"]


def test_class_of_which_nothing_can_be_used_is_named(source, tmp_path):
    (source / "fox").mkdir()
    (source / "fox" / "a.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match="the class fox has no images that can be used"):
        prepare(config(tmp_path, skip_broken=True))


def test_folder_of_others_is_left_alone(source, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("mine")
    for overwrite in (False, True):
        with pytest.raises(OutputExistsError, match=r"holds other files \(thesis.txt\)"):
            prepare(config(tmp_path, overwrite=overwrite))
    assert content(tmp_path / "out") == {"thesis.txt": b"mine"}
    (tmp_path / "file").write_text("mine")
    with pytest.raises(OutputExistsError, match="is a file"):
        prepare(config(tmp_path, out=tmp_path / "file", overwrite=True))
    for out in (source / "inside", source, tmp_path):
        with pytest.raises(OutputExistsError, match="lie in one another"):
            prepare(config(tmp_path, out=out))


def test_two_at_a_time_are_told_apart(source, tmp_path):
    (tmp_path / "out").mkdir()
    with (tmp_path / "out" / "prepare.lock").open("w") as lock:
        assert lock_if_free(lock.fileno(), tmp_path)
        with pytest.raises(InUseError, match="another run"):
            prepare(config(tmp_path))


def test_what_the_disk_loses_is_found_at_the_end_and_made_again(source, tmp_path, monkeypatch):
    expected = made(tmp_path) and content(tmp_path / "out")
    whole, calls = making._Making._complete, []

    def damaged_once(self):
        if not calls.append(1) and len(calls) == 1:
            with (tmp_path / "out" / "images.zip").open("r+b") as file:
                file.seek(1000)
                file.write(bytes(40))
        return whole(self)

    monkeypatch.setattr(making._Making, "_complete", damaged_once)
    (tmp_path / "out" / "prepared.json").unlink()
    notes = []
    (tmp_path / "out" / "prepare.lock").touch()
    prepare(config(tmp_path), on_note=notes.append)
    assert "damaged on disk: 1 rows; making them again." in notes
    assert content(tmp_path / "out") == expected


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"image_size": 0}, "image_size"),
        ({"batch_size": 0}, "batch_size"),
        ({"num_threads": -1}, "num_threads"),
        ({"flip": True}, "flip"),
        ({"grid_size": 4}, "grid_size"),
        ({"encoders": ("a", "a")}, "encoders"),
    ],
)
def test_settings_that_make_no_sense_are_refused(tmp_path, changes, field):
    with pytest.raises(SettingError) as caught:
        config(tmp_path, **changes)
    assert caught.value.field == field


def test_everything_that_was_done_to_pictures_is_said(tmp_path):
    rgba = np.dstack([noise(1), np.full((20, 30), 9, np.uint8)])
    draw(tmp_path / "src" / "a.png", rgba)
    draw(tmp_path / "src" / "b.png", noise(2)[..., 0])
    draw(tmp_path / "src" / "c.png", noise(3)[:10, :10])
    (tmp_path / "src" / "notes.txt").write_text("x")
    notes = []
    prepare(config(tmp_path), on_note=notes.append)
    said = "\n".join(notes)
    for words in ("1 pictures had transparency", "1 pictures were grey", "1 pictures were smaller"):
        assert words in said
    assert "1 file was not taken: 1 .txt" in said and "are free" in said
    sizes = open_prepared(tmp_path / "out").manifest["sizes"]
    assert sizes == {"width": [10, 30], "height": [10, 20], "enlarged": 1, "cut": 2}


def test_no_room_is_found_before_the_work(source, tmp_path, monkeypatch):
    import repa_base.files

    usage = repa_base.files.shutil.disk_usage(tmp_path)
    small = lambda path: usage._replace(free=5000)  # noqa: E731
    monkeypatch.setattr(repa_base.files.shutil, "disk_usage", small)
    with pytest.raises(OSError, match=r"the prepared set needs 1\d\.\d kB, 5\.0 kB are free"):
        prepare(config(tmp_path))
    assert content(tmp_path / "out") == {}


def test_set_is_replaced_in_its_own_room_and_kept_where_there_is_none(
    source, tmp_path, monkeypatch
):
    import repa_base.files

    out = tmp_path / "out"
    before = made(tmp_path) and content(out)
    usage = repa_base.files.shutil.disk_usage(tmp_path)
    # In blocks of 4,096 bytes: the set takes 16 kB, and 5 of 21 kB are free beside it.
    taken = lambda: sum(512 * path.lstat().st_blocks for path in out.glob("*.zip"))  # noqa: E731
    room = taken() + 5000
    free = lambda path: usage._replace(free=room - taken())  # noqa: E731
    monkeypatch.setattr(repa_base.files.shutil, "disk_usage", free)
    with pytest.raises(OSError, match="beyond what it replaces, the prepared set needs") as caught:
        prepare(config(tmp_path, image_size=64, overwrite=True))
    assert "5.0 kB are free" in str(caught.value) and content(out) == before
    assert not prepare(config(tmp_path, overwrite=True)).was_finished
    assert content(out) == before


def test_disk_that_fills_up_in_the_middle_says_how_to_go_on(source, tmp_path, monkeypatch):
    expected = made(tmp_path) and content(tmp_path / "out")
    for path in (tmp_path / "out").iterdir():
        path.unlink()
    from repa.data.preparation import set_writer

    whole, calls = set_writer.write_at, []

    def full(*arguments):
        calls.append(1)
        if len(calls) == 7:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        whole(*arguments)

    monkeypatch.setattr(set_writer, "write_at", full)
    with pytest.raises(OSError, match="make room and repeat the command: what is") as caught:
        prepare(config(tmp_path))
    assert caught.value.filename == str(tmp_path / "out" / "images.zip")
    monkeypatch.undo()
    with pytest.raises(DataError, match="is not finished: repeat the command"):
        open_prepared(tmp_path / "out")
    prepare(config(tmp_path))
    assert content(tmp_path / "out") == expected


def test_way_on_from_an_end_too_early_is_said(source, tmp_path, monkeypatch):
    out, again = tmp_path / "out", config(tmp_path, image_size=8, overwrite=True)

    def stopped(*arguments, **options):
        raise OSError(errno.ENOSPC, "full", "x")

    made(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(making, "inspect", stopped)
        with pytest.raises(OSError, match="full"):
            prepare(again)
    assert way_on(again) == f"{out} is still the set that was there before."
    monkeypatch.setattr(making, "fill", stopped)
    with pytest.raises(OSError, match="make room and repeat the command without --overwrite: what"):
        prepare(again)
    assert way_on(again).endswith("keeps what is done; repeat the command without --overwrite to go"
                                  " on.")  # fmt: skip
    monkeypatch.undo()
    prepare(config(tmp_path, image_size=8))
    assert open_prepared(out).image_size == 8


def test_set_that_stopped_at_its_inspection_is_unfinished_for_everybody(source, tmp_path):
    (source / "cat" / "poor.png").write_bytes(b"poor")
    with pytest.raises(DataError, match=r"poor\.png is not a readable image: none of PNG, JPEG"):
        prepare(config(tmp_path))
    for opened in (open_prepared, open_set, lambda path: open_training_data(str(path), 16)):
        with pytest.raises(DataError, match="is not finished: repeat the command"):
            opened(tmp_path / "out")
