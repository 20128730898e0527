"""The client of an image server: `/latest`, manifests and downloads."""

import functools
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Self
from urllib.parse import urlsplit

import requests
import urllib3

from ghrunner_vm.clock import SYSTEM, Clock
from ghrunner_vm.errors import UsageError
from ghrunner_vm.images.deadline import within
from ghrunner_vm.images.download import CHUNK, Download, Patience, missing
from ghrunner_vm.images.errors import ImageServerNonsense, ImageServerUnreachable
from ghrunner_vm.images.manifest import MAX_MANIFEST_BYTES, Manifest, check_name
from ghrunner_vm.images.part import Part
from ghrunner_vm.images.signature import MAX_SIGNATURE_BYTES, SignedManifest

_SMALL_SECONDS = 60.0
_MAX_TEXT = 4096
_PLAIN_HASH = re.compile(r"([0-9a-f]{64})(\s+\*?\S+)?\s*")


@dataclass(frozen=True)
class Announced:
    """What the server says of an image. `signed` is None for a plain disk and for a bundle that is not signed."""

    manifest: Manifest
    signed: SignedManifest | None


class ImageServer:
    """An image server at `url` (http or https). Redirects are followed, but only to these two schemes."""

    def __init__(self, url: str, *, patience: Patience = Patience(), clock: Clock = SYSTEM) -> None:  # noqa: B008 frozen
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
            raise UsageError(
                f"{url!r} is not the address of an image server",
                resolution="Write it as http://HOST[:PORT] or https://HOST.",
            )
        self.url = url.rstrip("/")
        self.patience = patience
        self.clock = clock
        self._http = requests.Session()
        self._http.max_redirects = 5

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._http.close()

    def latest(self) -> str:
        """`GET /latest`: the commit that runs should use. Raises ImageServerUnreachable."""
        text = self._text("latest")
        if text is None:
            raise missing(f"{self.url}/latest")
        try:
            return check_name(text.strip())
        except ValueError as error:
            raise self._nonsense("latest", str(error)) from error

    def manifest(self, commit: str, name: str) -> Manifest:
        """`GET /images/{commit}/{name}.json`, or the plain disk of that name.

        Raises ImageMissing, ImageServerUnreachable, and ImageServerNonsense for a manifest that is none.
        """
        content = self._manifest(commit, name)
        return self._plain(commit, name) if content is None else self._parsed(commit, name, content)

    def announced(self, commit: str, name: str) -> Announced:
        """As `manifest`, with `GET /images/{commit}/{name}.json.sig`, which is not checked here."""
        content = self._manifest(commit, name)
        if content is None:
            return Announced(self._plain(commit, name), None)
        manifest, signature = self._parsed(commit, name, content), self._signature(commit, name)
        return Announced(manifest, None if signature is None else SignedManifest(content, signature))

    def download(self, commit: str, artifact: str, check: Callable[[], None], part: Part) -> Download:
        """`GET /images/{commit}/{artifact}.zst`, going on from `part`. `check` is called between chunks, may raise."""
        path = f"images/{commit}/{artifact}.zst"
        opens = functools.partial(self._get, path)
        return Download(opens, f"{self.url}/{path}", self.patience, check, part, clock=self.clock)

    def _manifest(self, commit: str, name: str) -> bytes | None:
        return self._small(f"images/{commit}/{name}.json", MAX_MANIFEST_BYTES)

    def _parsed(self, commit: str, name: str, content: bytes) -> Manifest:
        path = f"images/{commit}/{name}.json"
        try:
            manifest = Manifest.parse(content)
        except ValueError as error:
            raise self._nonsense(path, str(error)) from error
        if manifest.name != name:
            raise self._nonsense(path, f"it is the manifest of {manifest.name!r}")
        return manifest

    def _signature(self, commit: str, name: str) -> bytes | None:
        try:
            return self._small(f"images/{commit}/{name}.json.sig", MAX_SIGNATURE_BYTES)
        except ImageServerNonsense:
            return b""  # a bad signature to those who want one, and nothing to all others

    def _plain(self, commit: str, name: str) -> Manifest:
        path = f"images/{commit}/{name}.qcow2.sha256"
        text = self._text(path)
        if text is None:
            raise missing(f"{self.url}/{path}")
        match = _PLAIN_HASH.fullmatch(text)
        if match is None:
            raise self._nonsense(path, "it is not a SHA-256 in hexadecimal")
        return Manifest.plain(name, sha256=match[1])

    def _text(self, path: str) -> str | None:
        content = self._small(path, _MAX_TEXT)
        return None if content is None else content.decode("utf-8", errors="replace")

    def _small(self, path: str, limit: int) -> bytes | None:
        """A short body, or None if the server has none there."""
        with self._get(path, {}) as response:
            # Object stores answer 403 instead of 404 to those who may not list their content.
            if response.status_code in (403, 404, 410):
                return None
            if response.status_code >= 500 or response.status_code == 429:
                raise self._unreachable(f"GET /{path}: {response.status_code}")
            if response.status_code != 200:
                raise self._nonsense(path, f"status {response.status_code}")
            return self._body(response, path, limit)

    def _body(self, response: requests.Response, path: str, limit: int) -> bytes:
        deadline = self.clock.monotonic() + _SMALL_SECONDS
        body = b""
        try:
            while block := bytes(response.raw.read1(CHUNK, decode_content=True)):
                body += block
                if len(body) > limit:
                    raise self._nonsense(path, f"more than {limit} bytes")
                if self.clock.monotonic() > deadline:
                    raise self._unreachable(f"GET /{path}: no end after {_SMALL_SECONDS:.0f} s")
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise self._unreachable(f"GET /{path}: {error}") from error
        return body

    def _get(self, path: str, headers: Mapping[str, str]) -> requests.Response:
        timeouts = (self.patience.connect, self.patience.read)
        ask = functools.partial(
            self._http.get, f"{self.url}/{path}", headers=dict(headers), stream=True, timeout=timeouts
        )
        try:
            # The timeouts are for each byte: headers that trickle in would pass them for ever.
            return within(self.patience.answer, ask, requests.Response.close, name="image-server")
        except TimeoutError as error:
            raise self._unreachable(f"GET /{path}: no answer after {self.patience.answer:.0f} s") from error
        except (requests.RequestException, urllib3.exceptions.HTTPError, ValueError) as error:
            # The last two come from a redirect to what is no address.
            raise self._unreachable(f"GET /{path}: {error}") from error

    def _unreachable(self, details: str) -> ImageServerUnreachable:
        return ImageServerUnreachable(
            f"The image server {self.url} cannot be reached",
            details=details,
            resolution="Check the address, the server and the network, then try again.",
        )

    def _nonsense(self, path: str, why: str) -> ImageServerNonsense:
        return ImageServerNonsense(
            f"The image server {self.url} gave an answer that makes no sense",
            details=f"GET /{path}: {why}",
            resolution="Check that this is an image server, and what it publishes.",
        )
