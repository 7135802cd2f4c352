"""Sources of pictures: which class each has, what is refused, and how pictures are decoded."""

import io
import json
import shutil
import struct
import zipfile

import numpy as np
import pytest
from PIL import Image

from repa.data import open_source
from repa.errors import DataError


def png(value=0, size=(6, 4), mode="RGB", **options):
    file = io.BytesIO()
    colour = (value,) * len(mode) if mode.isalpha() and len(mode) > 1 else value
    Image.new(mode, size, colour).save(file, options.pop("format", "png"), **options)
    return file.getvalue()


TWO_CLASSES = {
    "dog/b.png": png(3),
    "cat/2.png": png(2),
    "cat/10.JPEG": png(1, format="jpeg"),
    "dog/readme.txt": b"no picture",
}
FLAT = {"b.png": png(2), "a.png": png(1)}


def build(path, files, *, in_zip=False, deflated=True):
    """Write files, given by their names, as a folder or as a zip; a name with / is a folder."""
    if in_zip:
        method = zipfile.ZIP_DEFLATED if deflated else zipfile.ZIP_STORED
        with zipfile.ZipFile(path := path.with_suffix(".zip"), "w", method) as archive:
            for name, content in files.items():
                archive.writestr(name, content)
        return path
    for name, content in files.items():
        if name.endswith("/"):
            (path / name).mkdir(parents=True)
        else:
            (path / name).parent.mkdir(parents=True, exist_ok=True)
            (path / name).write_bytes(content)
    return path


@pytest.fixture(params=[False, True], ids=["folder", "zip"])
def source(request, tmp_path):
    """Open files as a folder or as a zip."""

    def make(files):
        return open_source(build(tmp_path / "set", files, in_zip=request.param))

    return make


def values(images):
    return [int(images.picture(i).pixels[0, 0, 0]) for i in range(images.count)]


def test_classes_are_the_folders_by_sorted_name(source):
    images = source(TWO_CLASSES)
    assert images.names == ("cat/10.JPEG", "cat/2.png", "dog/b.png")
    assert images.labels.tolist() == [0, 0, 1] and images.labels.dtype == np.int64
    assert images.class_names == ("cat", "dog") and images.num_classes == 2
    assert values(images) == [1, 2, 3]
    assert images.not_taken == {".txt": 1}
    assert images.name in ("set", "set.zip")


def test_flat_source_has_no_classes(source):
    images = source(FLAT)
    assert images.labels is None and images.class_names == () and images.num_classes == 1
    assert values(images) == [1, 2]


def test_one_folder_of_pictures_is_no_class_as_in_the_reference(source):
    assert source({f"all/{name}": content for name, content in FLAT.items()}).labels is None


def test_a_lone_folder_around_the_classes_is_gone_into(source):
    images = source({f"data/train/{name}": content for name, content in TWO_CLASSES.items()})
    assert images.class_names == ("cat", "dog")
    assert values(images) == [1, 2, 3]


def test_deeper_folders_belong_to_the_class_at_the_top(source):
    images = source({"cat/x/1.png": png(1), "dog/1.png": png(2), "dog/y/z/1.png": png(3)})
    assert images.labels.tolist() == [0, 1, 1]


@pytest.mark.parametrize("prefix", ["", "wrapped/"])
def test_labels_of_a_prepared_set_are_taken_from_its_list(source, prefix):
    labels = {"labels": [["00000/img00000001.png", 0], ["00000/img00000000.png", 4]]}
    images = source(
        {
            f"{prefix}00000/img00000000.png": png(7),
            f"{prefix}00000/img00000001.png": png(8),
            f"{prefix}dataset.json": json.dumps(labels).encode(),
        }
    )
    assert images.labels.tolist() == [4, 0] and images.num_classes == 5
    assert images.class_names == () and values(images) == [7, 8] and not images.not_taken


def test_labels_beside_pictures_in_one_folder_are_not_passed_over(source):
    listed = json.dumps({"labels": [["a.png", 1], ["b.png", 0]]}).encode()
    images = source({**{f"in/{n}": c for n, c in FLAT.items()}, "in/dataset.json": listed})
    assert images.labels.tolist() == [1, 0]


def test_list_without_labels_means_none(source):
    files = {"00000/a.png": png(1), "00001/b.png": png(2), "dataset.json": b'{"labels": null}'}
    assert source(files).labels is None


def test_hidden_things_and_those_of_other_systems_are_left_out(source):
    images = source({**TWO_CLASSES, "__MACOSX/cat/._2.png": b"x", ".git/a.png": b"x"})
    assert images.count == 3


def test_images_of_a_folder_that_the_reference_prepared_are_taken(tmp_path):
    listed = json.dumps({"labels": [["00000/a.png", 1], ["00000/b.png", 0]]}).encode()
    build(
        tmp_path,
        {
            "images/00000/a.png": png(1),
            "images/00000/b.png": png(2),
            "images/dataset.json": listed,
            "vae-sd/00000/a.npy": b"",
        },
    )
    images = open_source(tmp_path)
    assert images.labels.tolist() == [1, 0] and values(images) == [1, 2]


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"a.txt": b"x"}, "holds no images"),
        ({**TWO_CLASSES, "cow/": b""}, "the class folder cow holds no images"),
        ({**TWO_CLASSES, "cow/notes.txt": b"x"}, "the class folder cow holds no images"),
        ({**TWO_CLASSES, "e.png": png()}, r"holds pictures \(e.png, 1 in all\) beside folders"),
        ({**TWO_CLASSES, "Cat/1.png": png()}, "two classes have one name, 'Cat' and 'cat'"),
        ({"e\u0301/1.png": png(), "\u00e9/2.png": png()}, "two classes have one name"),
        ({**FLAT, "dataset.json": b"{"}, "dataset.json must hold"),
        ({**FLAT, "dataset.json": b'{"labels": [["a.png", 1]]}'}, "names no class for b.png"),
        ({**FLAT, "dataset.json": b'{"labels": [["a.png", -1], ["b.png", 0]]}'}, "the class -1"),
        ({**FLAT, "dataset.json": b'{"labels": [["a.png", 9999999], ["b.png", 0]]}'}, "99999"),
        ({**FLAT, "dataset.json": b'{"labels": [["a.png", [1, 0]], ["b.png", 0]]}'}, "must hold"),
    ],
)
def test_sources_whose_classes_are_not_clear_are_refused_in_one_line(source, files, message):
    with pytest.raises(DataError, match=message) as caught:
        source(files)
    assert "\n" not in str(caught.value) and "set" in str(caught.value)


def test_what_is_no_source_is_refused(tmp_path):
    (tmp_path / "set.zip").write_bytes(b"PK\3\4 not much more")
    with pytest.raises(DataError, match="is no readable zip"):
        open_source(tmp_path / "set.zip")
    with pytest.raises(FileNotFoundError):
        open_source(tmp_path / "absent")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="holds no images"):
        open_source(tmp_path / "empty")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"no picture", "is not a readable image"),
        (png(5)[:-32], "is not a readable image"),
        (png(5, mode="I;16"), "more than 8 bits"),
        (png(5, save_all=True, append_images=[Image.new("RGB", (6, 4))]), "several pictures"),
        (png(5, format="gif", save_all=True, append_images=[Image.new("RGB", (6, 4), 9)]), "sever"),
        (png(5, size=(17000, 1)), "16384"),
        (png(1, mode="1", size=(8192, 8193)), "67,108,864"),
        (b"", "is not a readable image"),
    ],
)
def test_pictures_that_are_none_are_refused_by_name(source, content, message):
    images = source({"good.png": png(1), "poor.png": content})
    with pytest.raises(DataError, match=message) as caught:
        images.picture(1)
    assert "poor.png" in str(caught.value) and "\n" not in str(caught.value)


def test_a_long_photograph_is_no_mistake(source):
    assert source({"long.png": png(1, size=(9400, 2))}).picture(0).pixels.shape == (2, 9400, 3)


def test_transparency_and_other_colours_are_converted_and_said(source):
    palette = Image.new("P", (6, 4), 1)
    palette.putpalette([9, 9, 9, 40, 50, 60])
    file = io.BytesIO()
    palette.save(file, "png", transparency=0)
    exif = Image.Exif()
    exif[0x0112] = 6
    images = source(
        {
            "1.png": png(7),
            "2.png": png(7, mode="RGBA"),
            "3.png": png(7, mode="L"),
            "4.png": file.getvalue(),
            "5.jpg": png(7, format="jpeg", exif=exif),
        }
    )
    pictures = [images.picture(i) for i in range(5)]
    assert [p.was_transparent for p in pictures] == [False, True, False, True, False]
    assert [p.was_other_colours for p in pictures] == [False, False, True, True, False]
    assert [p.is_turned for p in pictures] == [False, False, False, False, True]
    assert pictures[3].pixels[0, 0].tolist() == [40, 50, 60]
    assert all(p.pixels.shape == (4, 6, 3) for p in pictures)


def test_image_is_cropped_and_what_cannot_be_is_named(source):
    images = source({"a.png": png(5, size=(30, 20)), "b.png": png(5, size=(400, 2))})
    assert images.image(0, 8).shape == (8, 8, 3)
    with pytest.raises(DataError, match=r"b\.png is 400 x 2"):
        images.image(1, 8)


def test_stamp_of_a_changed_file_is_another_one(tmp_path):
    images = open_source(build(tmp_path / "set", FLAT))
    before = [images.stamp(i) for i in range(2)]
    (tmp_path / "set" / "a.png").write_bytes(png(1, size=(3, 3)))
    assert images.stamp(0) != before[0] and images.stamp(1) == before[1]
    shutil.rmtree(tmp_path / "set")
    for look in (images.read, images.stamp):
        with pytest.raises(DataError, match=r"a\.png cannot be read"):
            look(0)
    zips = [
        open_source(build(tmp_path / "z", {**FLAT, "a.png": png(v)}, in_zip=True)) for v in (1, 2)
    ]
    assert zips[0].stamp(0) != zips[1].stamp(0)


@pytest.mark.parametrize("deflated", [True, False])
def test_damaged_member_of_a_zip_is_named(tmp_path, deflated):
    path = build(tmp_path / "set", FLAT, in_zip=True, deflated=deflated)
    content = bytearray(path.read_bytes())
    content[60] ^= 8  # within the first member, b.png
    path.write_bytes(content)
    images = open_source(path)
    assert images.picture(0).pixels[0, 0, 0] == 1
    with pytest.raises(DataError, match=r"set\.zip: b\.png is damaged"):
        images.read(1)


def test_zip_bombs_are_refused(tmp_path):
    bomb = build(tmp_path / "bomb", {"a.png": bytes(300_000_000)}, in_zip=True)
    with pytest.raises(DataError, match=r"a\.png is a zip bomb: it would be 300,000,000 bytes"):
        open_source(bomb)
    # The directory may tell of less than comes out.
    liar = build(tmp_path / "liar", {"a.png": bytes(50_000_000)}, in_zip=True)
    content = liar.read_bytes().replace(struct.pack("<I", 50_000_000), struct.pack("<I", 5_000))
    liar.write_bytes(content)
    with pytest.raises(DataError, match=r"a\.png is damaged"):
        open_source(liar).read(0)
    # Members may share their bytes.
    with zipfile.ZipFile(tmp_path / "many.zip", "w") as archive:
        archive.writestr("a.png", bytes(20_000))
        first = archive.filelist[0]
        for number in range(50):
            archive.filelist.append(other := zipfile.ZipInfo(f"{number}.png"))
            for name in ("compress_size", "file_size", "CRC", "header_offset"):
                setattr(other, name, getattr(first, name))
    with pytest.raises(DataError, match="is a zip bomb: its members overlap"):
        open_source(tmp_path / "many.zip")


def test_members_that_not_everything_reads_are_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "set.zip", "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("a.png", png(1))
    with pytest.raises(DataError, match="zip it anew"):
        open_source(tmp_path / "set.zip")
    locked = build(tmp_path / "locked", FLAT, in_zip=True)
    content = bytearray(locked.read_bytes())
    content[content.index(b"PK\1\2") + 8] |= 1
    locked.write_bytes(content)
    with pytest.raises(DataError, match=r"b\.png is encrypted"):
        open_source(locked)


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_name_that_a_zip_holds_twice_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
        for _ in range(2):
            archive.writestr("cat/a.png", png(1))
    with pytest.raises(DataError, match=r"holds cat/a\.png twice"):
        open_source(tmp_path / "set.zip")
