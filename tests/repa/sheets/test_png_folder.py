import json
import os
import time

import numpy as np
import pytest
from PIL import Image

from metrics import open_images
from repa.errors import OutputExistsError
from repa.sheets import check_png_folder, save_png_folder

RANDOM = np.random.default_rng(0)
IMAGES = RANDOM.integers(0, 256, (40, 8, 8, 3), dtype=np.uint8)


def write(path, count=5, images=IMAGES, *, labelled=True):
    labels = {"arr_1": np.arange(count) % 3} if labelled else {}
    np.savez(path, arr_0=images[:count], **labels)
    return path


def content(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "deep" / "png"


@pytest.mark.parametrize("labelled", [True, False])
def test_folder_holds_the_bytes_and_classes_of_the_file_in_its_order(tmp_path, folder, labelled):
    path = write(tmp_path / "a.npz", 12, labelled=labelled)
    seen = []
    assert save_png_folder(path, folder, progress=lambda done, _: seen.append(done)) == 12
    assert sorted(n for n in content(folder) if n[0] == "0") == [f"{i:06}.png" for i in range(12)]
    ours, theirs = open_images(folder), open_images(path)
    assert np.array_equal(np.concatenate(list(ours.batches(5))), IMAGES[:12])
    assert (ours.labels is None) == (theirs.labels is None) == (not labelled)
    assert not labelled or ours.labels.tolist() == theirs.labels.tolist()
    assert seen == sorted(seen) and seen[-1] == 12


def test_killed_run_goes_on_and_touches_nothing_that_is_there(tmp_path, folder, monkeypatch):
    path, replace, made, gone = write(tmp_path / "a.npz", 12), os.replace, [], []

    def killed(source, target):
        made.append(target)
        if len(made) == 7:
            raise KeyboardInterrupt
        if len(made) > 7:
            time.sleep(0.3)  # at work while the run ends
        gone.extend([] if source.exists() else [source])
        replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr("pathlib.Path.replace", lambda self, target: killed(self, target))
        with pytest.raises(KeyboardInterrupt):
            save_png_folder(path, folder)
    assert not gone, "their folder was removed before the threads had ended"
    before = content(folder)
    assert 0 < len(before) < 12 and "dataset.json" not in before
    assert {path.name for path in folder.iterdir()} == {*before}, "hidden folders are left"
    (folder / ".images.abcdefgh.part").mkdir()  # what a kill leaves where nothing can clean up
    times = {name: (folder / name).stat().st_mtime_ns for name in before}
    save_png_folder(path, folder)
    assert times == {name: (folder / name).stat().st_mtime_ns for name in before}
    save_png_folder(path, tmp_path / "whole")
    assert content(folder) == content(tmp_path / "whole")


def test_run_of_more_images_goes_on_and_one_of_fewer_is_refused(tmp_path, folder):
    save_png_folder(write(tmp_path / "a.npz", 5), folder)
    save_png_folder(write(tmp_path / "b.npz", 9), folder)
    assert open_images(folder).labels.tolist() == [i % 3 for i in range(9)]
    with pytest.raises(OutputExistsError, match="4 images beside the 5 of this run; use --overw"):
        save_png_folder(tmp_path / "a.npz", folder)
    assert open_images(folder).count == 9
    save_png_folder(tmp_path / "a.npz", folder, overwrite=True)
    assert open_images(folder).count == 5


def test_images_of_another_run_stay_unless_they_may_be_replaced(tmp_path, folder):
    save_png_folder(write(tmp_path / "a.npz"), folder)
    other = write(tmp_path / "b.npz", images=IMAGES[20:])
    (folder / "000000.png").unlink()
    before = content(folder)
    with pytest.raises(OutputExistsError, match=r"000001\.png is another image; use --overwrite"):
        save_png_folder(other, folder)
    with pytest.raises(OutputExistsError, match="holds other images; use --overwrite"):
        check_png_folder(folder, begun=False)
    assert content(folder) == before
    save_png_folder(other, folder, overwrite=True)
    assert np.array_equal(np.concatenate(list(open_images(folder).batches(9))), IMAGES[20:25])


@pytest.mark.parametrize("damage", [b"", b"precious", None])
def test_file_that_is_no_image_of_the_run_is_another(tmp_path, folder, damage):
    path = write(tmp_path / "a.npz")
    save_png_folder(path, folder)
    first = folder / "000000.png"
    first.write_bytes(first.read_bytes()[:-20] if damage is None else damage)
    with pytest.raises(OutputExistsError, match=r"000000\.png is another image"):
        save_png_folder(path, folder)
    Image.fromarray(IMAGES[0]).convert("RGBA").save(first)
    with pytest.raises(OutputExistsError, match=r"000000\.png is another image"):
        save_png_folder(path, folder)
    save_png_folder(path, folder, overwrite=True)
    assert np.array_equal(next(open_images(folder).batches(1))[0], IMAGES[0])


@pytest.mark.parametrize("name", ["photo.jpg", "0.png", "class/", "samples.npz"])
def test_files_of_other_names_are_never_touched(tmp_path, folder, name):
    path = write(tmp_path / "a.npz")
    folder.mkdir(parents=True)
    (folder / ".DS_Store").touch()
    save_png_folder(path, folder)
    strange = folder / name
    strange.mkdir() if name.endswith("/") else strange.write_bytes(b"precious")
    for overwrite in (False, True):
        with pytest.raises(OutputExistsError, match=f"holds {strange.name}; use an empty folder"):
            save_png_folder(path, folder, overwrite=overwrite)
    assert strange.exists()


@pytest.mark.parametrize("text", ['{"labels": [["000000.png", 9]]}', '{"labels": 7}', "{", "[]"])
def test_classes_of_another_run_stay_unless_they_may_be_replaced(tmp_path, folder, text):
    path = write(tmp_path / "a.npz")
    save_png_folder(path, folder)
    labels = folder / "dataset.json"
    whole = labels.read_text()
    labels.write_text(text)
    with pytest.raises(OutputExistsError, match=r"dataset\.json is not of this run"):
        save_png_folder(path, folder)
    save_png_folder(path, folder, overwrite=True)
    assert json.loads(labels.read_text()) == json.loads(whole)


def test_name_of_a_file_is_refused(tmp_path):
    (tmp_path / "file").write_bytes(b"precious")
    with pytest.raises(OutputExistsError, match="file is a file; use another --png"):
        check_png_folder(tmp_path / "file", overwrite=True)


def test_error_of_writing_names_the_file(tmp_path, folder, monkeypatch):
    def full(self, content):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.write_bytes", full)
    with pytest.raises(OSError, match="No space left on device") as caught:
        save_png_folder(write(tmp_path / "a.npz"), folder)
    assert caught.value.filename == str(folder / "000000.png")
