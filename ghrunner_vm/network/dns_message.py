"""DNS messages, as far as a forwarder looks into them (RFC 1035 and RFC 6891). No I/O here.

No compression pointer is ever followed: a question comes first in its message, so that its name has nothing to point
at, and the other names are skipped.
"""

import struct
from dataclasses import dataclass
from enum import IntEnum
from ipaddress import IPv4Address

A = 1
AAAA = 28
INTERNET = 1
"""The class of all that is in use."""

_OPT = 41
_HEADER = struct.Struct("!6H")
_QUESTION = struct.Struct("!2H")
_RECORD = struct.Struct("!2HIH")
_RESPONSE, _OPCODE, _RECURSION_DESIRED, _RECURSION_AVAILABLE, _CHECKING_DISABLED = 0x8000, 0x7800, 0x100, 0x80, 0x10
_CODE = 0xF
_LONGEST_LABEL = 63
_LONGEST_NAME = 255
_POINTER = 0xC0
_TTL_LIMIT = 1 << 31
# RFC 6891 6.1.1: whoever sends an OPT record gets one, or believes that it is not understood. 1232 bytes fit anywhere.
_OUR_OPT = b"\0" + _RECORD.pack(_OPT, 1232, 0, 0)
_PLAIN = frozenset(range(0x21, 0x7F)) - frozenset(b".\\")


class Malformed(Exception):
    """The bytes are not such a message."""


class Code(IntEnum):
    """What became of a query, RFC 1035 4.1.1."""

    NOERROR = 0
    SERVFAIL = 2
    NXDOMAIN = 3
    NOTIMP = 4
    REFUSED = 5


@dataclass(frozen=True)
class Question:
    """A name in lower case and without the last dot, a type and a class. Strange bytes in a name read `\\DDD`."""

    name: str
    kind: int
    klass: int = INTERNET


@dataclass(frozen=True)
class Query:
    """A message that asks one question."""

    message: bytes
    question: Question
    asked: bytes
    """The question as it was sent."""
    extended: bool
    """It has an OPT record."""


@dataclass(frozen=True)
class Answer:
    """A message that answers one question."""

    message: bytes
    code: int
    question: Question
    addresses: tuple[tuple[IPv4Address, int], ...]
    """Those of the answer's A records, whatever their names, with how many seconds they hold."""


def parse_query(message: bytes) -> Query:
    """Raises Malformed for all but an ordinary query with one question and nothing behind its end."""
    reader = _Reader(message)
    _, flags, questions, answers, authorities, additional = reader.unpack(_HEADER)
    if flags & (_RESPONSE | _OPCODE) or (questions, answers, authorities) != (1, 0, 0):
        raise Malformed
    question = reader.question()
    asked = message[_HEADER.size : reader.at]
    kinds = [reader.record().kind for _ in range(additional)]
    if reader.at != len(message):
        raise Malformed
    return Query(message, question, asked, _OPT in kinds)


def parse_answer(message: bytes) -> Answer:
    """Raises Malformed for all but an answer to one question. What follows its answer section is not looked at."""
    reader = _Reader(message)
    _, flags, questions, answers, _, _ = reader.unpack(_HEADER)
    if not flags & _RESPONSE or flags & _OPCODE or questions != 1:
        raise Malformed
    question = reader.question()
    records = [reader.record() for _ in range(answers)]
    addresses = tuple((IPv4Address(record.data), record.seconds) for record in records if record.is_address)
    return Answer(message, flags & _CODE, question, addresses)


def identity(message: bytes) -> bytes:
    """The id of a message, two bytes."""
    return message[:2]


def with_identity(message: bytes, own: bytes) -> bytes:
    """The same message with another id."""
    return own + message[2:]


def reply(query: Query, code: Code) -> bytes:
    """An answer without records."""
    (flags,) = struct.unpack_from("!H", query.message, 2)
    kept = flags & (_RECURSION_DESIRED | _CHECKING_DISABLED)
    header = struct.pack("!5H", _RESPONSE | _RECURSION_AVAILABLE | kept | code, 1, 0, 0, int(query.extended))
    return identity(query.message) + header + query.asked + (_OUR_OPT if query.extended else b"")


@dataclass(frozen=True)
class _Record:
    kind: int
    klass: int
    seconds: int
    data: bytes

    @property
    def is_address(self) -> bool:
        return (self.kind, self.klass, len(self.data)) == (A, INTERNET, 4)


class _Reader:
    """Walks through a message. Each method raises Malformed if the bytes are not what it takes them for."""

    def __init__(self, message: bytes) -> None:
        self._message = message
        self.at = 0

    def take(self, size: int) -> bytes:
        taken = self._message[self.at : self.at + size]
        if len(taken) < size:
            raise Malformed
        self.at += size
        return taken

    def unpack(self, form: struct.Struct) -> tuple[int, ...]:
        return form.unpack(self.take(form.size))

    def question(self) -> Question:
        labels = []
        start = self.at
        while size := self.take(1)[0]:
            if size > _LONGEST_LABEL:
                raise Malformed
            labels.append(_text(self.take(size)))
        if self.at - start > _LONGEST_NAME:
            raise Malformed
        kind, klass = self.unpack(_QUESTION)
        return Question(".".join(labels), kind, klass)

    def record(self) -> _Record:
        self._skip_name()
        kind, klass, seconds, size = self.unpack(_RECORD)
        # RFC 2181 8: one that looks negative is none.
        return _Record(kind, klass, seconds if seconds < _TTL_LIMIT else 0, self.take(size))

    def _skip_name(self) -> None:
        while size := self.take(1)[0]:
            if size >= _POINTER:
                self.take(1)
                return
            if size > _LONGEST_LABEL:
                raise Malformed
            self.take(size)


def _text(label: bytes) -> str:
    """Neither a dot in a label nor a control character may pass for something else (RFC 4343 2.1)."""
    return "".join(chr(byte) if byte in _PLAIN else f"\\{byte:03d}" for byte in label.lower())
