"""A server on this machine that gives one file, well or badly, for tests of downloads."""

import http.server
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager

CONTENT = bytes(range(256)) * 400


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


@contextmanager
def serving() -> Iterator[str]:
    """Serve for the length of the block; yield the address."""
    Handler.requests, Handler.tag = [], '"one"'
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()
