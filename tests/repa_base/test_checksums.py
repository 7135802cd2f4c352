import hashlib
import os
from pathlib import Path

import pytest

from repa_base import checksums
from repa_base.checksums import file_sha256

SIZE = 2_500_000


@pytest.fixture
def path(tmp_path, monkeypatch):
    monkeypatch.setattr(checksums, "_known", {})
    (tmp_path / "file").write_bytes(bytes(SIZE))
    return tmp_path / "file"


@pytest.fixture
def reads(monkeypatch):
    """Count the files that are read."""
    seen, original = [], Path.open

    def opened(path, mode="r", *rest, **options):
        if mode == "rb":
            seen.append(path)
        return original(path, mode, *rest, **options)

    monkeypatch.setattr(Path, "open", opened)
    return seen


def sha256_of(content):
    return hashlib.sha256(content).hexdigest()


def test_hash_is_that_of_the_content_and_progress_counts_its_bytes(path):
    steps = []
    digest = file_sha256(path, lambda done, total: steps.append((done, total)))
    assert digest == sha256_of(bytes(SIZE))
    assert steps == [(1 << 20, SIZE), (2 << 20, SIZE), (SIZE, SIZE)]


def test_settled_file_is_read_once_until_it_changes(path, reads, monkeypatch):
    monkeypatch.setattr(checksums, "_SETTLED_SECONDS", -1)
    assert file_sha256(path) == file_sha256(path)
    assert len(reads) == 1
    path.write_bytes(bytes(SIZE + 1))
    assert file_sha256(path) == sha256_of(bytes(SIZE + 1))
    assert len(reads) == 2


def test_file_of_another_inode_is_read_again(path, monkeypatch, tmp_path):
    monkeypatch.setattr(checksums, "_SETTLED_SECONDS", -1)
    file_sha256(path)
    status = path.stat()
    (tmp_path / "other").write_bytes(b"1" * SIZE)
    os.utime(tmp_path / "other", ns=(status.st_atime_ns, status.st_mtime_ns))
    (tmp_path / "other").replace(path)
    assert file_sha256(path) == sha256_of(b"1" * SIZE)


@pytest.mark.parametrize("size", [3, SIZE])
def test_second_change_within_a_tick_of_the_clock_is_seen(path, size):
    contents = [bytes([number]) * size for number in range(5)]
    for content in contents:
        path.write_bytes(content)
        os.utime(path, ns=(0, path.stat().st_ctime_ns // 10**10 * 10**10))
        assert file_sha256(path) == sha256_of(content)


def test_memory_is_bounded(path, reads, monkeypatch):
    monkeypatch.setattr(checksums, "_SETTLED_SECONDS", -1)
    monkeypatch.setattr(checksums, "_MAX_REMEMBERED", 2)
    for number in range(5):
        file_sha256(path.rename(path.with_name("file")) if number == 0 else _copy(path, number))
        assert len(checksums._known) <= 2


def _copy(path, number):
    copy = path.with_name(f"copy{number}")
    copy.write_bytes(path.read_bytes())
    return copy
