"""The NPZ and NPY reader: what numpy wrote is what it reads, and nothing declared is believed."""

import hashlib
import io
import struct
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from metrics import InputError
from metrics.images.npz import open_npy, open_npz
from repa_base import checksums

ARRAY = np.arange(11 * 4 * 5 * 3, dtype=np.uint8).reshape(11, 4, 5, 3)


def rows(entry, chunk_size=4, start=0, stop=None):
    stop = entry.shape[0] if stop is None else stop
    return np.concatenate([*entry.rows(chunk_size, start, stop), np.empty((0, *entry.shape[1:]))])


def header(shape, descr="|u1", fortran=False, version=(1, 0)):
    text = f"{{'descr': {descr!r}, 'fortran_order': {fortran}, 'shape': {shape}, }}\n".encode()
    size = struct.pack("<H" if version == (1, 0) else "<I", len(text))
    return b"\x93NUMPY" + bytes(version) + size + text


def write_member(path: Path, content: bytes, method=zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        archive.writestr("arr_0.npy", content)
    return path


@pytest.fixture(params=["stored", "deflated", "npy"])
def entry(request, tmp_path):
    path = tmp_path / "file"
    if request.param == "npy":
        with path.open("wb") as stream:
            np.save(stream, ARRAY)
        return open_npy(path)
    save = np.savez if request.param == "stored" else np.savez_compressed
    with path.open("wb") as stream:
        save(stream, ARRAY, labels=np.arange(11))
    return open_npz(path)["arr_0"]


def test_rows_are_what_numpy_saved(entry):
    assert entry.shape == ARRAY.shape
    assert entry.dtype == np.uint8
    np.testing.assert_array_equal(rows(entry), ARRAY)
    np.testing.assert_array_equal(entry.read(), ARRAY)


@pytest.mark.parametrize(("start", "stop"), [(0, 1), (3, 9), (10, 11), (5, 5), (11, 11)])
def test_a_range_of_rows_is_that_slice(entry, start, stop):
    np.testing.assert_array_equal(rows(entry, 4, start, stop), ARRAY[start:stop])


def test_chunks_have_the_size_asked_for_and_a_short_last_one(entry):
    assert [len(chunk) for chunk in entry.rows(4, 0, 11)] == [4, 4, 3]


def test_rows_are_writable_as_torch_wants_them(entry):
    assert next(entry.rows(4, 0, 11)).flags.writeable


@pytest.fixture(params=[7, 1 << 20])
def piece(request, monkeypatch):
    """Bytes read at once: fewer than a member has, or more than the file has."""
    monkeypatch.setattr(checksums, "_PIECE_BYTES", request.param)


def test_the_hash_is_of_the_whole_file(entry, piece):
    assert entry.file_sha256() == hashlib.sha256(entry.path.read_bytes()).hexdigest()


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_the_hash_is_refused_where_a_bit_of_the_array_is_not_as_it_was_written(
    tmp_path, piece, save
):
    images = np.random.default_rng(0).integers(0, 256, (6, 5, 5, 3), np.uint8)
    save(tmp_path / "a.npz", before=np.arange(9), arr_0=images, behind=np.arange(9))
    content = (tmp_path / "a.npz").read_bytes()
    entry = open_npz(tmp_path / "a.npz")["arr_0"]
    with zipfile.ZipFile(tmp_path / "a.npz") as archive:
        start = archive.getinfo("arr_0.npy").header_offset
        end = archive.getinfo("behind.npy").header_offset
    for place in range(start + 60 + 128, end, 13):
        damaged = bytearray(content)
        damaged[place] ^= 1
        (tmp_path / "a.npz").write_bytes(damaged)
        with pytest.raises(InputError, match=r"a\.npz is not a readable"):
            entry.file_sha256()
    for place in (len(content) // 60, end + 80):  # another member's
        damaged = bytearray(content)
        damaged[place] ^= 1
        (tmp_path / "a.npz").write_bytes(damaged)
        assert entry.file_sha256() == hashlib.sha256(damaged).hexdigest()


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_scalars_text_and_other_types_are_read_whole(tmp_path, save):
    arrays = {"text": np.array("héllo"), "number": np.array(3.5), "wide": np.eye(3, dtype=">f8")}
    save(tmp_path / "a.npz", **arrays)
    entries = open_npz(tmp_path / "a.npz")
    for name, array in arrays.items():
        np.testing.assert_array_equal(entries[name].read(), array)


def test_zip64_members_are_read(tmp_path):
    with (
        zipfile.ZipFile(tmp_path / "a.npz", "w") as archive,
        archive.open("arr_0.npy", "w", force_zip64=True) as stream,
    ):
        np.save(stream, ARRAY)
    np.testing.assert_array_equal(rows(open_npz(tmp_path / "a.npz")["arr_0"], 4, 2), ARRAY[2:])


def test_a_flipped_bit_is_found_by_a_whole_pass(tmp_path):
    # longer than what is looked at for the header, which would find it at once
    np.savez(tmp_path / "a.npz", np.zeros((100, 2000), np.uint8))
    content = bytearray((tmp_path / "a.npz").read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / "a.npz").write_bytes(content)
    with pytest.raises(InputError, match="CRC-32"):
        rows(open_npz(tmp_path / "a.npz")["arr_0"])


@pytest.mark.parametrize("kept", [0, 10, 100, 0.5, 0.9, 0.999])
@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_a_cut_npz_is_refused(tmp_path, save, kept):
    save(tmp_path / "a.npz", ARRAY)
    content = (tmp_path / "a.npz").read_bytes()
    kept = int(kept * len(content)) if isinstance(kept, float) else kept
    (tmp_path / "a.npz").write_bytes(content[:kept])
    with pytest.raises(InputError, match=r"a\.npz"):
        open_npz(tmp_path / "a.npz")


def test_a_cut_npy_is_refused(tmp_path):
    np.save(tmp_path / "a.npy", ARRAY)
    (tmp_path / "a.npy").write_bytes((tmp_path / "a.npy").read_bytes()[:-1])
    with pytest.raises(InputError, match="cut short"):
        open_npy(tmp_path / "a.npy")


def test_objects_are_refused_and_never_unpickled(tmp_path):
    np.savez(tmp_path / "a.npz", np.array([{}, None], dtype=object))
    with pytest.raises(InputError, match="Python objects"):
        open_npz(tmp_path / "a.npz")


def test_fortran_order_is_refused_with_the_remedy(tmp_path):
    np.savez(tmp_path / "a.npz", np.asfortranarray(ARRAY))
    with pytest.raises(InputError, match="ascontiguousarray"):
        open_npz(tmp_path / "a.npz")


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_compression_without_a_known_limit_is_refused(tmp_path, method):
    path = write_member(tmp_path / "a.npz", header((2,)) + b"ab", method)
    with pytest.raises(InputError, match="compressed by method"):
        open_npz(path)


@pytest.mark.parametrize(
    "shape",
    [
        "(10**18, 3)",
        "(-1, 4)",
        "(-1, -2)",
        "(3,)",
        "(1,)",
        "(2**63, 2**63)",
        "2",
        "('a',)",
        "(2.0,)",
    ],
)
def test_a_shape_that_the_data_does_not_fill_is_refused(tmp_path, shape):
    text = shape.replace("10**18", str(10**18)).replace("2**63", str(2**63))
    path = write_member(tmp_path / "a.npz", header(text) + b"ab")
    with pytest.raises(InputError):
        open_npz(path)


def test_a_declared_size_beyond_what_deflate_can_hold_is_refused(tmp_path):
    path = write_member(tmp_path / "a.npz", header((9,)) + bytes(9), zipfile.ZIP_DEFLATED)
    content = bytearray(path.read_bytes())
    directory = content.index(b"PK\x01\x02")
    content[directory + 24 : directory + 28] = struct.pack("<I", 1 << 31)
    path.write_bytes(content)
    with pytest.raises(InputError, match="cannot hold more than"):
        open_npz(path)


def test_a_bomb_costs_no_memory_before_it_is_read(tmp_path):
    size = 1 << 28
    path = tmp_path / "bomb.npz"
    with (
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open("arr_0.npy", "w") as stream,
    ):
        stream.write(header((64, size // 64)))
        for _ in range(256):
            stream.write(bytes(size // 256))
    tracemalloc.start()
    chunk = next(open_npz(path)["arr_0"].rows(1, 0, 64))
    open_npz(path)["arr_0"].file_sha256()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert chunk.shape == (1, size // 64)
    assert peak < 1 << 25


def test_a_header_as_long_as_the_file_is_not_read(tmp_path):
    text = b"{" + b" " * (1 << 25)
    content = b"\x93NUMPY\x02\x00" + struct.pack("<I", len(text)) + text
    path = write_member(tmp_path / "a.npz", content, zipfile.ZIP_DEFLATED)
    tracemalloc.start()
    with pytest.raises(InputError):
        open_npz(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1 << 22


def _honest(save) -> bytes:
    stream = io.BytesIO()
    save(stream, ARRAY, arr_1=np.arange(11), manifest=np.array("{}"))
    return stream.getvalue()


HONEST = [_honest(np.savez), _honest(np.savez_compressed)]


@st.composite
def damaged(draw):
    content = bytearray(draw(st.sampled_from(HONEST)))
    # half of the damage near the directory and the headers, where the sizes stand
    places = st.one_of(st.integers(0, len(content) - 1), st.integers(0, 200), st.integers(-400, -1))
    for _ in range(draw(st.integers(0, 6))):
        content[draw(places)] = draw(st.integers(0, 255))
    end = draw(st.one_of(st.just(len(content)), st.integers(0, len(content))))
    return bytes(content[:end]) + draw(st.binary(max_size=8))


@settings(
    max_examples=300,
    deadline=5000,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(content=st.one_of(damaged(), st.binary(max_size=300)))
def test_no_damage_gives_anything_but_an_input_error(tmp_path, content):
    path = tmp_path / "a.npz"
    path.write_bytes(content)
    tracemalloc.start()
    try:
        for entry in open_npz(path).values():
            if entry.shape:
                for _ in entry.rows(8, 0, entry.shape[0]):
                    pass
    except InputError as error:
        assert "\n" not in str(error)
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < 1 << 24


@settings(
    max_examples=200,
    deadline=5000,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    text=st.one_of(
        st.text(max_size=60),
        st.builds(
            "{{'descr': {!r}, 'fortran_order': {}, 'shape': {}, }}".format,
            st.sampled_from(["|u1", "<f8", "|O", "<U4", "|V7", "M8[s]", "?", "", ("|u1", 3), 7]),
            st.sampled_from(["True", "False", "None", "3"]),
            st.one_of(
                st.lists(st.integers(-2, 2**70), max_size=4).map(tuple),
                st.sampled_from(["(", "((((((((", "3L", "[1]", "()"]),
            ),
        ),
    ),
    version=st.sampled_from([(1, 0), (2, 0), (3, 0), (9, 9)]),
)
def test_no_header_gives_anything_but_an_input_error(tmp_path, text, version):
    content = text.encode("utf-8", "ignore")
    size = struct.pack("<H" if version == (1, 0) else "<I", len(content))
    path = tmp_path / "a.npy"
    path.write_bytes(b"\x93NUMPY" + bytes(version) + size + content + b"abc")
    try:
        entry = open_npy(path)
        if entry.shape:
            for _ in entry.rows(8, 0, min(entry.shape[0], 8)):
                pass
    except InputError as error:
        assert "\n" not in str(error)
