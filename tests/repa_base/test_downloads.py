from concurrent.futures import ThreadPoolExecutor

import pytest
from file_server import CONTENT, Handler

from repa_base.downloads import download, reporting_downloads
from repa_base.errors import ChecksumError, DownloadError


def test_file_that_fails_its_check_is_removed_and_downloaded_anew(server, tmp_path):
    def refuse(path):
        assert path.read_bytes() == CONTENT
        raise ChecksumError("another file")

    with pytest.raises(ChecksumError):
        download(f"{server}/file", tmp_path / "file", check=refuse)
    assert [path.name for path in tmp_path.iterdir()] == ["file.lock"]
    download(f"{server}/file", tmp_path / "file")
    assert Handler.requests == [("/file", None)] * 2


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
