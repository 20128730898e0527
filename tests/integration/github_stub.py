"""A server that gives the answers it is told to, and records what it was asked."""

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass(frozen=True)
class Reply:
    """An answer; `cut` sends half of it."""

    status: int = 200
    body: str = "{}"
    headers: Mapping[str, str] = field(default_factory=dict)
    cut: bool = False


@dataclass
class Stub:
    """Its URL, and each request as (method and path, headers)."""

    url: str
    asked: list[tuple[str, Mapping[str, str]]] = field(default_factory=list)


@contextmanager
def stub(replies: Sequence[Reply]) -> Iterator[Stub]:
    """Serve on a free loopback port; the last reply is given again and again."""
    left = list(replies)

    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            self.rfile.read(int(self.headers.get("content-length", 0)))
            served.asked.append((f"{self.command} {self.path}", dict(self.headers.items())))
            reply = left.pop(0) if len(left) > 1 else left[0]
            content = reply.body.encode()
            self.send_response(reply.status)
            for name, value in {"content-length": str(len(content)), **reply.headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content[: len(content) // 2] if reply.cut else content)

        do_GET = do_POST = do_DELETE = answer  # noqa: N815 the names that http.server looks for

        def log_message(self, *_: object) -> None:
            return

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        served = Stub(f"http://127.0.0.1:{server.server_address[1]}")
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield served
        finally:
            server.shutdown()
            thread.join(10)
