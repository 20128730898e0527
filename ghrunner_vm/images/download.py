"""One file from an image server, read from start to end over as many connections, and processes, as it takes."""

from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from typing import Protocol

import requests
import urllib3

from ghrunner_vm.clock import SYSTEM, Clock
from ghrunner_vm.images.errors import ImageMissing, ImageServerUnreachable
from ghrunner_vm.images.part import Origin, Part
from ghrunner_vm.units import format_size

CHUNK = 64 << 10
_PAUSE = 0.1


class StartAgain(Exception):
    """The server cannot continue where the connection broke: read from the first byte again."""


class _Broken(Exception):
    """The connection ended before the file did."""


@dataclass(frozen=True)
class Patience:
    """How long to bear with a server: seconds, bytes, and tries without progress.

    A connection counts as broken after `read` seconds without a byte, or after `window` seconds of waiting in which
    fewer than `floor` bytes came. A try that brings fewer than `floor` new bytes is one without progress.
    """

    connect: float = 10.0
    answer: float = 60.0
    """From the request to the end of the headers."""
    read: float = 30.0
    window: float = 60.0
    floor: int = 64 << 10
    tries: int = 5


class Open(Protocol):
    """A GET of one fixed URL with these headers, streamed. Raises ImageServerUnreachable."""

    def __call__(self, headers: Mapping[str, str]) -> requests.Response: ...


class Download:
    """The bytes of the file at `url`. A break is followed by a Range request from where it happened.

    `part` keeps what has come for a later process, and gives what an earlier one kept. `check` is called between
    chunks and may raise. Raises StartAgain, ImageMissing (404) and ImageServerUnreachable (too many tries without
    progress).
    """

    def __init__(
        self,
        opens: Open,
        url: str,
        patience: Patience,
        check: Callable[[], None],
        part: Part,
        *,
        clock: Clock = SYSTEM,
    ) -> None:
        self.resumed = False
        """Whether the last `chunks` began with what an earlier process kept."""
        self._opens = opens
        self._url = url
        self._part = part
        self._patience = patience
        self._check = check
        self._clock = clock
        self._offset = 0
        self._furthest = 0
        self._fruitless = 0
        self._length: int | None = None
        self._validator: str | None = None

    def chunks(self) -> Generator[bytes]:
        """The file from its first byte on."""
        self._offset, self._length, self._validator = 0, None, None
        yield from self._kept()
        while True:
            before = self._furthest
            try:
                yield from self._connection()
            except (_Broken, ImageServerUnreachable) as error:
                self._fruitless = 0 if self._furthest >= before + self._patience.floor else self._fruitless + 1
                if self._fruitless >= self._patience.tries:
                    raise self._unreachable(error) from error
                self._pause()
            else:
                return

    def _kept(self) -> Generator[bytes]:
        origin = self._part.reopen(self._url)
        self.resumed = origin is not None
        if origin is not None:
            self._length, self._validator = origin.length, origin.validator
            for block in self._part.kept():
                self._advance(block)
                yield block
                self._check()

    def _connection(self) -> Generator[bytes]:
        self._check()
        if self._length is not None and self._offset >= self._length > 0:
            return
        with self._opens(self._headers()) as response:
            if self._is_complete(response):
                return
            self._accept(response)
            for block in self._blocks(response):
                self._advance(block)
                self._part.append(block)
                yield block
                self._check()
        if self._length is not None and self._offset < self._length:
            raise _Broken(f"the connection ended after {self._offset} of {self._length} bytes")

    def _advance(self, block: bytes) -> None:
        self._offset += len(block)
        self._furthest = max(self._furthest, self._offset)

    def _headers(self) -> dict[str, str]:
        headers = {"Accept-Encoding": "identity"}
        if self._offset:
            headers["Range"] = f"bytes={self._offset}-"
            if self._validator:
                headers["If-Range"] = self._validator
        return headers

    def _is_complete(self, response: requests.Response) -> bool:
        """A connection that broke after the last byte of a file of unknown length leaves nothing to ask for."""
        end = response.headers.get("Content-Range")
        return response.status_code == 416 and self._offset > 0 and end == f"bytes */{self._offset}"

    def _accept(self, response: requests.Response) -> None:
        status = response.status_code
        if status == 206 and response.headers.get("Content-Range", "").startswith(f"bytes {self._offset}-"):
            return
        if self._offset and status in (200, 206, 416):
            self._part.discard()
            raise StartAgain
        if status == 200:
            self._begin(response.headers)
            return
        if status in (404, 410):
            raise missing(self._url)
        raise _Broken(f"the server answered {status}")

    def _begin(self, headers: Mapping[str, str]) -> None:
        length = headers.get("Content-Length", "")
        self._length = int(length) if length.isascii() and length.isdigit() else None
        etag = headers.get("ETag", "")
        # A weak ETag promises the same meaning, not the same bytes.
        self._validator = etag if etag.startswith('"') else headers.get("Last-Modified")
        if self._validator is None:
            self._part.discard()  # nobody could tell later whether the file is still the same
        else:
            self._part.begin(Origin(url=self._url, validator=self._validator, length=self._length))

    def _blocks(self, response: requests.Response) -> Generator[bytes]:
        """The body. Only time spent waiting for the server counts, not what our own disk takes."""
        waited, came = 0.0, 0
        before = self._clock.monotonic()
        while block := self._read(response):
            waited += self._clock.monotonic() - before
            came += len(block)
            yield block
            if waited >= self._patience.window:
                if came < self._patience.floor:
                    raise _Broken(f"fewer than {format_size(self._patience.floor)} in {waited:.0f} s")
                waited, came = 0.0, 0
            before = self._clock.monotonic()

    def _read(self, response: requests.Response) -> bytes:
        try:
            # Undecoded: what is hashed is our own decompression, whatever Content-Encoding says. read1 does not wait
            # for a full chunk, so that a slow server cannot keep `check` from being called.
            return bytes(response.raw.read1(CHUNK, decode_content=False))
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise _Broken(str(error)) from error

    def _pause(self) -> None:
        """Wait longer after each fruitless try: 0, 1, 2, 4 … seconds."""
        seconds = 0 if self._fruitless == 0 else 2 ** (self._fruitless - 1)
        for _ in range(round(seconds / _PAUSE)):
            self._check()
            self._clock.sleep(_PAUSE)

    def _unreachable(self, error: Exception) -> ImageServerUnreachable:
        return ImageServerUnreachable(
            "The image server is too slow, or breaks the connection again and again",
            details=f"{self._url}: stuck at {self._furthest} bytes; {error}",
            resolution="Check the image server and the network, then try again: what has come is kept.",
        )


def missing(what: str) -> ImageMissing:
    """The error for a 404."""
    return ImageMissing(
        "The image server does not have this image",
        details=what,
        resolution="Check the image's name, and that the server has published it for this commit.",
    )
