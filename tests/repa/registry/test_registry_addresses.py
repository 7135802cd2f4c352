"""The addresses in checkpoints.json answer, with the sizes that stand beside them."""

import functools
import socket
import urllib.request
from urllib.parse import urlsplit

import pytest

from repa.registry import load_registry

ENTRIES = {
    f"{section}/{name}": entry
    for section, entries in load_registry().items()
    if isinstance(entries, dict)
    for name, entry in entries.items()
    if entry.get("url") and "package" not in entry  # pip fetches packages; theirs are pages to read
}
pytestmark = pytest.mark.network


@functools.cache
def reaches(host):
    """Whether a host is reached from here; behind a mirror of packages some are and some not."""
    try:
        socket.create_connection((host, 443), timeout=5).close()
    except OSError:
        return False
    return True


@pytest.mark.parametrize("name", ENTRIES)
def test_address_answers_with_the_recorded_size(name):
    entry = ENTRIES[name]
    host = urlsplit(entry["url"]).hostname
    if not reaches(host):
        pytest.skip(f"no network to {host}")
    headers = {"User-Agent": "repa-toolkit", "Accept-Encoding": "identity"}
    request = urllib.request.Request(entry["url"], headers=headers, method="HEAD")
    with urllib.request.urlopen(request, timeout=30) as answer:
        found = answer.headers.get("Content-Length")
        kind = answer.headers.get_content_type()
    if "hugging_face" not in entry:  # whose address is a page about several files
        assert kind != "text/html"
        assert entry["size"] is None or found is None or int(found) == entry["size"]
