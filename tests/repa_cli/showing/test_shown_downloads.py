import sys

import pytest

from repa_base.downloads import download
from repa_cli.showing.downloads import shown_downloads


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
