"""Folders of pictures: every file counts once, none is skipped without a word, nothing hangs."""

import os
import shutil
import socket

import numpy as np
import pytest
from PIL import Image

from metrics import FirstImages, InputError, open_images, open_reference
from metrics.images.arrays import formats_of
from metrics.images.picture_files import described_not_taken


def draw(path, value, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (4, 4), (value,) * 3).save(path, **options)


def values(source):
    """The grey value of every image, which is its number."""
    return [int(image[0, 0, 0]) for batch in source.batches(8) for image in batch]


def names(source):
    return [path.relative_to(source.folder).as_posix() for path in source.paths]


@pytest.fixture
def folder(tmp_path):
    """A folder of two classes, one of them a link to a folder elsewhere."""
    root = tmp_path / "set"
    for number in range(2):
        draw(root / "cats" / f"{number}.png", number)
        draw(tmp_path / "elsewhere" / f"{number}.png", 2 + number)
    (root / "dogs").symlink_to(tmp_path / "elsewhere")
    return root


def test_a_linked_class_folder_is_measured(folder):
    assert values(open_images(folder)) == [0, 1, 2, 3]


def test_a_linked_picture_and_a_linked_source_are_measured(folder, tmp_path):
    draw(tmp_path / "store" / "blob.png", 9)
    (folder / "z.png").symlink_to(tmp_path / "store" / "blob.png")
    (tmp_path / "link").symlink_to(folder)
    assert values(open_images(tmp_path / "link")) == [0, 1, 2, 3, 9]


def test_a_file_counts_once_by_the_name_without_a_link(folder, tmp_path):
    (folder / "a.png").symlink_to(folder / "cats" / "0.png")
    (folder / "again").symlink_to(folder / "cats")
    (folder / "more").symlink_to(tmp_path / "elsewhere")
    (folder / "one.png").symlink_to(tmp_path / "elsewhere" / "1.png")
    assert names(open_images(folder)) == ["cats/0.png", "cats/1.png", "dogs/0.png", "dogs/1.png"]


def test_of_several_links_the_first_by_name_stands(tmp_path):
    draw(tmp_path / "store" / "x.png", 1)
    draw(tmp_path / "store" / "y.png", 2)
    root = tmp_path / "set"
    root.mkdir()
    for name in ("c", "a", "b"):
        (root / f"{name}.png").symlink_to(tmp_path / "store" / "x.png")
    (root / "d").symlink_to(tmp_path / "store")
    assert names(open_images(root)) == ["a.png", "d/y.png"]


def test_loops_of_links_end(folder):
    (folder / "self").symlink_to(folder)
    (folder / "cats" / "up").symlink_to("..")
    (folder / "dogs" / "back").symlink_to(folder)
    assert values(open_images(folder)) == [0, 1, 2, 3]


def test_a_link_to_a_folder_that_holds_it_adds_nothing(tmp_path):
    draw(tmp_path / "here" / "set" / "0.png", 0)
    draw(tmp_path / "here" / "beside.png", 7)
    draw(tmp_path / "there" / "part" / "1.png", 1)
    draw(tmp_path / "there" / "beside.png", 8)
    folder = tmp_path / "here" / "set"
    (folder / "part").symlink_to(tmp_path / "there" / "part")
    (folder / "part" / "here").symlink_to(tmp_path / "here")
    (folder / "part" / "there").symlink_to(tmp_path / "there")
    assert values(open_images(folder)) == [0, 1]


def test_the_order_does_not_depend_on_that_of_the_disk(folder, monkeypatch):
    before = names(open_images(folder))
    scan = os.scandir

    class Reversed:
        def __init__(self, path):
            self._scan = scan(path)

        def __enter__(self):
            return reversed(list(self._scan))

        def __exit__(self, *error):
            self._scan.close()

    monkeypatch.setattr("os.scandir", Reversed)
    (folder / "birds").symlink_to(folder.parent / "elsewhere")
    assert names(open_images(folder)) == ["birds/0.png", "birds/1.png", *before[:2]]


def test_links_and_copies_of_the_same_names_have_one_hash(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "copy")  # follows links
    assert not (tmp_path / "copy" / "dogs").is_symlink()
    first = open_images(folder).sha256()
    assert open_images(tmp_path / "copy").sha256() == first
    draw(tmp_path / "elsewhere" / "1.png", 77)
    assert open_images(folder).sha256() != first


def test_what_is_hidden_is_left_out(folder):
    hidden = (".ipynb_checkpoints/0.png", "cats/.cache/0.png", "cats/._0.png", "__MACOSX/0.png")
    for name in hidden:
        draw(folder / name, 9)
    (folder / ".notes").write_text("")
    source = open_images(folder)
    assert values(source) == [0, 1, 2, 3] and source.not_taken == {}


def test_a_link_with_a_name_of_its_own_shows_what_is_hidden(folder):
    draw(folder / ".store" / "0.png", 8)
    draw(folder / ".1.png", 9)
    (folder / "x").symlink_to(".store")
    (folder / "y.png").symlink_to(".1.png")
    assert values(open_images(folder)) == [0, 1, 2, 3, 8, 9]


@pytest.mark.parametrize("target", ["gone.png", "gone", "dangling"])
def test_a_link_to_nothing_ends_with_its_name(folder, target):
    (folder / "dangling").symlink_to(target)  # the last one leads to itself
    with pytest.raises(InputError, match=r"dangling is a link to .*, which cannot be read"):
        open_images(folder)


def test_a_folder_that_cannot_be_read_ends_with_its_name(folder, monkeypatch):
    scan = os.scandir

    def refuse(path):
        if str(path).endswith("cats"):
            raise PermissionError(13, "Permission denied", path)
        return scan(path)

    monkeypatch.setattr("os.scandir", refuse)
    with pytest.raises(InputError, match=r"cats cannot be read: Permission denied"):
        open_images(folder)


def test_a_file_that_cannot_be_read_ends_with_its_name(folder, monkeypatch):
    def refuse(path, **options):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("PIL.Image.open", refuse)
    with pytest.raises(InputError, match=r"0\.png cannot be read: Permission denied"):
        open_images(folder)


def make_socket(path):
    with socket.socket(socket.AF_UNIX) as it:
        it.bind(str(path))


@pytest.mark.parametrize("make", [os.mkfifo, make_socket, lambda p: p.symlink_to("/dev/zero")])
def test_what_is_no_file_is_refused_and_never_opened(tmp_path, monkeypatch, make):
    monkeypatch.chdir(tmp_path)  # names of sockets are short
    draw(tmp_path / "set" / "a.png", 1)
    for name in ("set/b.png", "b.npz", "b.npy"):
        make(type(tmp_path)(name))
    with pytest.raises(InputError, match=r"b\.png is neither a file nor a folder"):
        open_images("set")
    for opened in (open_images, open_reference):
        for name in ("b.npz", "b.npy"):
            with pytest.raises(InputError, match=rf"{name} is neither a file nor a folder"):
                opened(name)


KINDS = ("png", "jpg", "jpeg", "JPE", "jfif", "webp", "gif", "bmp", "tif", "TIFF", "ppm", "pgm")


@pytest.mark.parametrize("suffix", KINDS)
def test_every_kind_of_still_picture_is_taken(tmp_path, suffix):
    kinds = {"jpe": "JPEG", "jfif": "JPEG", "pgm": "PPM"}
    Image.new("L", (8, 8), 200).save(tmp_path / f"a.{suffix}", kinds.get(suffix.lower()))
    found = np.concatenate(list(open_images(tmp_path).batches(1))).astype(int)
    assert found.shape == (1, 8, 8, 3) and np.abs(found - 200).max() <= 3


@pytest.mark.parametrize("form", ["GIF", "BMP", "TIFF", "PPM"])
def test_other_lossless_kinds_give_the_pixels_of_a_png(tmp_path, form):
    pixels = np.random.default_rng(0).integers(0, 256, (9, 7, 3), dtype=np.uint8)
    picture = Image.fromarray(pixels)
    (picture.quantize(200) if form == "GIF" else picture).save(tmp_path / "a.gif", form)
    expected = np.array(picture.quantize(200).convert("RGB")) if form == "GIF" else pixels
    (found,) = next(open_images(tmp_path).batches(1))
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("form", ["PNG", "WEBP", "GIF", "TIFF"])
def test_a_file_of_several_pictures_is_refused(tmp_path, form):
    frames = [Image.new("RGB", (8, 8), (value,) * 3) for value in (0, 120, 250)]
    path = tmp_path / f"a.{form.lower()}"
    frames[0].save(path, form, save_all=True, append_images=frames[1:])
    with pytest.raises(InputError, match=rf"{path.name} holds several pictures; save those"):
        open_images(tmp_path)


def test_a_photograph_with_a_preview_behind_it_is_one_picture(tmp_path):
    first, preview = (Image.new("RGB", (8, 8), (value,) * 3) for value in (200, 10))
    first.save(tmp_path / "a.jpg", "MPO", save_all=True, append_images=[preview])
    source = open_images(tmp_path)
    assert values(source) == [200] and formats_of(source) == {"JPEG": 1}


@pytest.mark.parametrize("form", ["GIF", "BMP", "TIFF", "PPM"])
def test_a_picture_of_another_kind_that_is_cut_short_is_found_at_once(tmp_path, form):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    path = tmp_path / f"a.{form.lower()}"
    Image.fromarray(noise).save(path)
    open_images(tmp_path)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(0.9 * len(whole))])
    with pytest.raises(InputError, match=r"a\."):
        open_images(tmp_path)


def test_more_than_eight_bits_of_other_kinds_are_refused(tmp_path):
    deep = np.full((2, 2), 40_000, np.uint16)
    Image.fromarray(deep).save(tmp_path / "a.tif")
    with pytest.raises(InputError, match="8 bits"):
        open_images(tmp_path)
    (tmp_path / "a.tif").unlink()
    for magic in (b"P5", b"P6"):
        (tmp_path / "a.ppm").write_bytes(magic + b" 2 2 1000\n" + bytes(24))
        with pytest.raises(InputError, match="8 bits"):
            open_images(tmp_path)


def test_sixteen_bits_a_pixel_are_not_too_many(tmp_path):
    # 5, 6 and 5 bits, all set, of one pixel; rows are padded to four bytes
    masks = b"".join(mask.to_bytes(4, "little") for mask in (0xF800, 0x7E0, 0x1F))
    info = (40, 1, 1, 1 | 16 << 16, 3, 4, 0, 0, 0, 0)
    header = b"BM" + b"".join(n.to_bytes(4, "little") for n in (70, 0, 66, *info))
    (tmp_path / "a.bmp").write_bytes(header + masks + b"\xff\xff\0\0")
    assert values(open_images(tmp_path)) == [255]


def test_formats_are_those_of_the_content(tmp_path):
    draw(tmp_path / "a.png", 1)
    draw(tmp_path / "b.png", 2, format="JPEG")
    draw(tmp_path / "c.webp", 3)
    draw(tmp_path / "d.webp", 4, lossless=True)
    source = open_images(tmp_path)
    assert formats_of(source) == {"PNG": 1, "JPEG": 1, "WEBP": 1, "lossless WEBP": 1}
    assert formats_of(FirstImages(source, 2)) == {"PNG": 1, "JPEG": 1}
    assert formats_of(open_images(np.zeros((2, 4, 4, 3), np.uint8))) == formats_of(None) == {}


def test_files_that_are_not_taken_are_counted(folder):
    for name in ("a.txt", "cats/b.TXT", "c.heic", "README", "dataset.json", "cats/dataset.json"):
        (folder / name).write_text('{"labels": null}')
    not_taken = {".txt": 2, ".heic": 1, "": 1, ".json": 1}
    assert open_images(folder).not_taken == not_taken
    assert described_not_taken(not_taken) == (
        "5 files were not taken: 2 .txt, 1 without a suffix, 1 .heic, 1 .json"
    )
    assert described_not_taken({".heic": 1}) == "1 file was not taken: 1 .heic"
    many = {f".{letter}": 1 for letter in "abcdefg"}
    assert described_not_taken(many).endswith("1 .e, 2 of other kinds")


def test_a_folder_of_other_files_alone_says_what_they_are(tmp_path):
    (tmp_path / "a.heic").write_text("")
    with pytest.raises(InputError, match=r"holds no images .*; 1 file was not taken: 1 \.heic"):
        open_images(tmp_path)


def test_a_name_that_is_no_text_is_a_name(tmp_path):
    try:
        draw(tmp_path / os.fsdecode(b"\xff.png"), 5)
    except OSError:
        pytest.skip("this file system takes names of text alone")
    assert len(open_images(tmp_path).sha256()) == 64
