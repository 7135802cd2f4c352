"""What a picture's header tells, and EXIF that is damaged, on which no pixel depends."""

import io
import struct
import subprocess
import sys
import zipfile

import numpy as np
import pytest
from PIL import Image

from metrics.images.archive import opened_member, place_of
from metrics.images.picture import decode_content, read_form, read_open_form

TAG = struct.pack(">HHLHH", 0x0112, 3, 1, 6, 0)  # turned by a quarter
HEAD = b"Exif\0\0MM\0*\0\0\0\x08"
TURNED = HEAD + struct.pack(">H", 1) + TAG + b"\0\0\0\0"
CUT = HEAD + struct.pack(">H", 3) + TAG
GARBAGE = b"Exif\0\0" + b"nonsense nonsense"


def saved(mode="RGB", form="png", exif=b"", **options):
    """The content of a picture 12 x 8; of a JPEG of a camera, without JFIF's head."""
    file = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 255, (8, 12, 4), np.uint8)
    options |= {"exif": exif} if exif else {}
    drawn = Image.fromarray(pixels)
    drawn = drawn if mode == "RGBA" else drawn.convert("RGB").convert(mode)
    drawn.save(file, form, **options)
    content = file.getvalue()
    if form != "jpeg" or not exif:
        return content
    assert content[2:4] == b"\xff\xe0"
    return content[:2] + content[4 + int.from_bytes(content[4:6], "big") :]


def told(form):
    return form.size, form.format, form.was_transparent, form.was_other_colours, form.is_turned


KINDS = [
    (saved(), (False, False, False)),
    (saved("RGBA"), (True, False, False)),
    (saved("LA"), (True, True, False)),
    (saved("L", "jpeg"), (False, True, False)),
    (saved("CMYK", "jpeg"), (False, True, False)),
    (saved("P", "gif"), (False, True, False)),
    (saved("P", transparency=3), (True, True, False)),
    (saved(transparency=(1, 2, 3)), (True, False, False)),
    (saved("RGBA", "webp", lossless=True), (True, False, False)),
    *((saved(form=form, exif=TURNED), (False, False, True)) for form in ("png", "jpeg", "webp")),
    (saved("RGB", "tiff"), (False, False, False)),
]


@pytest.mark.parametrize(("content", "expected"), KINDS)
def test_a_header_tells_what_becomes_of_a_picture_when_it_is_decoded(tmp_path, content, expected):
    (tmp_path / "a.png").write_bytes(content)
    assert told(read_form(tmp_path / "a.png"))[2:] == expected
    assert told(decode_content(content, "it"))[2:] == expected
    assert told(read_open_form(io.BytesIO(content), "it"))[0] == (8, 12)


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_member_of_a_zip_is_read_in_place_as_a_file_is(tmp_path, method):
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w", method) as archive:
        for number, (content, _) in enumerate(KINDS):
            archive.writestr(f"{number}.png", content)
    for info, (content, expected) in zip(archive.infolist(), KINDS, strict=True):
        with opened_member(path, "it", place_of(info)) as member:
            assert told(read_open_form(member, "it"))[2:] == expected
            member.seek(-5, io.SEEK_END)
            assert (member.read(), member.tell()) == (content[-5:], len(content))
            member.seek(3)
            assert member.read(4) == content[3:7] and member.read() == content[7:]


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("exif", [CUT, GARBAGE, b"Exif\0\0MM"], ids=["cut", "garbage", "short"])
@pytest.mark.parametrize("form", ["png", "jpeg", "webp"])
def test_a_picture_is_sound_whatever_its_exif_is(tmp_path, form, exif):
    content, sound = saved(form=form, exif=exif), saved(form=form)
    picture = decode_content(content, "it")
    assert np.array_equal(picture.pixels, decode_content(sound, "it").pixels)
    (tmp_path / "a").write_bytes(content)
    assert told(read_form(tmp_path / "a")) == told(picture)
    assert picture.is_turned == (exif is CUT)  # which still holds the first tag


def test_damaged_exif_prints_no_warning(tmp_path):
    for form in ("png", "jpeg", "webp"):
        (tmp_path / form).write_bytes(saved(form=form, exif=CUT))
    code = (
        "import sys; from pathlib import Path; from metrics.images.picture import *\n"
        "for path in map(Path, sys.argv[1:]): read_form(path); decode(path)\n"
        "for path in map(Path, sys.argv[1:]): decode_content(path.read_bytes(), 'it')"
    )
    command = [sys.executable, "-W", "default", "-c", code, *map(str, tmp_path.iterdir())]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stderr == ""
