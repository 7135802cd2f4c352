import errno
import fcntl
import os
import subprocess
import sys
import threading
import warnings

import pytest

from repa_base.locks import NoLocksWarning, lock_if_free, locked

HOLD = """
import sys
from pathlib import Path
from repa_base.locks import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture(params=["file", "folder"])
def path(request, tmp_path):
    path = tmp_path / "x"
    path.mkdir() if request.param == "folder" else path.touch()
    return path


@pytest.fixture
def holder(path):
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", HOLD, str(path)], **pipes) as process:
        assert process.stdout.readline() == b"held\n"
        yield process
        process.kill()


@pytest.fixture
def descriptor(path):
    descriptor = os.open(path, os.O_RDONLY)
    yield descriptor
    os.close(descriptor)


def test_lock_keeps_another_process_off_until_its_holder_is_killed(path, holder, descriptor):
    assert lock_if_free(descriptor, path) is False
    waiting = threading.Event()

    def wait():
        with locked(path):
            waiting.set()

    thread = threading.Thread(target=wait)
    thread.start()
    assert not waiting.wait(0.2)
    holder.kill()
    assert waiting.wait(30)
    thread.join()
    assert lock_if_free(descriptor, path) is True
    assert path.exists()


def test_lock_ends_with_its_block_and_its_descriptor(path, descriptor):
    with locked(path):
        assert lock_if_free(descriptor, path) is False
    other = os.open(path, os.O_RDONLY)
    assert lock_if_free(other, path) is True
    assert lock_if_free(descriptor, path) is False
    os.close(other)
    assert lock_if_free(descriptor, path) is True


def test_files_are_open_for_writing_while_they_are_locked(tmp_path, monkeypatch):
    # NFS refuses the lock of a file that is open for reading alone (EBADF).
    def on_nfs(descriptor, **_):
        if fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
            raise OSError(errno.EBADF, "Bad file descriptor")
        return True

    monkeypatch.setattr("filelock.lock_descriptor", on_nfs)
    (tmp_path / "file").touch()
    with warnings.catch_warnings(), locked(tmp_path / "file"):
        pass


def test_without_locks_one_warning_says_so_and_the_work_goes_on(path, descriptor, monkeypatch):
    def no_locks(*_, **__):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("filelock.lock_descriptor", no_locks)
    monkeypatch.setattr("repa_base.locks._warned", False)
    assert lock_if_free(descriptor, path, warn=False) is None
    with pytest.warns(NoLocksWarning, match=f"{path} .*No locks available") as seen:
        assert lock_if_free(descriptor, path) is None
        with locked(path):
            assert lock_if_free(descriptor, path) is None
    assert len(seen) == 1
