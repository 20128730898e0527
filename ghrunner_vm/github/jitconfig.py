"""What a JIT config says, with its secrets left out. Pure.

It is base64 of a JSON object that maps the names of files to base64 of their content, which is JSON as well: what the
runner finds in its root after `config.sh` (JitConfig in Runner.cs of the runner's sources). A value is shown only if
its key is known to be no secret and the value has the form that such a value has. Everything else is hidden.
"""

import base64
import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from ghrunner_vm.errors import InfrastructureError

_LONGEST = 64 << 10
"""Characters. GitHub's have some 4000, and Linux lets no environment variable have more than 128 KiB."""
_MOST_FILES = 16
_MOST_KEYS = 64
_FILE = re.compile(r"\.?[a-z][a-z_]{0,39}")
_KEY = re.compile(r"[A-Za-z][A-Za-z0-9]{0,39}")

Show = Callable[[str], str | None]
"""What may be seen of a value; None if it does not have the form that it should have."""


class BadJitConfig(InfrastructureError):
    """The text is no JIT config; no part of it is repeated, since any part may be secret."""


@dataclass(frozen=True)
class Entry:
    """A key of a file, with its parents before dots; `value` is None if it is hidden."""

    key: str
    value: str | None = None


@dataclass(frozen=True)
class ConfigFile:
    """One of the files in a JIT config."""

    name: str
    entries: tuple[Entry, ...]


def decode(encoded: str) -> tuple[ConfigFile, ...]:
    """The files in a JIT config, as far as they may be shown. Raises BadJitConfig."""
    if len(encoded) > _LONGEST:
        raise _bad(f"it has {len(encoded)} characters")
    files = _json_object(_plain(encoded, "it"), "it")
    if not 1 <= len(files) <= _MOST_FILES:
        raise _bad(f"it holds {len(files)} files")
    return tuple(_file(number, name, content) for number, (name, content) in enumerate(files.items(), 1))


def _file(number: int, name: str, content: object) -> ConfigFile:
    named = _FILE.fullmatch(name) is not None
    where = name if named else f"file {number}"
    if not isinstance(content, str):
        raise _bad(f"{where} is no text")
    values = _json_object(_plain(content, where), where)
    if len(values) > _MOST_KEYS:
        raise _bad(f"{where} has {len(values)} keys")
    return ConfigFile(where, tuple(_entries(values, _SHOWN.get(name, {}))))


def _entries(values: Mapping[str, object], shown: Mapping[str, Show], parents: str = "") -> Iterator[Entry]:
    for number, (name, value) in enumerate(values.items(), 1):
        # A key that is not a plain word may be anything, a secret too.
        key = parents + (name if _KEY.fullmatch(name) else f"key {number}")
        if isinstance(value, dict) and not parents and len(value) <= _MOST_KEYS:
            yield from _entries(value, shown, f"{key}.")
        elif value is None:
            yield Entry(key, "none")
        else:
            yield Entry(key, shown.get(key.lower(), _nothing)(str(value)))


def _plain(text: str, what: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except ValueError as error:  # binascii.Error, and text that is not ASCII
        raise _bad(f"{what} is not base64") from error


def _json_object(content: bytes, what: str) -> dict[str, object]:
    try:
        value = json.loads(content.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise _bad(f"{what} is not JSON") from error
    if not isinstance(value, dict):
        raise _bad(f"{what} is no JSON object")
    return value


def _bad(why: str) -> BadJitConfig:
    resolution = "A proxy may have answered in GitHub's place. Else the form has changed: look for a newer ghvm."
    return BadJitConfig("what GitHub sent is not a JIT config that ghvm knows", details=why, resolution=resolution)


def _matching(pattern: str) -> Show:
    form = re.compile(pattern)
    return lambda text: text if form.fullmatch(text) else None


def _nothing(text: str) -> None:  # noqa: ARG001 it has the form of the others
    return None


def _url(text: str) -> str | None:
    """A URL without what it says about the user, and without a query."""
    address = _URL.fullmatch(text)
    if address is None or not _PATH.fullmatch(address["path"] or ""):
        return None
    return f"{address['scheme']}{address['host']}{address['path'] or ''}"


def _origin(text: str) -> str | None:
    """The server of a URL whose path is part of the credentials."""
    address = _URL.fullmatch(text)
    return address and f"{address['scheme']}{address['host']}/…"


_PATH = re.compile(r"[A-Za-z0-9/_.-]{0,200}")
_URL = re.compile(
    r"(?P<scheme>https?://)([^/?#@\s]*@)?(?P<host>[A-Za-z0-9.-]{1,253}(:\d{1,5})?)"
    r"(?P<path>/[^?#\s]*)?([?#]\S*)?"
)


_number = _matching(r"\d{1,19}")
_switch = _matching(r"(?i:true|false)")
_name = _matching(r"[A-Za-z0-9][A-Za-z0-9._ -]{0,63}")
_folder = _matching(r"[A-Za-z0-9._/-]{1,200}")
_text = _matching(r"[A-Za-z]{0,20}")

# Keys are in lower case, since the runner does not look at their case.
_SHOWN: Mapping[str, Mapping[str, Show]] = {
    ".runner": {
        "agentid": _number,
        "agentname": _name,
        "poolid": _number,
        "poolname": _name,
        "serverurl": _url,
        "serverurlv2": _url,
        "githuburl": lambda text: text and _url(text),
        "workfolder": _folder,
        "disableupdate": _switch,
        "ephemeral": _switch,
        "skipsessionrecover": _switch,
        "usev2flow": _switch,
        "userunneradminflow": _switch,
        "ishostedserver": _switch,
    },
    ".credentials": {
        "scheme": _text,
        "data.authorizationurl": _origin,
        "data.authorizationurlv2": _origin,
        "data.oauthendpointurl": _origin,
        "data.requirefipscryptography": _switch,
        "data.enableauthmigrationbydefault": _switch,
    },
}
