"""How a person gets into a run's guest: a key made for that run, and the host key that its agent told."""

import re
from pathlib import Path

from ghrunner_vm import process
from ghrunner_vm.errors import GhvmError
from ghrunner_vm.threads import in_daemon_thread

KEY = "ssh-key"
"""The private key in the run directory; it goes with the run."""
_SECONDS = 10.0
# A type and a key in base64, as in a .pub file (sshd(8)); what follows is a comment.
_PUBLIC = re.compile(r"(?P<key>(?:ssh-ed25519|ssh-rsa|ecdsa-sha2-nistp\d{3}) [A-Za-z0-9+/]{16,2000}={0,2})(?: .*)?")


class RunKey:
    """The key of one run. `public` is empty until it is made, and stays so if this host has no ssh-keygen."""

    def __init__(self, directory: Path, name: str) -> None:
        self._path = directory / KEY
        self._name = name
        self.public = ""

    async def make(self) -> None:
        """Make it. That none can be had is no reason to end a run: it only keeps people out."""
        argv = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", f"ghvm {self._name}", "-f", str(self._path)]
        try:
            await in_daemon_thread(lambda: process.run(argv, timeout=_SECONDS), name="ssh-keygen")
            self.public = self._path.with_suffix(".pub").read_text(encoding="ascii").strip()
        except (GhvmError, OSError):
            return


def host_key(told: str) -> str | None:
    """The type and the key out of what a guest calls its host key; None if that is none."""
    match = _PUBLIC.fullmatch(told.strip())
    return match["key"] if match else None


def command(
    directory: Path, known_hosts: Path, run_id: str, port: int, user: str, *, pinned: bool, words: tuple[str, ...]
) -> list[str]:
    """The argv of ssh(1) into a run's guest on this host's `port`.

    The guest is not trusted: nothing of this host is forwarded to it, and no configuration file can change that.
    """
    options = {
        "HostKeyAlias": run_id,
        "UserKnownHostsFile": known_hosts,
        "GlobalKnownHostsFile": "/dev/null",
        "StrictHostKeyChecking": "yes" if pinned else "accept-new",
        "UpdateHostKeys": "no",
        "CheckHostIP": "no",
        "ClearAllForwardings": "yes",
        "ForwardAgent": "no",
        "ForwardX11": "no",
        "PermitLocalCommand": "no",
        "ConnectTimeout": 10,
        "ServerAliveInterval": 15,
    }
    own_key = {"IdentityFile": directory / KEY, "IdentitiesOnly": "yes", "PasswordAuthentication": "no"}
    chosen = {**options, **(own_key if pinned else {})}
    return [
        *("ssh", "-F", "none", "-p", str(port), "-l", user),
        *(word for key, value in chosen.items() for word in ("-o", f"{key}={value}")),
        "127.0.0.1",
        *words,
    ]
