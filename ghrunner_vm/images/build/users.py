"""The runner's user: added to the image unless it has one of that name."""

import re

from ghrunner_vm.errors import UsageError
from ghrunner_vm.images.build.files import Files, Owner

NAME = "runner"
_FIRST_ID, _LAST_ID = 1000, 59_999
_NUMBER = re.compile(r"[0-9]{1,9}")
_GROUPS = ("sudo", "wheel", "docker")
"""Those of them that the image has."""
_SUDO = f"{NAME} ALL=(ALL) NOPASSWD:ALL\n"


def add_runner(files: Files) -> Owner:
    """The user's numbers, with a home directory and the groups that let a job use sudo and Docker."""
    _add_to_groups(files)
    found = _field(files, "etc/passwd", NAME)
    if found is not None:
        return Owner(_number(found[2]), _number(found[3]))
    taken = {line.split(":")[2] for line in _lines(files, "etc/passwd", "etc/group") if line.count(":") >= 2}
    number = next((one for one in range(_FIRST_ID, _LAST_ID + 1) if str(one) not in taken), None)
    if number is None:
        raise UsageError(f"The image has no number between {_FIRST_ID} and {_LAST_ID} left for its user {NAME}")
    owner = Owner(number, number)
    _append(files, "etc/passwd", f"{NAME}:x:{number}:{number}::/home/{NAME}:/bin/bash", mode=0o644)
    _append(files, "etc/group", f"{NAME}:x:{number}:", mode=0o644)
    _append(files, "etc/shadow", f"{NAME}:*:19000:0:99999:7:::", mode=0o640)
    files.give(f"home/{NAME}", owner)
    if files.has("usr/bin/sudo"):
        files.put(f"etc/sudoers.d/{NAME}", _SUDO.encode(), mode=0o440)
    return owner


def _add_to_groups(files: Files) -> None:
    lines = _lines(files, "etc/group")
    joined = [_with_member(line) if line.split(":")[0] in _GROUPS else line for line in lines]
    if joined != lines:
        _replace(files, "etc/group", "".join(f"{line}\n" for line in joined), mode=0o644)


def _with_member(line: str) -> str:
    name, _, members = line.rpartition(":")
    there = [member for member in members.split(",") if member]
    return f"{name}:{','.join([*there, *([] if NAME in there else [NAME])])}"


def _field(files: Files, path: str, name: str) -> list[str] | None:
    found = (line.split(":") for line in _lines(files, path))
    return next((fields for fields in found if fields[0] == name and len(fields) >= 7), None)


def _number(text: str) -> int:
    if _NUMBER.fullmatch(text) is None:
        raise UsageError(f"The image's user {NAME} has no number in /etc/passwd", details=text[:100])
    return int(text)


def _lines(files: Files, *paths: str) -> list[str]:
    return [line for path in paths for line in files.text(path).removesuffix("\n").split("\n")]


def _append(files: Files, path: str, line: str, *, mode: int) -> None:
    text = files.text(path)
    _replace(files, path, f"{text}{'' if not text or text.endswith(chr(10)) else chr(10)}{line}\n", mode=mode)


def _replace(files: Files, path: str, text: str, *, mode: int) -> None:
    old = files.tree.find(path)
    owner = Owner(old.uid, old.gid) if old is not None else Owner()
    files.put(path, text.encode("utf-8", "surrogateescape"), mode if old is None else old.mode & 0o7777, owner)
