"""The registry as a list, and fetching from it."""

import hashlib

import pytest
from file_server import CONTENT

from repa.errors import ChecksumError, DownloadError, UnknownNameError
from repa.inspection.listing import SECTIONS, download_entry, list_entries
from repa.registry import load_registry, own_file
from repa_base.downloads import reporting_downloads

SHA256 = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("REPA_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "cache"


def register(monkeypatch, **checkpoints):
    plain = {"file": "net.pt", "sha256": None, "size": None, "source": "a test", "model": None}
    added = {name: plain | entry for name, entry in checkpoints.items()}
    registry = load_registry()
    content = {**registry, "checkpoints": {**registry["checkpoints"], **added}}
    for module in ("repa.registry.entries", "repa.inspection.listing"):
        monkeypatch.setattr(f"{module}.load_registry", lambda: content)


def test_everything_that_can_be_fetched_is_listed_once_with_its_source():
    listed = list_entries(SECTIONS)
    registry = load_registry()
    assert [(e.section, e.name) for e in listed] == [(s, n) for s in SECTIONS for n in registry[s]]
    assert set(registry) - set(SECTIONS) == {
        "default_checkpoint",
        "datasets",
        "published",
        "class_names",
    }
    assert all(entry.source and entry.what for entry in listed)


def test_published_rows_stand_beside_their_checkpoint_the_lowest_fid_first():
    listed = {entry.name: entry for entry in list_entries()}
    rows = list(listed["sit-xl-2-repa-256"].published.values())
    assert len(rows) == 13 and rows[0]["metrics"]["fid"] == 1.42
    assert listed["digits"].published == {} and listed["sd-vae-ft-ema"].licence == "MIT"
    of_models = [row for entry in listed.values() for row in entry.published]
    assert sorted(of_models) == sorted(load_registry()["published"])


def test_what_is_here_is_told_from_what_is_not(cache):
    here = {entry.name: entry for entry in list_entries()}
    assert here["digits"].path.name == "digits.safetensors" and here["digits"].by == "package"
    missing = here["dit-xl-2-256"]
    assert (missing.path, missing.size, missing.by) == (None, None, "download")
    assert here["repa-e-ldm-256"].by == "hand"
    for name in ("config.json", "diffusion_pytorch_model.safetensors"):
        assert {e.name: e for e in list_entries()}["sd-vae-ft-mse"].path is None
        path = cache / "autoencoders" / "sd-vae-ft-mse" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x" * 7)
    found = {entry.name: entry for entry in list_entries()}["sd-vae-ft-mse"]
    assert (found.path, found.size) == (path.parent, 7)


def test_a_damaged_file_of_a_package_is_listed_and_found_by_fetching_it(monkeypatch):
    register(monkeypatch, damaged={"package_file": "errors.py", "sha256": "0" * 64})
    listed = {entry.name: entry for entry in list_entries()}
    assert listed["damaged"].path == own_file("errors.py")
    with pytest.raises(ChecksumError, match=r"errors\.py: its SHA-256 is"):
        download_entry("damaged")


def test_listing_fetches_nothing(monkeypatch):
    def fail(*arguments, **options):
        raise AssertionError("asked the network")

    monkeypatch.setattr("urllib.request.urlopen", fail)
    monkeypatch.setattr("socket.create_connection", fail)
    assert list_entries(SECTIONS)


def test_download_is_whole_reported_pinned_and_made_once(server, cache, monkeypatch):
    register(monkeypatch, one={"url": f"{server}/file"})
    seen = []
    with reporting_downloads(lambda name, url, done, total: seen.append((name, done, total))):
        entry = download_entry("one")
        again = download_entry("one")
    assert entry.path.read_bytes() == CONTENT and entry == again
    assert (entry.size, entry.sha256, entry.pinned) == (len(CONTENT), None, SHA256)
    assert seen[-1] == ("net.pt", len(CONTENT), len(CONTENT))
    assert [n for n, done, _ in seen if done == 0] == ["net.pt"]


def test_file_of_this_machine_is_an_address_as_well(cache, tmp_path, monkeypatch):
    (tmp_path / "net").write_bytes(CONTENT)
    register(monkeypatch, one={"url": (tmp_path / "net").as_uri(), "sha256": SHA256})
    assert download_entry("one").path.read_bytes() == CONTENT
    register(monkeypatch, two={"url": (tmp_path / "gone").as_uri(), "file": "two.pt"})
    with pytest.raises(DownloadError, match=r"cannot download two\.pt from file:.*put it at"):
        download_entry("two")


def test_what_comes_with_the_package_needs_no_download():
    assert download_entry("digits").path.exists()
    assert download_entry("digits-heldout").by == "built in"


@pytest.mark.parametrize(
    ("typed", "close"),
    [("digit", "digits"), ("dit-xl-2-25", "dit-xl-2-256"), ("incepton", "inception")],
)
def test_unknown_name_gets_the_closest_of_any_section(typed, close):
    with pytest.raises(
        UnknownNameError, match=f"unknown name '{typed}'; did you mean '{close}'"
    ) as e:
        download_entry(typed)
    assert len(str(e.value)) < 400
    with pytest.raises(UnknownNameError, match="unknown section 'checkpoint'"):
        list_entries(["checkpoint"])
