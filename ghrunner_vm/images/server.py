"""An image server for one directory: `/latest` and what lies below `/images/{commit}/`.

Its addresses and answers are those of the Rust project's image server; a bundle adds its manifest, its signature and
one compressed file per artifact.
"""

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import uvicorn
from platformdirs import user_cache_path
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import FileResponse, PlainTextResponse, Response
from starlette.routing import Route

from ghrunner_vm.clock import SYSTEM, Clock
from ghrunner_vm.errors import GhvmError, InfrastructureError, UsageError
from ghrunner_vm.images.catalog import Catalog, Snapshot, Warn
from ghrunner_vm.images.compress import CompressedCache

SCAN_SECONDS = 1.0
KEPT_COMMITS = 3
"""How many commits, the latest included, can be downloaded: a pull may have begun before the latest one."""
STOP_SECONDS = 10.0
_OCTETS = "application/octet-stream"

Changed = Callable[[Snapshot], None]


class _Stopping(Exception):
    """The service ends while it prepares content."""


class _CompressedFile(FileResponse):
    chunk_size = 1 << 20


class ImageService:
    """A running image server. `url` is where it answers."""

    def __init__(self, catalog: Catalog, url: str, *, warn: Warn, changed: Changed) -> None:
        self.url = url
        self._catalog = catalog
        self._warn = warn
        self._changed = changed
        self._refreshing = threading.Lock()
        self._ready = threading.Event()
        self._latest: Snapshot | None = None
        self._snapshots: dict[str, Snapshot] = {}
        self.threads: list[threading.Thread] = []

    @property
    def latest(self) -> Snapshot | None:
        """What `/latest` tells; None until the first images are prepared."""
        return self._latest

    def wait_ready(self, timeout: float) -> Snapshot:
        """What is served, once it is; raises InfrastructureError after `timeout` seconds."""
        self._ready.wait(timeout)
        if self._latest is None:
            raise InfrastructureError(f"The images were not ready after {timeout:.0f} s")
        return self._latest

    def require_alive(self) -> None:
        """Raise InfrastructureError if a thread of the service has died."""
        for thread in self.threads:
            if not thread.is_alive():
                raise InfrastructureError(f"The image server's thread {thread.name} has died")

    def refresh(self) -> None:
        """Look at the directory now. `/latest` changes when everything new is compressed."""
        with self._refreshing:
            try:
                snapshot = self._catalog.refresh()
                if snapshot is not None and snapshot != self._latest:
                    self._publish(snapshot)
                    self._catalog.prune(self._snapshots.values())
            except (OSError, GhvmError) as error:
                self._warn(f"the images cannot be read: {error}")

    def _publish(self, snapshot: Snapshot) -> None:
        older = [one for commit, one in self._snapshots.items() if commit != snapshot.commit]
        kept = [*older[1 - KEPT_COMMITS :], snapshot]
        self._snapshots = {one.commit: one for one in kept}
        self._latest = snapshot
        self._ready.set()
        self._changed(snapshot)

    def app(self) -> Starlette:
        """The ASGI application."""
        return Starlette(
            routes=[
                Route("/", self._root),
                Route("/latest", self._latest_commit),
                Route("/images/{commit}/{file}", self._file),
            ]
        )

    async def _root(self, _request: Request) -> Response:
        return PlainTextResponse("ghvm image server\n")

    async def _latest_commit(self, _request: Request) -> Response:
        if self._latest is None:
            return PlainTextResponse("the images are being prepared\n", 503, headers={"Retry-After": "5"})
        return PlainTextResponse(self._latest.commit, headers={"Cache-Control": "no-cache"})

    async def _file(self, request: Request) -> Response:
        snapshot = self._snapshots.get(request.path_params["commit"])
        file = request.path_params["file"]
        if snapshot is not None and file in snapshot.texts:
            return Response(snapshot.texts[file], media_type=_OCTETS)
        if snapshot is not None and file in snapshot.compressed:
            with contextlib.suppress(FileNotFoundError):
                return _compressed(snapshot.compressed[file], request)
        return PlainTextResponse("not found\n", 404)


def _compressed(path: Path, request: Request) -> Response:
    response = _CompressedFile(path, media_type="application/zstd", stat_result=path.stat())
    etag = response.headers["etag"]
    known = [tag.strip().removeprefix("W/") for tag in request.headers.get("if-none-match", "").split(",")]
    if etag in known or known == ["*"]:
        return Response(status_code=304, headers={"ETag": etag})
    return response


@contextlib.contextmanager
def serve(
    directory: Path,
    *,
    host: str = "127.0.0.1",
    port: int = 0,
    cache_dir: Path | None = None,
    warn: Warn = lambda _message: None,
    changed: Changed = lambda _snapshot: None,
    clock: Clock = SYSTEM,
) -> Iterator[ImageService]:
    """Serve the images of `directory`; port 0 takes a free one. `warn` and `changed` are called in other threads.

    Yields at once, while the images are still being prepared. Raises UsageError if the address cannot be bound.
    """
    if not directory.is_dir():
        raise UsageError(f"{directory} is not a directory")
    stopping = threading.Event()

    def check() -> None:
        if stopping.is_set():
            raise _Stopping

    cache = CompressedCache(cache_dir or user_cache_path("ghvm") / "served", check)
    catalog = Catalog(directory.resolve(), cache, warn=warn, clock=clock)
    with _bound(host, port) as bound:
        service = ImageService(catalog, _url(bound), warn=warn, changed=changed)
        with _answering(service, bound), _scanning(service, stopping):
            yield service


@contextlib.contextmanager
def _scanning(service: ImageService, stopping: threading.Event) -> Iterator[None]:
    def scan() -> None:
        with contextlib.suppress(_Stopping):
            service.refresh()
            while not stopping.wait(SCAN_SECONDS):
                service.refresh()

    thread = threading.Thread(target=scan, name="images-scan", daemon=True)
    thread.start()
    service.threads.append(thread)
    try:
        yield
    finally:
        stopping.set()
        thread.join(STOP_SECONDS)


@contextlib.contextmanager
def _answering(service: ImageService, bound: socket.socket) -> Iterator[None]:
    config = uvicorn.Config(
        service.app(), lifespan="off", ws="none", access_log=False, log_config=None, timeout_graceful_shutdown=1
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, args=([bound],), name="images-http", daemon=True)
    thread.start()
    service.threads.append(thread)
    try:
        yield
    finally:
        server.should_exit = True
        thread.join(STOP_SECONDS)


@contextlib.contextmanager
def _bound(host: str, port: int) -> Iterator[socket.socket]:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        bound = socket.create_server((host, port), family=family, backlog=128)
    except OSError as error:
        raise UsageError(
            f"The address {host} port {port} cannot be used",
            details=str(error),
            resolution="Choose another --port, or end the program that listens there.",
        ) from error
    with bound:
        yield bound


def _url(bound: socket.socket) -> str:
    host, port = bound.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
