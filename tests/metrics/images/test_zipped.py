"""A zip of pictures is read as the folder that it was made of."""

import json
import random
import struct
import zipfile

import numpy as np
import pytest
from PIL import Image

from metrics import FirstImages, InputError, open_images, open_reference
from metrics.images.arrays import formats_of
from metrics.images.content_hash import fingerprint
from metrics.images.zipped import open_zip
from metrics.report.lint import lint_sources

SIZES = ((6, 8), (6, 8), (5, 7), (6, 8))
NAMES = ("a/2.png", "a/10.jpg", "b/1.webp", "b/9.png")


@pytest.fixture
def folder(tmp_path):
    """Four pictures of two sizes and three formats, and a file beside them."""
    generator = np.random.default_rng(0)
    for name, size in zip(NAMES, SIZES, strict=True):
        path = tmp_path / "set" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(generator.integers(0, 256, (*size, 3), dtype=np.uint8)).save(path)
    (tmp_path / "set" / "notes.txt").write_text("none")
    return tmp_path / "set"


def zipped(folder, name="set.zip", compression=zipfile.ZIP_STORED, **more):
    """Zip a folder in an order of no meaning."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    random.Random(0).shuffle(files)
    with zipfile.ZipFile(folder.parent / name, "w", compression) as archive:
        for path in files:
            archive.write(path, path.relative_to(folder).as_posix())
        for inner, content in more.items():
            archive.writestr(inner, content)
    return folder.parent / name


def all_batches(images, **options):
    return [batch.tolist() for batch in images.batches(3, **options)]


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_zip_gives_what_its_folder_gives(folder, compression):
    labels = {"labels": [[name, i * i] for i, name in enumerate(NAMES)]}
    (folder / "dataset.json").write_text(json.dumps(labels))
    inside, source = open_images(folder), open_images(zipped(folder, compression=compression))
    assert [p.relative_to(folder).as_posix() for p in inside.paths] == list(source.names)
    assert all_batches(source) == all_batches(inside)
    assert all_batches(source, start=1, stop=4) == all_batches(inside, start=1, stop=4)
    assert source.count == 4 and source.shape is inside.shape is None
    assert source.labels.tolist() == inside.labels.tolist()
    assert source.not_taken == inside.not_taken == {".txt": 1}
    first = formats_of(FirstImages(source, 2))
    assert first == formats_of(FirstImages(inside, 2)) == {"JPEG": 1, "PNG": 1}


def test_images_of_one_size_have_a_shape_and_make_a_reference(folder):
    (folder / "b/1.webp").unlink()
    path = zipped(folder)
    reference = open_reference(path)
    assert reference.statistics is None and reference.images.shape == (6, 8, 3)
    assert reference.images.labels is None
    checks = {warning.check for warning in lint_sources(reference.images, reference, "inception")}
    assert "files-not-taken" in checks


def test_what_is_hidden_is_left_out(folder):
    more = {"__MACOSX/a/2.png": "no picture", ".hidden/b.png": "", "b/._9.png": "", "c/": ""}
    path = zipped(folder, **more)
    assert open_zip(path).names == open_zip(zipped(folder, "plain.zip")).names


def test_the_hash_is_that_of_the_file_and_remembered_by_its_mark(folder):
    first, other = open_zip(zipped(folder)), open_zip(zipped(folder, "other.zip", empty=""))
    assert first.sha256() != other.sha256()
    before = fingerprint(first)
    assert before is not None
    zipped(folder, empty="")
    assert fingerprint(open_zip(first.path)) != before


def damage(path, name, offset):
    """Turn a bit of a member's content; its name and header stay."""
    content = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        content[archive.getinfo(name).header_offset + 30 + len(name) + offset] ^= 1
    path.write_bytes(content)


def test_damage_inside_a_picture_is_found_when_it_is_read(folder):
    large = np.random.default_rng(1).integers(0, 256, (99, 99, 3), dtype=np.uint8)
    Image.fromarray(large).save(folder / "b/9.png")  # more than is read with its header
    path = zipped(folder)
    damage(path, "b/9.png", offset=20_000)
    source = open_zip(path)
    assert len(all_batches(source, stop=3)) == 2
    with pytest.raises(InputError, match=r"set.zip: b/9.png is damaged"):
        all_batches(source)


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_picture_that_is_none_is_named(folder, compression):
    (folder / "b" / "7.png").write_bytes(b"no picture" * 99)
    with pytest.raises(InputError, match=r"set.zip: b/7.png is not a readable image"):
        open_zip(zipped(folder, compression=compression))


def bomb(path):
    """Say of a member that it is a gigabyte."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.png", bytes(1 << 16))
    content = path.read_bytes()
    small, large = (struct.pack("<I", size) for size in (1 << 16, 1 << 30))
    path.write_bytes(content.replace(small, large))


def overlapping(path):
    """Say of two members that they are one."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.png", bytes(1 << 16))
        archive.writestr("b.png", b"")
    content = path.read_bytes()
    start = content.index(b"PK\1\2", content.index(b"PK\1\2") + 4)
    entry = bytearray(content[start:])
    entry[20:28] = struct.pack("<2I", 1 << 16, 1 << 16)
    entry[42:46] = struct.pack("<I", 0)
    path.write_bytes(content[:start] + entry)


def encrypted(path):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.png", b"secret")
    content = bytearray(path.read_bytes())
    content[content.index(b"PK\1\2") + 8] |= 1
    path.write_bytes(content)


def repeated(path):
    with zipfile.ZipFile(path, "w") as archive, pytest.warns(UserWarning):
        archive.writestr("a.png", b"")
        archive.writestr("a.png", b"")


def compressed_oddly(path):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("a.png", bytes(99))


def empty(path):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("notes.txt", b"")


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (bomb, "is a zip bomb"),
        (overlapping, "is a zip bomb: its members overlap"),
        (encrypted, "a.png is encrypted"),
        (repeated, "holds a.png twice"),
        (compressed_oddly, "compressed in a way that only some can read"),
        (empty, "holds no images .*1 file was not taken: 1 .txt"),
        (lambda path: path.write_bytes(b""), "is no readable zip"),
        (lambda path: path.write_bytes(b"PK\3\4 and no end"), "is no readable zip"),
        (lambda path: path.mkdir(), "holds no images"),
    ],
)
def test_what_cannot_be_read_is_one_line_with_its_name(tmp_path, make, words):
    path = tmp_path / "set.zip"
    make(path)
    with pytest.raises(InputError, match=words) as caught:
        open_images(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_a_zip_that_is_cut_short_or_not_there_is_named(folder, tmp_path):
    path = zipped(folder)
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(InputError, match="is no readable zip"):
        open_images(path)
    with pytest.raises(FileNotFoundError):
        open_images(tmp_path / "absent.zip")


def test_labels_that_leave_a_picture_out_are_refused(folder):
    labels = {"dataset.json": json.dumps({"labels": [["a/2.png", 1]]})}
    with pytest.raises(InputError, match=r"set.zip: dataset.json names no class for a/10.jpg"):
        open_images(zipped(folder, **labels))
