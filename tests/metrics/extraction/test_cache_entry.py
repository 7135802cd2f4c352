"""Entries: every byte is checked, all stay within the limit, modes follow the umask."""

import json
import os
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
from stand_in import counted, stand_in

from metrics import ArrayImages, CacheError, FeatureCache, NoiseImages, measure, open_images
from metrics.extraction import cache_entry
from metrics.extraction.feature_cache import FeatureCache as Cache
from repa_base.checksums import sealed
from repa_base.locks import locked
from repa_base.workplace import workplace

IMAGES = np.random.default_rng(0).integers(0, 256, (50, 8, 8, 3), dtype=np.uint8)
FILES = ("pool.npy", "spatial.npy", "probabilities.npy", "statistics.npz", "entry.json")


@pytest.fixture
def told():
    return []


@pytest.fixture
def cache(tmp_path, told):
    return FeatureCache(tmp_path / "features", on_damage=told.append)


def plain(found):
    """All numbers of a measurement."""
    arrays = (found.pool.mean, found.pool.covariance, found.spatial.mean, found.pool_features)
    arrays += (found.spatial_features, found.probabilities)
    return [array.tolist() for array in arrays], found.inception_score, found.findings


def folder_of(cache):
    (entry,) = cache.entries()
    return entry.path


def flip(path, place=-1, bit=1):
    content = bytearray(path.read_bytes())
    content[place] ^= bit
    path.write_bytes(content)


def zero(path, count=40):
    path.write_bytes(path.read_bytes()[:-count] + bytes(count))


def replace_by_fifo(path):
    path.unlink()
    os.mkfifo(path)


DAMAGES = {
    "flipped": flip,
    "flipped in its header": lambda path: flip(path, place=20),
    "zeroed": zero,
    "cut": lambda path: os.truncate(path, path.stat().st_size - 1),
    "emptied": lambda path: os.truncate(path, 0),
    "longer": lambda path: os.truncate(path, 1 << 16),
    "missing": Path.unlink,
    "a FIFO": replace_by_fifo,
}


@pytest.mark.parametrize("kind", DAMAGES)
@pytest.mark.parametrize("name", FILES)
def test_a_damaged_file_is_named_and_its_images_measured_anew(cache, told, name, kind):
    network, sizes = counted()
    wanted = plain(measure(ArrayImages(IMAGES), network, cache=cache))
    DAMAGES[kind](folder_of(cache) / name)
    for _ in range(2):
        assert plain(measure(ArrayImages(IMAGES), network, cache=cache)) == wanted
        assert sum(sizes) == 100
    assert len(told) == 1 and str(cache.folder) in told[0] and f"/{name}: " in told[0]
    assert "\n" not in told[0]
    assert sorted(path.name for path in folder_of(cache).iterdir()) == sorted(FILES)


def test_no_flipped_byte_of_the_description_is_believed(cache, told):
    measure(ArrayImages(IMAGES), stand_in(), cache=cache)
    path, key = folder_of(cache) / "entry.json", cache.key(ArrayImages(IMAGES), stand_in())
    before = path.read_bytes()
    reader = FeatureCache(cache.folder, read_only=True, on_damage=told.append)
    for place in range(0, len(before), 3):
        told.clear()
        flip(path, place, bit=2)
        found = reader.find(key)
        assert (found is None) == (len(told) == 1)
        assert found is None or json.loads(path.read_bytes()) == json.loads(before)
        path.write_bytes(before)
    assert reader.find(key) is not None


def test_an_entry_under_the_name_of_another_is_not_taken_for_it(cache, told):
    network, sizes = counted()
    measure(ArrayImages(IMAGES), network, cache=cache)
    one = folder_of(cache)
    measure(ArrayImages(IMAGES[::-1].copy()), network, cache=cache)
    (other,) = {entry.path for entry in cache.entries()} - {one}
    shutil.rmtree(other)
    shutil.copytree(one, other)
    found = measure(ArrayImages(IMAGES[::-1].copy()), network, cache=cache)
    assert sum(sizes) == 150 and len(told) == 1
    wanted = measure(ArrayImages(IMAGES[::-1].copy()), network)
    np.testing.assert_array_equal(found.pool_features, wanted.pool_features)


def test_a_damaged_entry_of_a_cache_that_cannot_be_written_is_named_and_left(cache, told):
    network, sizes = counted()
    wanted = measure(ArrayImages(IMAGES), network, cache=cache).pool_features.tolist()
    flip(folder_of(cache) / "pool.npy")
    reader = FeatureCache(cache.folder, read_only=True, on_damage=told.append)
    found = measure(ArrayImages(IMAGES), network, cache=reader)
    assert sum(sizes) == 100 and len(told) == 1
    assert found.pool_features.tolist() == wanted
    assert folder_of(cache).exists()


@pytest.mark.parametrize("files", [(".DS_Store",), (".DS_Store", "pool.npy"), ("pool.npy",)])
def test_things_of_others_in_the_place_of_an_entry_stay(cache, told, files):
    network, sizes = counted()
    measure(ArrayImages(IMAGES), network, cache=cache)
    folder = folder_of(cache)
    shutil.rmtree(folder)
    folder.mkdir()
    for name in files:
        (folder / name).write_text("not an entry's")
    for _ in range(2):
        measure(ArrayImages(IMAGES), network, cache=cache)
    assert sum(sizes) == 100
    assert len(told) == ("pool.npy" in files)
    if ".DS_Store" in files:
        assert (folder / ".DS_Store").read_text() == "not an entry's"
    cache.clear()
    assert folder.exists() == (".DS_Store" in files)


def test_a_folder_in_the_place_of_a_file_is_named_and_stays(cache, told):
    measure(ArrayImages(IMAGES), stand_in(), cache=cache)
    folder = folder_of(cache)
    (folder / "pool.npy").unlink()
    (folder / "pool.npy").mkdir()
    (folder / "pool.npy" / "notes.txt").write_text("others'")
    with pytest.raises(CacheError, match=str(cache.folder)):
        measure(ArrayImages(IMAGES), stand_in(), cache=cache)
    assert len(told) == 1 and "pool.npy: it is no file" in told[0]
    assert cache.clear() == []
    assert (folder / "pool.npy" / "notes.txt").read_text() == "others'"


def test_entries_of_an_earlier_version_are_never_opened_and_go_with_the_others(cache, told):
    network, sizes = counted()
    measure(ArrayImages(IMAGES), network, cache=cache)
    folder = folder_of(cache)
    entry = json.loads((folder / "entry.json").read_text())
    del entry["crc32"]
    (folder / "entry.json").write_text(json.dumps({**entry, "format": 1}))  # as it had no checksums
    measure(ArrayImages(IMAGES), network, cache=cache)
    assert sum(sizes) == 100 and len(told) == 1
    old = cache.folder / ("0" * 32)
    shutil.copytree(folder, old)
    (old / "entry.json").write_text(json.dumps(sealed({**entry, "format": 1})))
    assert {entry.path: entry.source for entry in cache.entries()}[old] is None
    age(old)
    limited = FeatureCache(cache.folder, limit=1)
    measure(NoiseImages(9, (8, 8, 3)), network, cache=limited)
    assert not old.exists()


def test_what_is_open_outlives_its_entry(cache):
    found = measure(ArrayImages(IMAGES), stand_in(), cache=cache)
    wanted = plain(measure(ArrayImages(IMAGES), stand_in(), cache=cache))
    assert len(cache.clear()) == 1
    assert plain(found) == wanted


def test_an_entry_that_another_process_is_bringing_is_no_damage(cache, told, monkeypatch):
    """While the files move in, the lock is held; who fails without it looks again with it."""
    network, sizes = counted()
    measure(ArrayImages(IMAGES), network, cache=cache)
    folder = folder_of(cache)
    description = (folder / "entry.json").rename(cache.folder / "moving")

    def arrives(path):
        description.rename(folder / "entry.json")
        return locked(path)

    monkeypatch.setattr("metrics.extraction.feature_cache.locked", arrives)
    measure(ArrayImages(IMAGES), network, cache=cache)
    assert sum(sizes) == 50 and told == []


def test_a_damaged_list_of_hashes_is_not_believed(cache, tmp_path):
    np.savez(tmp_path / "a.npz", IMAGES)
    wanted = measure(open_images(tmp_path / "a.npz"), stand_in(), cache=cache).content_sha256
    content = (cache.folder / "hashes.json").read_text()
    changed = wanted.replace(wanted[0], "1" if wanted[0] == "0" else "0")
    (cache.folder / "hashes.json").write_text(content.replace(wanted, changed))
    found = measure(open_images(tmp_path / "a.npz"), stand_in(), cache=cache)
    assert found.content_sha256 == wanted


@pytest.mark.parametrize("mask", [0o022, 0o002, 0o077])
def test_files_and_folders_have_the_modes_that_the_umask_gives(tmp_path, mask):
    np.savez(tmp_path / "a.npz", IMAGES)
    before = os.umask(mask)
    try:
        measure(open_images(tmp_path / "a.npz"), stand_in(), cache=FeatureCache(tmp_path / "c"))
    finally:
        os.umask(before)
    found = {path: path.stat().st_mode & 0o777 for path in (tmp_path / "c").rglob("*")}
    assert len(found) == 2 + len(FILES)
    assert all(mode == (0o777 if p.is_dir() else 0o666) & ~mask for p, mode in found.items())


def age(folder, seconds=1000):
    """Make an entry look as if it had not been used for so long."""
    then = time.time() - seconds
    for path in (folder / "entry.json", folder):
        os.utime(path, (then, then))


def noise(seed):
    return NoiseImages(400, (8, 8, 3), seed)


@pytest.fixture
def filled(tmp_path):
    """A cache of the noise of seeds 0, 1 and 2, made in this order, and the size of an entry."""
    cache = FeatureCache(tmp_path / "features")
    for seed in range(3):
        measure(noise(seed), stand_in(), cache=cache)
        age(newest(cache), 1000 - seed)
    return cache.folder, max(entry.num_bytes for entry in cache.entries())


def newest(cache):
    return max(cache.entries(), key=lambda entry: entry.used).path


def seeds(folder):
    """Which of the seeds are in a cache."""
    cache = FeatureCache(folder, read_only=True)
    return [s for s in range(5) if cache.find(cache.key(noise(s), stand_in())) is not None]


def test_the_longest_unused_entries_make_room_for_a_new_one(filled):
    folder, size = filled
    measure(noise(0), stand_in(), cache=FeatureCache(folder))  # so that it is the first no longer
    age(newest(FeatureCache(folder)), 900)
    measure(noise(3), stand_in(), cache=FeatureCache(folder, limit=int(3.5 * size)))
    assert seeds(folder) == [0, 2, 3]
    measure(noise(4), stand_in(), cache=FeatureCache(folder, limit=int(3.5 * size)))
    assert seeds(folder) == [0, 3, 4]


def test_what_fits_within_the_limit_stays(filled):
    folder, size = filled
    measure(noise(3), stand_in(), cache=FeatureCache(folder, limit=int(4.5 * size)))
    assert seeds(folder) == [0, 1, 2, 3]


def test_room_is_made_before_it_is_taken(filled):
    folder, size = filled
    cache = FeatureCache(folder, limit=int(3.5 * size))
    with cache.making(cache.key(noise(3), stand_in()), noise(3), stand_in()):
        assert seeds(folder) == [1, 2]


def test_what_is_used_stays_however_small_the_limit(filled):
    folder, _ = filled
    cache = FeatureCache(folder, limit=1)
    measure(noise(0), stand_in(), cache=cache)
    age(newest(cache))
    measure(noise(3), stand_in(), cache=cache)
    assert seeds(folder) == [0, 3]
    # Another process may be opening what was used just now.
    measure(noise(4), stand_in(), cache=FeatureCache(folder, limit=1))
    assert seeds(folder) == [3, 4]


def test_folders_that_living_processes_fill_are_not_room(filled):
    folder, _ = filled
    with workplace(folder / ("f" * 32)) as place:
        measure(noise(3), stand_in(), cache=FeatureCache(folder, limit=1))
        assert place.exists()
    assert seeds(folder) == [3]


def test_looking_changes_no_order(filled):
    folder, _ = filled
    before = [entry.used for entry in FeatureCache(folder).entries()]
    assert seeds(folder) == [0, 1, 2]
    assert [entry.used for entry in Cache(folder).entries()] == before


def test_a_kill_between_the_files_of_an_entry_leaves_none(cache, told, monkeypatch):
    network, sizes = counted()
    moved, replace = [], Path.replace

    def killed(self, target):
        moved.append(target)
        if len(moved) == 3:
            raise KeyboardInterrupt
        return replace(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", killed)
        with pytest.raises(KeyboardInterrupt):
            measure(ArrayImages(IMAGES), network, cache=cache)
    assert [entry.source for entry in cache.entries()] == [None]
    measure(ArrayImages(IMAGES), network, cache=cache)
    measure(ArrayImages(IMAGES), network, cache=cache)
    assert sum(sizes) == 100
    assert cache_entry.holds_entry(folder_of(cache))
