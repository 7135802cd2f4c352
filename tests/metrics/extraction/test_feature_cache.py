"""The feature cache: what is measured once, what is measured again, and what a kill leaves."""

import errno
import fcntl
import io
import os
import shutil
import signal
import subprocess
import sys
import tracemalloc
from collections import namedtuple
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from stand_in import counted, outputs, stand_in

from metrics import (
    ArrayImages,
    CacheError,
    FeatureCache,
    FirstImages,
    InputError,
    NoiseImages,
    Reference,
    evaluate_sets,
    measure,
    open_images,
)
from metrics.images.arrays import FileImages
from metrics.images.inspection import InspectedImages
from repa_base.locks import locked

IMAGES = np.random.default_rng(0).integers(0, 256, (50, 8, 8, 3), dtype=np.uint8)
FILES = ("pool.npy", "spatial.npy", "probabilities.npy", "statistics.npz", "entry.json")


@pytest.fixture
def cache(tmp_path):
    return FeatureCache(tmp_path / "cache" / "features")


@pytest.fixture
def path(tmp_path):
    np.savez(tmp_path / "a.npz", IMAGES)
    return tmp_path / "a.npz"


def plain(measurement):
    """Everything that a measurement holds, as values that can be compared."""
    statistics = [measurement.pool, measurement.spatial]
    return {
        "moments": [(part.mean.tolist(), part.covariance.tolist()) for part in statistics],
        "pool": measurement.pool_features.tolist(),
        "score": measurement.inception_score,
        "findings": measurement.findings,
        "count": measurement.count,
    }


def test_a_second_measurement_reads_what_the_first_has_found(cache, path):
    network, sizes = counted()
    first = measure(open_images(path), network, cache=cache)
    assert sum(sizes) == 50
    again = measure(open_images(path), network, cache=FeatureCache(cache.folder))
    assert sum(sizes) == 50
    assert plain(again) == plain(first)


def test_the_cache_changes_no_number(cache, path):
    cached = measure(open_images(path), stand_in(), cache=cache)
    wanted = measure(open_images(path), stand_in())
    assert cached.inception_score == pytest.approx(wanted.inception_score, rel=1e-14)
    assert plain(cached) | {"score": 0} == plain(wanted) | {"score": 0}


def test_all_features_are_on_disk_in_the_order_of_the_images(cache, path):
    found = measure(open_images(path), stand_in(), cache=cache, batch_size=7)
    pixels = stand_in().resize(torch.tensor(IMAGES))
    pool, spatial, logits = outputs(pixels)
    np.testing.assert_allclose(found.pool_features, pool, rtol=1e-5)
    np.testing.assert_array_equal(found.spatial_features, spatial)
    np.testing.assert_allclose(found.probabilities, logits.softmax(1), rtol=1e-6)
    assert {type(found.spatial_features), type(found.probabilities)} == {np.memmap}


def test_features_are_found_by_content_whatever_the_name_and_the_batch_size(cache, path):
    network, sizes = counted()
    measure(open_images(path), network, cache=cache)
    copy = shutil.copy(path, path.with_name("copy.npz"))
    measure(open_images(copy), network, cache=cache, batch_size=9)
    measure(InspectedImages(open_images(copy)), network, cache=cache)
    assert sum(sizes) == 50


@pytest.mark.parametrize(
    "changes",
    [{"name": "other"}, {"weights_sha256": "1" * 64}, {"preprocessing": "clean"}],
)
def test_another_network_weights_or_preprocessing_is_measured_anew(cache, path, changes):
    network, sizes = counted()
    measure(open_images(path), stand_in(), cache=cache)
    measure(open_images(path), stand_in(outputs=network.outputs, **changes), cache=cache)
    assert sum(sizes) == 50


def test_other_pixels_and_other_numbers_of_images_are_measured_anew(cache, path):
    network, sizes = counted()
    measure(open_images(path), network, cache=cache)
    measure(FirstImages(open_images(path), 20), network, cache=cache)
    other = IMAGES.copy()
    other[-1, -1, -1, -1] ^= 1
    measure(ArrayImages(other), network, cache=cache)
    assert sizes[-4:] == [16, 16, 16, 2]
    assert sum(sizes) == 50 + 20 + 50


def test_a_folder_is_found_again_until_one_of_its_files_changes(cache, tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    for number, image in enumerate(IMAGES[:10]):
        Image.fromarray(image).save(folder / f"{number}.png")
    network, sizes = counted()
    for _ in range(2):
        measure(open_images(folder), network, cache=cache)
    assert sum(sizes) == 10
    Image.fromarray(IMAGES[20]).save(folder / "3.png")
    found = measure(open_images(folder), network, cache=cache)
    assert sum(sizes) == 20
    np.testing.assert_allclose(
        found.pool_features[3], measure(ArrayImages(IMAGES), network).pool_features[20], rtol=1e-5
    )


def test_an_unchanged_file_is_hashed_once_and_a_changed_one_again(cache, path, monkeypatch):
    hashed = []
    original = FileImages.sha256
    monkeypatch.setattr(FileImages, "sha256", lambda *args: hashed.append(1) or original(*args))
    for _ in range(3):
        measure(open_images(path), stand_in(), cache=cache)
    assert len(hashed) == 1
    os.utime(path, ns=(0, 10**18))
    measure(open_images(path), stand_in(), cache=cache)
    assert len(hashed) == 2
    (cache.folder / "hashes.json").write_text("{damaged")
    measure(open_images(path), stand_in(), cache=cache)
    assert len(hashed) == 3


class Counted:
    """A file whose bytes are counted as they are read."""

    def __init__(self, file, counts):
        self.file, self.counts = file, counts

    def read(self, *size):
        content = self.file.read(*size)
        self.counts.append(len(content))
        return content

    def __getattr__(self, name):
        return getattr(self.file, name)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.file.close()


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("cached", [False, True])
def test_a_file_is_read_once_before_and_once_by_the_network_and_not_again_from_a_cache(
    cache, tmp_path, monkeypatch, save, cached
):
    path = tmp_path / "large.npz"
    save(path, np.random.default_rng(0).integers(0, 256, (5000, 8, 8, 3), dtype=np.uint8))
    counts = []
    original = io.open

    def opened(file, *arguments, **options):
        stream = original(file, *arguments, **options)
        return Counted(stream, counts) if str(file) == str(path) else stream

    monkeypatch.setattr(io, "open", opened)
    size = path.stat().st_size
    headers = 2 * 70_000  # those of the member, looked for in 64 KB, and of the archive
    measure(open_images(path), stand_in(), cache=cache if cached else None)
    assert 2 * size <= sum(counts) <= 2 * size + headers
    counts.clear()
    measure(open_images(path), stand_in(), cache=cache)
    if cached:
        assert sum(counts) <= headers


def entry_folder(cache):
    (entry,) = cache.entries()
    return entry.path


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_folders_change_while_no_other_process_changes_them(cache):
    cache.folder.mkdir(parents=True)
    descriptor = os.open(cache.folder, os.O_RDONLY)
    with locked(cache.folder), pytest.raises(BlockingIOError):
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.close(descriptor)


def test_a_process_that_does_not_see_the_folder_of_the_others_says_so(cache, path, monkeypatch):
    making = FeatureCache.making

    @contextmanager
    def unseen(*arguments):
        with making(*arguments) as partial:
            yield partial.with_name("elsewhere")

    monkeypatch.setattr(FeatureCache, "making", unseen)
    with pytest.raises(CacheError, match="elsewhere"):
        measure(open_images(path), stand_in(), cache=cache)
    assert not [entry for entry in cache.entries() if entry.source is not None]


KILLED = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[3])
from stand_in import outputs, stand_in
from metrics import FeatureCache, measure, open_images

def dies(pixels, batches=iter(range(2))):
    if next(batches, None) is None:
        os.kill(os.getpid(), signal.SIGKILL)
    return outputs(pixels)

measure(open_images(sys.argv[1]), stand_in(outputs=dies), cache=FeatureCache(Path(sys.argv[2])))
"""


def test_a_killed_run_leaves_no_entry_and_the_next_one_cleans_up(cache, path):
    arguments = [sys.executable, "-c", KILLED, path, cache.folder, Path(__file__).parents[2]]
    assert subprocess.run(arguments, check=False).returncode == -signal.SIGKILL
    (left,) = cache.entries()
    assert (left.source, left.count) == (None, 0) and left.num_bytes > 0
    found = measure(open_images(path), stand_in(), cache=cache)
    assert plain(found)["pool"] == plain(measure(open_images(path), stand_in()))["pool"]
    assert [entry.source for entry in cache.entries()] == [str(path)]
    assert names(cache.folder) == [entry_folder(cache).name, "hashes.json"]


def test_of_two_that_make_the_same_entry_both_end_well_and_one_stays(cache, path):
    other = FeatureCache(cache.folder)

    first = []

    def meanwhile(pixels):
        if not first:
            first.append(plain(measure(open_images(path), stand_in(), cache=other)))
        return outputs(pixels)

    found = measure(open_images(path), stand_in(outputs=meanwhile), cache=cache)
    assert [plain(found)] == first
    assert [entry.source for entry in cache.entries()] == [str(path)]


def test_a_folder_in_the_making_is_left_alone_by_others_and_by_clear(cache):
    images, other = ArrayImages(IMAGES), FeatureCache(cache.folder)
    with cache.making(cache.key(images, stand_in()), images, stand_in()) as partial:
        measure(images, stand_in(), cache=other)
        assert partial.exists()
        assert len(other.clear()) == 1
        assert [entry.path for entry in other.entries()] == [partial.parent]
    assert other.entries() == []


def test_clear_removes_entries_and_nothing_else(cache, path):
    measure(open_images(path), stand_in(), cache=cache)
    kept = cache.folder / ("0" * 32) / "mine.txt"
    kept.parent.mkdir()
    kept.write_text("not the cache's")
    (cache.folder / "notes").mkdir()
    (removed,) = cache.clear()
    assert (removed.source, removed.count, removed.network) == (str(path), 50, "stand-in")
    assert not removed.path.exists()
    assert names(cache.folder) == [kept.parent.name, "notes"]
    assert kept.exists()


def test_a_cache_that_is_not_there_is_empty(cache):
    assert cache.entries() == cache.clear() == []
    assert not cache.folder.exists()


def test_an_error_in_the_middle_leaves_nothing(cache, tmp_path):
    np.savez(tmp_path / "a.npz", IMAGES)
    content = bytearray((tmp_path / "a.npz").read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / "a.npz").write_bytes(content)
    with pytest.raises(InputError, match="CRC-32"):
        measure(open_images(tmp_path / "a.npz"), stand_in(), cache=cache)
    assert cache.entries() == []


def test_a_source_that_changes_while_it_is_measured_is_refused(cache, path):
    def changing(pixels):
        os.utime(path, ns=(0, 10**18))
        return outputs(pixels)

    with pytest.raises(InputError, match="changed while it was measured"):
        measure(open_images(path), stand_in(outputs=changing), cache=cache)
    assert cache.entries() == []


def test_a_full_disk_is_found_before_any_image_is_measured(cache, path, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage(10, 9, 3999))
    network, sizes = counted()
    with pytest.raises(CacheError, match=f"{cache.folder}: No space: features need"):
        measure(open_images(path), network, cache=cache)
    assert sizes == [] and cache.entries() == []
    # 50 images with 6 + 9 + 5 numbers of 4 bytes
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage(10, 9, 4000))
    measure(open_images(path), network, cache=cache)


@pytest.mark.parametrize("call", [3, 5, 7])
def test_a_disk_that_fills_during_the_work_leaves_the_cache_as_it_was(
    cache, path, monkeypatch, call
):
    before = measure(ArrayImages(IMAGES[:9]), stand_in(), cache=cache)
    calls = []

    def fsync(descriptor):
        calls.append(descriptor)
        if (
            len(calls) == call
        ):  # the hashes' file and folder, 3 files of features, the statistics, the entry
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(CacheError, match=f"{cache.folder}.*No space left"):
        measure(open_images(path), stand_in(), cache=cache)
    assert [entry.count for entry in cache.entries()] == [9]
    assert plain(measure(ArrayImages(IMAGES[:9]), stand_in(), cache=cache)) == plain(before)


def test_errors_of_images_are_not_taken_for_the_caches(cache):
    class Unreadable(ArrayImages):
        def batches(self, *args, **kwargs):
            raise OSError(errno.EIO, "Input/output error")

    with pytest.raises(OSError, match="Input/output") as caught:
        measure(Unreadable(IMAGES), stand_in(), cache=cache)
    assert type(caught.value) is OSError


def test_a_read_only_cache_is_read_and_not_written(cache, path):
    network, sizes = counted()
    found = measure(open_images(path), network, cache=cache)
    content = {file: file.read_bytes() for file in cache.folder.rglob("*") if file.is_file()}
    again = FeatureCache(cache.folder, read_only=True)
    assert plain(measure(open_images(path), network, cache=again)) == plain(found)
    assert sum(sizes) == 50
    other = measure(ArrayImages(IMAGES[:9]), network, cache=again)
    assert sum(sizes) == 59 and other.spatial_features is None
    assert plain(other) == plain(measure(ArrayImages(IMAGES[:9]), network))
    files = [file for file in cache.folder.rglob("*") if file.is_file()]
    assert content == {file: file.read_bytes() for file in files}


def test_images_are_hashed_once_where_no_hash_can_be_kept(path, tmp_path, monkeypatch):
    hashed = []
    original = FileImages.sha256
    monkeypatch.setattr(FileImages, "sha256", lambda *args: hashed.append(1) or original(*args))
    (tmp_path / "file").write_text("no folder")
    cache = FeatureCache(tmp_path / "file" / "features", read_only=True)
    found = measure(open_images(path), stand_in(), cache=cache)
    assert len(hashed) == 1
    assert found.content_sha256 == original(open_images(path))


def test_with_a_cache_no_features_are_kept_in_memory(tmp_path):
    peaks = []
    for count in (512, 4096):
        noise = NoiseImages(count, (8, 8, 3))
        tracemalloc.start()
        measure(noise, stand_in(), cache=FeatureCache(tmp_path))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    digest = 216  # bytes of an entry in a dict, with its key and value, and of a row
    assert peaks[1] - peaks[0] < 1.2 * (4096 - 512) * digest


def test_reference_and_baselines_are_measured_once_for_many_sets(cache):
    network, sizes = counted()
    reference = Reference("r", ArrayImages(IMAGES))
    for start in (0, 10):
        samples = {"a": ArrayImages(IMAGES[start : start + 30]), "b": NoiseImages(12, (8, 8, 3))}
        evaluate_sets(samples, reference, network, cache=cache)
    assert sum(sizes) == 50 + 30 + 12 + 30
