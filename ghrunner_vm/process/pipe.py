"""Reading what another program writes, and never waiting for it without end."""

import io
import os
import select
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

_LONGEST_LINE = 4 << 10
_CHUNK = 4 << 10


class Pipe(io.RawIOBase):
    """The descriptor `pipe`, read until the end of `program` (a pidfd): its background processes may hold it open.

    Reading raises what `late` gives when nothing came for as many seconds as `patience` says, and at the end what
    `check` raises: what a program wrote before it failed must not pass for all of it.
    """

    def __init__(
        self,
        pipe: int,
        program: int,
        *,
        patience: Callable[[], float],
        late: Callable[[], Exception],
        check: Callable[[], None],
    ) -> None:
        super().__init__()
        self._pipe = pipe
        self._program = program
        self._patience = patience
        self._late = late
        self._check = check

    def readable(self) -> bool:
        """See io.IOBase."""
        return True

    def fileno(self) -> int:
        """The descriptor, for another program; what that one waits for has no deadline of ours."""
        return self._pipe

    def readinto(self, buffer: "WriteableBuffer", /) -> int:
        """See io.RawIOBase."""
        view = memoryview(buffer)
        block = os.read(self._pipe, view.nbytes) if self._wait() else b""
        view[: len(block)] = block
        if not block:
            self._check()
        return len(block)

    def _wait(self) -> bool:
        """Whether there is something to read; False if nothing will come."""
        readable, _, _ = select.select([self._pipe, self._program], [], [], max(0, self._patience()))
        if not readable:
            raise self._late()
        # It may have written between the look at its pipe and its end.
        return self._pipe in readable or bool(select.select([self._pipe], [], [], 0)[0])


def lines(stream: io.RawIOBase) -> Iterator[str]:
    """The lines of a stream as they come, empty ones left out; an overlong one in pieces. A CR ends one as well."""
    rest = b""
    while block := stream.read(_CHUNK):
        *whole, rest = (rest + block).replace(b"\r", b"\n").split(b"\n")
        if len(rest) > _LONGEST_LINE:
            whole, rest = [*whole, rest], b""
        yield from (line.decode(errors="replace") for line in whole if line.strip())
    if rest.strip():
        yield rest.decode(errors="replace")
