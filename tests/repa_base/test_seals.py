import json
import shutil
import subprocess

import pytest

from repa_base.checksums import (
    SUMS,
    check_file,
    check_folder,
    parse_json,
    seal_folder,
    sealed,
    unsealed,
)
from repa_base.errors import ChecksumError

CONTENT = {"a.bin": bytes(range(256)) * 5000, "b c.txt": b"text"}


@pytest.fixture
def folder(tmp_path):
    for name, content in CONTENT.items():
        (tmp_path / name).write_bytes(content)
    seal_folder(tmp_path)
    return tmp_path


def test_a_sealed_folder_is_whole_and_an_unsealed_one_has_no_checksums(folder):
    assert check_folder(folder, CONTENT) is True
    assert check_file(folder / "a.bin") is True
    (folder / SUMS).unlink()
    assert check_folder(folder, CONTENT) is False
    assert check_file(folder / "a.bin") is False


@pytest.mark.skipif(shutil.which("sha256sum") is None, reason="no sha256sum here")
def test_a_seal_is_what_sha256sum_reads(folder):
    def checked():
        return subprocess.run(
            ["sha256sum", "-c", SUMS], cwd=folder, capture_output=True, check=False
        ).returncode

    assert checked() == 0
    (folder / "b c.txt").write_bytes(b"test")
    assert checked() != 0


@pytest.mark.parametrize("name", CONTENT)
@pytest.mark.parametrize("damage", ["flip", "cut", "longer", "gone"])
def test_every_damage_to_a_sealed_file_is_noticed(folder, name, damage):
    path, content = folder / name, CONTENT[name]
    damaged = {
        "flip": bytes([content[0] ^ 1]) + content[1:],
        "cut": content[:-1],
        "longer": content + b"\0",
    }
    if damage == "gone":
        path.unlink()
    else:
        path.write_bytes(damaged[damage])
    with pytest.raises(ChecksumError, match=name):
        check_folder(folder, CONTENT)
    with pytest.raises(ChecksumError, match=name):
        check_file(path)


@pytest.mark.parametrize("text", [b"", b"\xff\0" * 40, b"0 a.bin\n"])
def test_a_damaged_seal_is_noticed(folder, text):
    (folder / SUMS).write_bytes(text)
    with pytest.raises(ChecksumError, match="does not list"):
        check_folder(folder, CONTENT)


def test_a_sealed_record_is_given_back_and_a_changed_one_is_refused():
    record = {"rate": 1e-05, "steps": [4, 5], "name": "SiT", "none": None, "pair": (1, 2)}
    text = json.dumps(sealed(record))
    assert unsealed(parse_json(text)) == {**record, "pair": [1, 2]}
    with pytest.raises(ValueError, match="not as it was written"):
        unsealed(parse_json(text.replace("[4, 5]", "[4, 6]")))
    assert unsealed({"of": "an earlier version"}) == {"of": "an earlier version"}
    with pytest.raises(ValueError, match="no JSON object"):
        unsealed([record])


def test_every_change_of_a_byte_that_changes_a_record_is_refused_where_a_seal_is_required():
    record = {"a": [1, 2.5, -0.0, 1e300, None, True], "name": "h\xe9llo \udc80", "deep": {"b": {}}}
    text = json.dumps(sealed(record)).encode()
    wanted = json.loads(json.dumps(record))
    assert unsealed(parse_json(text), required=True) == wanted
    for place in range(len(text)):
        for bit in (1, 2, 16, 64, 128):
            changed = bytearray(text)
            changed[place] ^= bit
            try:
                found = unsealed(parse_json(bytes(changed)), required=True)
            except ValueError:
                continue
            assert found == wanted


UNSEALED = (b"", b"{", b"[]", b"1", b'{"value": 1}', b'{"crc32": 1}', b"\xff", b"9" * 5000)
DEEP = (b"[" * 200_000, b'{"crc32": "", "value": ' + b'{"a":' * 200_000)


@pytest.mark.parametrize("text", (*UNSEALED, *DEEP))
def test_what_was_not_sealed_is_a_value_error_where_a_seal_is_required(text):
    with pytest.raises(ValueError):
        unsealed(parse_json(text), required=True)


def test_json_that_is_nested_too_deeply_is_no_json():
    with pytest.raises(ValueError, match="nested too deeply"):
        parse_json("[" * 100_000)
