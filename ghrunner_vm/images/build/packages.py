"""The distribution's packages that an image has."""

import re

from ghrunner_vm.images.build.files import Files

_DPKG = "var/lib/dpkg/status"
_INSTALLED = "install ok installed"
_WORD = re.compile(r"[\x21-\x7e]{1,255}")
"""As a manifest takes them, and as Debian's policy has them."""


def installed(files: Files) -> dict[str, str]:
    """Versions by name, where dpkg keeps account of them; empty for other distributions."""
    found: dict[str, str] = {}
    for paragraph in (files.read(_DPKG) or b"").decode("utf-8", "replace").split("\n\n"):
        fields = dict(line.split(": ", 1) for line in paragraph.splitlines() if ": " in line and line[0] != " ")
        name, version = fields.get("Package", ""), fields.get("Version", "")
        if fields.get("Status") == _INSTALLED and _WORD.fullmatch(name) and _WORD.fullmatch(version):
            found[name] = version
    return dict(sorted(found.items()))
