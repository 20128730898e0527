"""A web server that takes PUT from whoever has its token, and does not always behave."""

import contextlib
import http.server
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field

from tests.http_site import serving

TOKEN = "hush-hush"
WAIT_SECONDS = 30.0


@dataclass
class PutSite:
    """What it holds by path, and what was asked of it."""

    files: dict[str, bytes] = field(default_factory=dict)
    puts: list[str] = field(default_factory=list)
    """The paths of all PUTs, those that were refused included."""
    answers: list[int] = field(default_factory=list)
    """Each PUT takes one entry: a status other than 201 refuses it."""
    hold: str | None = None
    """The end of a path: when half of such a PUT has come it tells so by `held`, and waits for `release`."""
    held: threading.Event = field(default_factory=threading.Event)
    release: threading.Event = field(default_factory=threading.Event)
    heads: bool = True
    """Whether HEAD is answered."""
    url: str = ""


class _Handler(http.server.BaseHTTPRequestHandler):
    site: PutSite

    def do_PUT(self) -> None:
        self.site.puts.append(self.path)
        size = int(self.headers["Content-Length"])
        held = self.site.hold is not None and self.path.endswith(self.site.hold)
        body = self.rfile.read(size // 2) if held else b""
        if held:
            self.site.held.set()
            self.site.release.wait(WAIT_SECONDS)
        body += self.rfile.read(size - len(body))
        status = self.site.answers.pop(0) if self.site.answers else 201
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            status = 401
        if status == 201 and len(body) == size:
            self.site.files[self.path] = body
        self._answer(status, b"")

    def do_GET(self) -> None:
        content = self.site.files.get(self.path)
        self._answer(404 if content is None else 200, content or b"")

    def do_HEAD(self) -> None:
        if self.site.heads:
            self.do_GET()
        else:
            self._answer(405, b"")

    def _answer(self, status: int, content: bytes) -> None:
        with contextlib.suppress(OSError):  # the client may be dead
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            if status == 302:
                self.send_header("Location", f"{self.site.url}/elsewhere")
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)

    def log_message(self, *_arguments: object) -> None:
        pass


@contextlib.contextmanager
def put_site() -> Iterator[PutSite]:
    """A running server on loopback."""
    mine = PutSite()
    handler = type("Handler", (_Handler,), {"site": mine})
    with serving(handler, mine.release) as mine.url:
        yield mine
