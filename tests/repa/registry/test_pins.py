"""Pins: what was downloaded first is what is downloaded ever after."""

import hashlib
import json
import shutil

import pytest
from file_server import CONTENT, Handler

from repa.errors import ChecksumError, DownloadError
from repa.registry import Pins, entries, fetch, load_registry

SHA256 = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("REPA_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def register(monkeypatch, **entry):
    plain = {"file": "net.pth", "sha256": None, "size": None}
    content = {**load_registry(), "networks": {"net": plain | entry}}
    monkeypatch.setattr(entries, "load_registry", lambda: content)


def test_first_download_is_pinned_with_its_address(server, cache, monkeypatch):
    register(monkeypatch, url=f"{server}/file")
    fetch("networks", "net")
    pin = {"sha256": SHA256, "size": len(CONTENT), "url": f"{server}/file"}
    assert json.loads((cache / "pinned.json").read_text()) == {"networks/net": pin}
    fetch("networks", "net")
    assert Handler.requests == [("/file", None)]


def test_later_download_of_other_bytes_is_refused_and_the_way_out_is_said(
    server, cache, tmp_path, monkeypatch
):
    other = tmp_path / "other"
    other.write_bytes(b"other bytes")
    register(monkeypatch, url=f"{server}/file")
    path = fetch("networks", "net")
    path.unlink()
    register(monkeypatch, url=other.as_uri())
    with pytest.raises(ChecksumError) as caught:
        fetch("networks", "net")
    text = str(caught.value)
    for part in (SHA256, hashlib.sha256(b"other bytes").hexdigest(), str(cache / "pinned.json")):
        assert part in text
    assert "remove networks/net there" in text and "\n" not in text
    assert not path.exists() and not path.with_name("net.pth.part").exists()
    # The way out.
    (cache / "pinned.json").write_text("{}")
    assert fetch("networks", "net").read_bytes() == b"other bytes"


def test_file_put_there_by_hand_has_to_be_the_pinned_one_but_is_not_pinned_itself(
    server, cache, monkeypatch
):
    register(monkeypatch, url=f"{server}/file")
    (cache / "networks").mkdir(parents=True)
    (cache / "networks" / "net.pth").write_bytes(b"by hand")
    assert fetch("networks", "net").read_bytes() == b"by hand"
    assert not (cache / "pinned.json").exists()
    (cache / "networks" / "net.pth").unlink()
    fetch("networks", "net").write_bytes(b"by hand")
    with pytest.raises(ChecksumError, match="was pinned in"):
        fetch("networks", "net")


def test_known_hash_needs_no_pin(server, cache, monkeypatch):
    register(monkeypatch, url=f"{server}/file", sha256=SHA256)
    fetch("networks", "net")
    assert not (cache / "pinned.json").exists()


def test_broken_download_pins_nothing_and_goes_on(server, cache, monkeypatch):
    register(monkeypatch, url=f"{server}/cut")
    with pytest.raises(DownloadError, match="broke off"):
        fetch("networks", "net")
    assert not (cache / "pinned.json").exists()
    register(monkeypatch, url=f"{server}/file")
    fetch("networks", "net")
    assert Handler.requests[-1] == ("/file", f"bytes={len(CONTENT) // 2}-")
    assert Pins(cache).find("networks", "net")["sha256"] == SHA256


def test_pins_of_several_entries_stand_side_by_side(cache, tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).write_text(name)
        Pins(cache).add("networks", name, tmp_path / name, f"https://x/{name}")
    (tmp_path / "a").write_text("changed")
    Pins(cache).add("networks", "a", tmp_path / "a", "https://x/a")  # stays as it was
    with pytest.raises(ChecksumError, match="networks/a"):
        Pins(cache).check("networks", "a", tmp_path / "a")
    Pins(cache).check("networks", "b", tmp_path / "b")


@pytest.mark.parametrize("text", ["{", "[]", '{"networks/net": 1}', '{"networks/net": {}}'])
def test_damaged_file_of_pins_is_named(server, cache, monkeypatch, text):
    cache.mkdir()
    (cache / "pinned.json").write_text(text)
    register(monkeypatch, url=f"{server}/file")
    with pytest.raises(ChecksumError, match=r"pinned\.json: is damaged .*remove it"):
        fetch("networks", "net")


def test_file_without_an_address_is_asked_for_by_its_page_and_used_when_it_is_there(
    cache, monkeypatch
):
    register(monkeypatch, url=None, page="https://somewhere/page")
    with pytest.raises(DownloadError) as caught:
        fetch("networks", "net")
    path = cache / "networks" / "net.pth"
    assert "https://somewhere/page" in str(caught.value) and str(path) in str(caught.value)
    path.parent.mkdir(parents=True)
    path.write_bytes(b"by hand")
    assert fetch("networks", "net") == path


def test_download_that_the_disk_has_no_room_for_is_not_begun(server, cache, monkeypatch):
    from repa_base import files

    usage = shutil._ntuple_diskusage(0, 0, 1000)
    monkeypatch.setattr(files.shutil, "disk_usage", lambda path: usage)
    register(monkeypatch, url=f"{server}/file")
    with pytest.raises(OSError, match=r"the file needs 102\.4 kB, 1\.0 kB are free"):
        fetch("networks", "net")
