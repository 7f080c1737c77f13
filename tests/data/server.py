"""A web server of this machine, for what is downloaded elsewhere: it can cut connections and ignore ranges."""

import hashlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Site:
    """What is served, how badly, and what was asked for: (method, path, Range header)."""

    url: str
    files: dict[str, bytes] = field(default_factory=dict)  # by path, without the leading slash
    ranges: bool = True
    cut_after: int | None = None  # bytes of an answer that are sent before the connection is cut
    cuts: int = 0  # answers that are cut
    requests: list[tuple[str, str, str | None]] = field(default_factory=list)

    def fetched(self, path: str) -> int:
        """How often the content of a file was asked for."""
        return sum(method == "GET" and asked == path for method, asked, _ in self.requests)


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.answer(self.server.site)

    do_HEAD = do_GET

    def answer(self, site: Site) -> None:
        path, wanted = self.path.lstrip("/"), self.headers.get("Range")
        site.requests.append((self.command, path, wanted))
        if path not in site.files:
            self.send_error(404)
            return
        content, start = site.files[path], 0
        if wanted and site.ranges:
            start = int(wanted.removeprefix("bytes=").split("-")[0])
            if start >= len(content):
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{len(content)}")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        else:
            self.send_response(200)
        self.send_header("Content-Length", str(len(content) - start))
        self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
        self.send_header("X-Repo-Commit", "0" * 40)  # as the Hugging Face hub does
        self.end_headers()
        if self.command == "GET":
            stop = len(content)
            if site.cuts:
                site.cuts, stop = site.cuts - 1, start + site.cut_after
            self.wfile.write(content[start:stop])

    def log_message(self, *args) -> None:
        pass


@contextmanager
def serving(**files: bytes) -> Iterator[Site]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.site = Site(f"http://127.0.0.1:{server.server_port}", dict(files))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server.site
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
