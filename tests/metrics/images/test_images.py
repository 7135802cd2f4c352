"""Sources of images: the same pixels from a file, a folder and memory; a clear line otherwise."""

import json
import os
import struct
import tracemalloc
import zlib

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from metrics import ArrayImages, FirstImages, InputError, NoiseImages, open_images

IMAGES = np.random.default_rng(0).integers(0, 256, (7, 6, 5, 3), dtype=np.uint8)
LABELS = np.arange(7)


def pixels(source, batch_size=3, **limits):
    return np.concatenate(list(source.batches(batch_size, **limits)))


@pytest.fixture(params=["npz", "deflated", "npy", "folder", "array"])
def source(request, tmp_path):
    match request.param:
        case "npz":
            np.savez(tmp_path / "a.npz", IMAGES, LABELS)
            return open_images(tmp_path / "a.npz")
        case "deflated":
            np.savez_compressed(tmp_path / "a.npz", IMAGES, LABELS)
            return open_images(str(tmp_path / "a.npz"))
        case "npy":
            np.save(tmp_path / "a.npy", IMAGES)
            return open_images(tmp_path / "a.npy")
        case "folder":
            for number, image in enumerate(IMAGES):
                Image.fromarray(image).save(tmp_path / f"{number}.png")
            return open_images(tmp_path)
        case _:
            return open_images(IMAGES.copy())


def test_every_source_gives_the_same_images_in_order(source):
    assert source.count == 7
    assert source.shape == (6, 5, 3)
    np.testing.assert_array_equal(pixels(source), IMAGES)


def test_batches_are_of_the_size_asked_for_with_a_short_last_one(source):
    assert [len(batch) for batch in source.batches(3)] == [3, 3, 1]


@pytest.mark.parametrize(("start", "stop"), [(0, 2), (2, 7), (6, None)])
def test_a_range_of_images_is_that_slice(source, start, stop):
    np.testing.assert_array_equal(pixels(source, start=start, stop=stop), IMAGES[start:stop])


def test_batches_may_be_changed_without_changing_the_source(source):
    for batch in source.batches(3):
        batch[:] = 0
    np.testing.assert_array_equal(pixels(source), IMAGES)


@pytest.mark.parametrize(
    ("batch_size", "start", "stop"), [(0, 0, None), (3, -1, None), (3, 4, 2), (3, 0, 8)]
)
def test_a_range_outside_the_images_is_an_error(source, batch_size, start, stop):
    with pytest.raises(ValueError, match="must"):
        list(source.batches(batch_size, start, stop))


def test_the_hash_follows_the_content(source, tmp_path):
    changed = IMAGES.copy()
    changed[6, 5, 4, 2] ^= 1
    np.savez(tmp_path / "b.npz", changed)
    assert source.sha256() == source.sha256()
    assert len({source.sha256(), open_images(changed).sha256()}) == 2


def test_labels_and_manifest_come_with_an_npz(tmp_path):
    manifest = {"dataset": "digits", "cfg_scale": 1.8}
    np.savez(tmp_path / "a.npz", IMAGES, LABELS, manifest=np.array(json.dumps(manifest)))
    source = open_images(tmp_path / "a.npz")
    np.testing.assert_array_equal(source.labels, LABELS)
    assert source.labels.dtype == np.int64
    assert source.manifest == manifest


@pytest.mark.parametrize(
    ("array", "remedy"),
    [
        (IMAGES.astype(np.float32) / 255, r"float32; .*255 \* images"),
        (np.full((2, 4, 4, 3), np.nan), "NaN"),
        (IMAGES.astype(np.int64), "int64; images must be uint8"),
        (IMAGES > 128, "bool; images must be uint8"),
        (IMAGES.transpose(0, 3, 1, 2), r"transpose\(0, 2, 3, 1\)"),
        (IMAGES[..., 0], "grey channel"),
        (IMAGES[..., :1], "grey channel"),
        (np.repeat(IMAGES[..., :1], 4, axis=3), "alpha"),
        (IMAGES[0], r"\(6, 5, 3\); images must be"),
        (IMAGES[:0], "holds no images"),
        (np.zeros((1, 1, 9000, 3), np.uint8), "8192"),
    ],
)
def test_what_is_no_uint8_rgb_is_refused_with_the_remedy(tmp_path, array, remedy):
    np.savez(tmp_path / "a.npz", array)
    with pytest.raises(InputError, match=remedy):
        open_images(tmp_path / "a.npz")
    with pytest.raises(InputError, match=remedy):
        open_images(array)


def test_an_npz_without_images_says_what_it_holds(tmp_path):
    np.savez(tmp_path / "a.npz", mu=np.zeros(3), sigma=np.eye(3))
    with pytest.raises(InputError, match="no array arr_0 with images; it holds mu, sigma"):
        open_images(tmp_path / "a.npz")


@pytest.mark.parametrize("labels", [np.arange(6), np.zeros(7), np.zeros((7, 1), int)])
def test_labels_must_be_one_integer_an_image(tmp_path, labels):
    np.savez(tmp_path / "a.npz", IMAGES, labels)
    with pytest.raises(InputError, match="one integer label"):
        open_images(tmp_path / "a.npz")


@pytest.mark.parametrize("text", ["{", "[1]", "[" * 20_000, '{"steps": ' + "1" * 4301 + "}"])
def test_a_manifest_must_be_a_json_object(tmp_path, text):
    np.savez(tmp_path / "a.npz", IMAGES, manifest=np.array(text))
    with pytest.raises(InputError, match="JSON"):
        open_images(tmp_path / "a.npz")


@settings(deadline=None, max_examples=60, suppress_health_check=list(HealthCheck))
@given(
    text=st.one_of(
        st.text(max_size=60),
        st.builds(
            "{}{}{}".format,
            st.sampled_from(["", "{", "[", '{"a":', '{"dataset": "']),
            st.one_of(
                st.integers(0, 9).map(lambda digit: str(digit) * 5000),
                st.sampled_from(["NaN", "1e999", "[" * 5000, '{"a":' * 5000, "\\ud800", "-"]),
                st.text(max_size=8),
            ),
            st.sampled_from(["", "}", "]", '"}']),
        ),
    )
)
def test_no_manifest_text_gives_anything_but_an_input_error(tmp_path, text):
    np.savez(tmp_path / "a.npz", IMAGES, manifest=np.array(text))
    try:
        source = open_images(tmp_path / "a.npz")
    except InputError as error:
        assert "\n" not in str(error)
    else:
        assert isinstance(source.manifest, dict)


def test_a_missing_file_is_an_os_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        open_images(tmp_path / "a.npz")


def test_memory_does_not_grow_with_the_number_of_images(tmp_path):
    peaks = []
    for count in (64, 512):
        np.savez(tmp_path / "a.npz", np.zeros((count, 64, 64, 3), np.uint8))
        source = open_images(tmp_path / "a.npz")
        tracemalloc.start()
        for _ in source.batches(16):
            pass
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.1 * peaks[0]


def test_folders_are_searched_with_subfolders_in_the_order_of_paths(tmp_path):
    (tmp_path / "b").mkdir()
    for name, value in (("c.png", 3), ("b/z.png", 2), ("a.png", 1)):
        Image.new("RGB", (2, 2), (value,) * 3).save(tmp_path / name)
    (tmp_path / "notes.txt").write_text("not an image")
    source = open_images(tmp_path)
    assert pixels(source)[:, 0, 0, 0].tolist() == [1, 2, 3]


@pytest.mark.parametrize(("suffix", "tolerance"), [("png", 0), ("jpg", 3), ("webp", 6)])
def test_folders_hold_png_jpeg_and_webp(tmp_path, suffix, tolerance):
    Image.new("RGB", (8, 8), (200, 100, 50)).save(tmp_path / f"a.{suffix}")
    found = pixels(open_images(tmp_path))[0].astype(int)
    assert np.abs(found - [200, 100, 50]).max() <= tolerance


@pytest.mark.parametrize("mode", ["L", "LA", "P", "1", "RGBA"])
def test_other_modes_become_rgb(tmp_path, mode):
    Image.new("RGB", (2, 2), (255, 255, 255)).convert(mode).save(tmp_path / "a.png")
    np.testing.assert_array_equal(pixels(open_images(tmp_path)), np.full((1, 2, 2, 3), 255))


def chunk(name, content):
    whole = name + content
    return struct.pack(">I", len(content)) + whole + struct.pack(">I", zlib.crc32(whole))


@pytest.mark.parametrize(
    ("color_type", "channels"), [(0, 1), (2, 3), (4, 2), (6, 4)], ids=["L", "RGB", "LA", "RGBA"]
)
@pytest.mark.parametrize("depth", [8, 16])
def test_sixteen_bits_a_channel_are_refused(tmp_path, color_type, channels, depth):
    header = struct.pack(">IIBBBBB", 2, 2, depth, color_type, 0, 0, 0)
    rows = 2 * (b"\0" + b"\x90" * (2 * channels * depth // 8))
    parts = chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b"")
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts))
    if depth == 8:
        assert (pixels(open_images(tmp_path)) == 0x90).all()
    else:
        with pytest.raises(InputError, match="8 bits"):
            open_images(tmp_path)


def test_images_of_several_sizes_come_in_batches_of_one_size_and_in_order(tmp_path):
    for number, side in enumerate((2, 2, 4, 4, 4, 2)):
        Image.new("RGB", (side, side), (number,) * 3).save(tmp_path / f"{number}.png")
    source = open_images(tmp_path)
    assert source.shape is None
    batches = list(source.batches(4))
    assert [batch.shape[1] for batch in batches] == [2, 4, 4, 2]
    assert [value for batch in batches for value in batch[:, 0, 0, 0]] == [0, 1, 2, 3, 4, 5]


def test_a_damaged_picture_is_named(tmp_path):
    Image.fromarray(np.tile(IMAGES[0], (20, 20, 1))).save(tmp_path / "a.png")
    content = (tmp_path / "a.png").read_bytes()
    (tmp_path / "a.png").write_bytes(content[: len(content) // 2])
    with pytest.raises(InputError, match=r"a\.png"):
        pixels(open_images(tmp_path))
    (tmp_path / "a.png").write_bytes(b"GIF89a")
    with pytest.raises(InputError, match=r"a\.png"):
        open_images(tmp_path)


@pytest.fixture
def prepared(tmp_path):
    """A folder in the form of a prepared data set; gives what writes its dataset.json."""
    for number in range(4):
        path = tmp_path / f"0000{number % 2}" / f"img{number}.png"
        path.parent.mkdir(exist_ok=True)
        Image.new("RGB", (2, 2), (number,) * 3).save(path)
    return lambda text: (tmp_path / "dataset.json").write_text(text)


def test_labels_of_a_prepared_data_set_are_those_of_its_images(prepared, tmp_path):
    names = ["00001/img3.png", "00000/img0.png", "00001/img1.png", "00000/img2.png", "gone.png"]
    prepared(json.dumps({"labels": [[name, 10 + i] for i, name in enumerate(names)]}))
    source = open_images(tmp_path)
    assert pixels(source)[:, 0, 0, 0].tolist() == [0, 2, 1, 3]
    assert source.labels.tolist() == [11, 13, 12, 10]
    prepared('{"labels": null}')
    assert open_images(tmp_path).labels is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "cannot be read"),
        ("[]", "cannot be read"),
        ('{"images": []}', "cannot be read"),
        ('{"labels": [["a.png", 0.5]]}', "cannot be read"),
        ('{"labels": [["a.png"]]}', "cannot be read"),
        ('{"labels": 3}', "cannot be read"),
        ('{"labels": [["a.png", 99999999999999999999]]}', "cannot be read"),
        ('{"labels": [["a.png", 1]]}', "names no class for 00000/img0.png"),
        ('{"labels": [["00000/img0.png", 1]]}', "names no class for 00000/img2.png"),
    ],
)
def test_a_dataset_json_that_does_not_fit_is_refused(prepared, tmp_path, text, message):
    prepared(text)
    with pytest.raises(InputError, match=message) as caught:
        open_images(tmp_path)
    assert str(caught.value).startswith(str(tmp_path / "dataset.json"))


def test_other_formats_under_a_picture_s_name_are_refused(tmp_path, monkeypatch):
    # Pillow would start Ghostscript for this one.
    monkeypatch.setattr("subprocess.Popen", None)
    (tmp_path / "a.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n")
    with pytest.raises(InputError, match=r"a\.png is not a readable image"):
        open_images(tmp_path)
    Image.new("RGB", (2, 2)).save(tmp_path / "a.png", format="TGA")
    with pytest.raises(InputError, match=r"a\.png is not a readable image"):
        open_images(tmp_path)


def test_damage_that_only_a_decoder_s_library_sees_names_the_file(tmp_path):
    (tmp_path / "a.webp").write_bytes(b"RIFF\x20\0\0\0WEBPVP8 \x14\0\0\0" + b"\1" * 20)
    with pytest.raises(InputError, match=r"a\.webp"):
        open_images(tmp_path)


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp"])
def test_a_picture_that_is_cut_short_is_found_before_any_is_read(tmp_path, suffix):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    for number in range(3):
        Image.fromarray(noise).save(tmp_path / f"{number}.{suffix}")
    open_images(tmp_path)
    whole = (tmp_path / f"1.{suffix}").read_bytes()
    for share in (0.3, 0.9):
        (tmp_path / f"1.{suffix}").write_bytes(whole[: int(share * len(whole))])
        with pytest.raises(InputError, match=rf"1\.{suffix}"):
            open_images(tmp_path)


def test_pictures_with_bytes_after_their_end_or_without_a_mark_are_read(tmp_path):
    image = Image.new("RGB", (8, 8), (9, 9, 9))
    image.save(tmp_path / "a.png")
    with (tmp_path / "a.png").open("ab") as file:
        file.write(bytes(1000))
    image.save(tmp_path / "b.jpg")
    content = (tmp_path / "b.jpg").read_bytes()
    (tmp_path / "b.jpg").write_bytes(content[:-2] + bytes(100))  # no end-of-image mark
    assert len(pixels(open_images(tmp_path))) == 2


def test_batches_of_large_pictures_are_smaller(tmp_path, monkeypatch):
    for number in range(6):
        Image.new("L", (8, 8)).save(tmp_path / f"{number}.png")  # 192 bytes as RGB
    monkeypatch.setattr("metrics.images.source._MAX_BATCH_BYTES", 400)
    source = open_images(tmp_path)
    assert [len(batch) for batch in source.batches(4, 1)] == [2, 2, 1]
    Image.new("L", (8, 9)).save(tmp_path / "6.png")
    assert [len(batch) for batch in open_images(tmp_path).batches(4, 4)] == [1, 1, 1]


def test_what_is_no_regular_file_is_refused(tmp_path):
    os.mkfifo(tmp_path / "images.npz")
    with pytest.raises(InputError, match=r"images\.npz is neither a file nor a folder"):
        open_images(tmp_path / "images.npz")


def test_a_folder_without_images_is_refused(tmp_path):
    with pytest.raises(InputError, match="holds no images"):
        open_images(tmp_path)


def test_first_images_are_the_beginning_of_a_source():
    source = FirstImages(ArrayImages(IMAGES, labels=LABELS), 4)
    np.testing.assert_array_equal(pixels(source), IMAGES[:4])
    np.testing.assert_array_equal(source.labels, LABELS[:4])
    with pytest.raises(InputError, match="holds 7 images, 8"):
        FirstImages(ArrayImages(IMAGES), 8)


def test_noise_does_not_depend_on_the_batch_size():
    noise = NoiseImages(9, (4, 4, 3), seed=3)
    np.testing.assert_array_equal(pixels(noise, 2), pixels(noise, 9))
    assert not np.array_equal(pixels(noise), pixels(NoiseImages(9, (4, 4, 3), seed=4)))
    assert len(np.unique(pixels(noise, 9).reshape(9, -1), axis=0)) == 9
