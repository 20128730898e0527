"""The distribution's packages that an image has."""

from ghrunner_vm.images.build.files import Files

_DPKG = ("var/lib/dpkg/status",)
_INSTALLED = "install ok installed"


def installed(files: Files) -> dict[str, str]:
    """Versions by name, where dpkg keeps account of them; empty for other distributions."""
    found: dict[str, str] = {}
    for path in _DPKG:
        text = b"" if (content := files.read(path)) is None else content
        for paragraph in text.decode("utf-8", "replace").split("\n\n"):
            fields = dict(line.split(": ", 1) for line in paragraph.splitlines() if ": " in line and line[0] != " ")
            if fields.get("Status") == _INSTALLED and "Package" in fields and "Version" in fields:
                found[fields["Package"]] = fields["Version"]
    return dict(sorted(found.items()))
