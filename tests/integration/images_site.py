"""An image server that misbehaves on demand, and images to put on it."""

import contextlib
import hashlib
import http.server
import itertools
import random
import re
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import zstandard

from ghrunner_vm.images.manifest import Artifact, Boot, Manifest, Role
from ghrunner_vm.images.signing import SigningKey
from tests.http_site import serving

COMMIT = "0123456789abcdef0123456789abcdef01234567"
WAIT_SECONDS = 30.0
DRIP_SECONDS = 0.01


def disk(seed: int = 1, size: int = 3 << 20) -> bytes:
    """A file that begins as qcow2 version 3 does, half of it incompressible."""
    noise = random.Random(seed).randbytes(size // 2)  # noqa: S311 it only has to be the same in each run
    return b"QFI\xfb\0\0\0\3" + noise + bytes(size - size // 2 - 8)


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def compressed(content: bytes) -> bytes:
    return zstandard.ZstdCompressor(level=1).compress(content)


def bundle(name: str, artifacts: dict[str, bytes]) -> Manifest:
    """A manifest whose artifacts have their role as suffix, except the disk: `{name}.qcow2`."""
    described = {
        file: Artifact(size=len(content), sha256=sha256(content), role=_role(file))
        for file, content in artifacts.items()
    }
    kernel = f"{name}.kernel" if f"{name}.kernel" in artifacts else None
    return Manifest(
        schema_version=1,
        name=name,
        arch="x86_64",
        engine=("qemu",),
        agent=1,
        runner_version="2.337.0",
        boot=Boot(kernel=kernel, initrd=None, cmdline="console=ttyS0" if kernel else None),
        artifacts=described,
    )


def _role(file: str) -> Role:
    return "kernel" if file.endswith(".kernel") else "disk"


@dataclass
class Site:
    """What the server answers with. Each download takes one entry of `cuts`: the bytes until it hangs up."""

    files: dict[str, bytes] = field(default_factory=dict)
    etag: str | None = '"first"'
    ranges: bool = True
    cuts: list[int] = field(default_factory=list)
    cut_always: int | None = None
    with_length: bool = True
    hold_after: int | None = None
    """Bytes of the next download until it stops, tells so by `held`, and waits for `release`."""
    held: threading.Event = field(default_factory=threading.Event)
    release: threading.Event = field(default_factory=threading.Event)
    trickle: bool = False
    """Send downloads byte by byte."""
    trickled_headers: bool = False
    """Begin an answer and send headers, without end."""
    redirects: dict[str, str] = field(default_factory=dict)
    """Where to send those who ask for a path."""
    requests: list[tuple[str, str | None]] = field(default_factory=list)
    """Each path asked for, with its Range."""
    latest_asked: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    url: str = ""

    def offer(self, name: str, content: bytes, *, commit: str = COMMIT) -> None:
        """Publish a plain image as the latest commit."""
        self.files["/latest"] = commit.encode()
        self.files[f"/images/{commit}/{name}.qcow2.sha256"] = sha256(content).encode() + b"\n"
        self.files[f"/images/{commit}/{name}.qcow2.zst"] = compressed(content)

    def offer_bundle(
        self,
        manifest: Manifest,
        artifacts: dict[str, bytes],
        *,
        commit: str = COMMIT,
        key: SigningKey | None = None,
        serial: int = 1,
    ) -> None:
        """Publish a bundle as the latest commit, signed if there is a key."""
        self.files["/latest"] = commit.encode()
        path = f"/images/{commit}/{manifest.name}.json"
        self.files[path] = manifest.to_json()
        if key is not None:
            self.files[f"{path}.sig"] = key.sign(serial, manifest.to_json()).to_json()
        for file, content in artifacts.items():
            self.files[f"/images/{commit}/{file}.zst"] = compressed(content)

    def downloads(self) -> list[tuple[str, str | None]]:
        return [request for request in self.requests if request[0].endswith(".zst")]


class _Handler(http.server.BaseHTTPRequestHandler):
    site: Site

    def do_GET(self) -> None:
        self.site.requests.append((self.path, self.headers.get("Range")))
        if self.path == "/latest":
            self.site.latest_asked.release()
        if self.site.trickled_headers:
            self.wfile.write(b"HTTP/1.1 200 OK\r\n")
            self._drip(itertools.repeat(b"X-Header: x\r\n"))
            return
        if self.path in self.site.redirects:
            self.send_response(302)
            self.send_header("Location", self.site.redirects[self.path])
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        content = self.site.files.get(self.path)
        if content is None:
            self.send_error(404)
            return
        start = self._start(len(content))
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        if self.site.with_length:
            self.send_header("Content-Length", str(len(content) - start))
        if self.site.etag:
            self.send_header("ETag", self.site.etag)
        self.end_headers()
        self.close_connection = True
        with contextlib.suppress(OSError):  # the client may hang up as well
            self._send(content[start:])

    def _start(self, size: int) -> int:
        match = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        same = self.headers.get("If-Range") in (None, self.site.etag)
        return int(match[1]) if match and self.site.ranges and same and int(match[1]) < size else 0

    def _send(self, body: bytes) -> None:
        if not self.path.endswith(".zst"):
            self.wfile.write(body)
            return
        if self.site.trickle:
            self._drip(bytes([byte]) for byte in body)
            return
        cut = self.site.cuts.pop(0) if self.site.cuts else self.site.cut_always
        body = body if cut is None else body[:cut]
        if self.site.hold_after is None:
            self.wfile.write(body)
            return
        held, self.site.hold_after = self.site.hold_after, None
        self.wfile.write(body[:held])
        self.site.held.set()
        self.site.release.wait(WAIT_SECONDS)
        self.wfile.write(body[held:])

    def _drip(self, drops: Iterable[bytes]) -> None:
        self.close_connection = True
        with contextlib.suppress(OSError):  # until the client has had enough
            for drop in drops:
                self.wfile.write(drop)
                if self.site.release.wait(DRIP_SECONDS):
                    return

    def log_message(self, *_arguments: object) -> None:
        pass


@contextlib.contextmanager
def site() -> Iterator[Site]:
    """A running server on loopback."""
    mine = Site()
    handler = type("Handler", (_Handler,), {"site": mine})
    with serving(handler, mine.release) as mine.url:
        yield mine
