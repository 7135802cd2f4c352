"""Headers of a source's pictures, by hand counts and by what decoding every picture tells."""

import os
import shutil
import struct
import zipfile

import numpy as np
import pytest
from pictures import draw, noise
from PIL import Image

from repa.data import open_source
from repa.data.headers import read_headers
from repa.errors import DataError


def in_form(source, form, tmp_path):
    """Return a folder of pictures as it is, or as a zip, stored or deflated."""
    if form == "folder":
        return source
    path = tmp_path / "zipped.zip"
    method = zipfile.ZIP_DEFLATED if form == "deflated" else zipfile.ZIP_STORED
    with zipfile.ZipFile(path, "w", method) as archive:
        for file in sorted(source.rglob("*.*")):
            archive.write(file, file.relative_to(source))
    return path


def save(path, mode="RGB", size=(30, 20), **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(noise(1, size[1], size[0])).convert(mode).save(path, **options)


@pytest.fixture(params=["folder", "stored", "deflated"])
def pictures(request, tmp_path):
    """Open a folder in one of three forms."""
    return lambda folder: open_source(in_form(folder, request.param, tmp_path))


def test_what_becomes_of_pictures_is_counted_as_decoding_them_counts_it(pictures, tmp_path):
    folder, exif = tmp_path / "src", Image.Exif()
    exif[0x0112] = 3
    save(folder / "a/1.png")
    save(folder / "a/2.png", "RGBA", (10, 40))
    save(folder / "a/3.png", "LA")
    save(folder / "b/4.jpg", "L", (64, 8))
    save(folder / "b/5.jpg", exif=exif)
    save(folder / "b/6.gif", "P")
    source = pictures(folder)
    seen = []
    headers = read_headers(source, lambda done, total: seen.append((done, total)))
    assert headers.converted == {"transparent": 2, "other_colours": 3, "turned": 1}
    assert seen == [(i, 6) for i in range(1, 7)]
    decoded = [source.picture(index) for index in range(6)]
    assert headers.sizes.tolist() == [[*p.pixels.shape[:2]] for p in decoded]
    assert headers.sizes[[1, 3]].tolist() == [[40, 10], [8, 64]]
    for name in ("transparent", "other_colours"):
        assert headers.converted[name] == sum(getattr(p, f"was_{name}") for p in decoded)
    notes = headers.notes(16)
    assert [note[:23] for note in notes] == [
        "2 pictures have transpa",
        "3 pictures are grey, of",
        "1 pictures ask by EXIF ",
        "2 pictures are smaller ",
    ]
    assert len(headers.notes(8)) == 3


def cut(path):
    path.write_bytes(path.read_bytes()[:-40])


def animated(path):
    frames = [Image.fromarray(noise(i)).convert("P") for i in range(2)]
    frames[0].save(path.with_suffix(".gif"), save_all=True, append_images=frames[1:])
    path.unlink()


def sixteen_bits(path):
    Image.fromarray(np.zeros((9, 9), np.uint16)).save(path)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (cut, r"3\.png is not a readable image"),
        (lambda path: path.write_bytes(b""), r"3\.png is not a readable image"),
        (lambda path: path.write_text("no picture"), r"3\.png is not a readable image"),
        (animated, r"3\.gif holds several pictures"),
        (sixteen_bits, r"3\.png has more than 8 bits a channel"),
        (lambda path: save(path, size=(650, 10)), r"3\.png is 650 x 10: a side of more than 64"),
    ],
)
def test_what_cannot_be_used_is_refused_by_name(pictures, tmp_path, damage, words):
    folder = tmp_path / "src"
    for number in range(5):
        draw(folder / f"{number}.png", noise(number))
    damage(folder / "3.png")
    with pytest.raises(DataError, match=rf"1 file to mend or remove: .*{words}") as caught:
        read_headers(pictures(folder))
    assert "\n" not in str(caught.value) and "more" not in str(caught.value)[-8:]


def test_of_many_files_that_cannot_be_used_three_are_named(tmp_path):
    for number in range(9):
        draw(tmp_path / f"{number}.png", noise(number))
    for number in (1, 2, 4, 6, 7):
        cut(tmp_path / f"{number}.png")
    with pytest.raises(DataError, match=r": 5 files to mend or remove: .*; and 2 more\.$") as e:
        read_headers(open_source(tmp_path))
    named = [number for number in range(9) if f"/{number}.png" in str(e.value)]
    assert named == [1, 2, 4]


def test_a_stored_member_is_not_read_but_for_its_header_and_end(tmp_path, monkeypatch):
    draw(tmp_path / "src/big.png", noise(0, 900, 900))
    path = in_form(tmp_path / "src", "stored", tmp_path)
    assert path.stat().st_size > 2_000_000
    read, pread = [], os.pread

    def counted(descriptor, count, offset):
        content = pread(descriptor, count, offset)
        read.append(len(content))
        return content

    monkeypatch.setattr("os.pread", counted)
    read_headers(open_source(path))
    assert 0 < sum(read) < 100_000


def test_a_member_that_the_directory_tells_at_another_place_is_named(tmp_path):
    draw(tmp_path / "src/a.png", noise(0))
    path = in_form(tmp_path / "src", "stored", tmp_path)
    content = bytearray(path.read_bytes())
    content[:4] = struct.pack("<L", 0)
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"a\.png is damaged: it is not what the zip's directory"):
        read_headers(open_source(path))


def test_a_picture_that_is_gone_by_then_is_named(tmp_path):
    for name in "ab":
        draw(tmp_path / f"src/{name}.png", noise(0))
    source = open_source(tmp_path / "src")
    shutil.move(tmp_path / "src/a.png", tmp_path / "elsewhere.png")
    with pytest.raises(DataError, match=r"a\.png cannot be read: No such file"):
        read_headers(source)
