"""A real HTTP server on loopback, for a test's own handler."""

import contextlib
import http.server
import threading
from collections.abc import Callable, Iterator


@contextlib.contextmanager
def serving(
    handler: Callable[..., http.server.BaseHTTPRequestHandler], release: threading.Event | None = None
) -> Iterator[str]:
    """Its address. `release` is set at the end: it wakes whoever still holds an answer back."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            if release is not None:
                release.set()
            server.shutdown()
            thread.join()
