"""What a container's files lack to be a machine that runs one job, and what would only make its boot slow."""

import json
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files as resources
from typing import Final

from ghrunner_vm.errors import UsageError
from ghrunner_vm.images.build import users
from ghrunner_vm.images.build.files import Files, Owner

ROOT_LABEL: Final = "ghvm-root"
RUNNER_ROOT = "opt/actions-runner"
_UNITS = "etc/systemd/system"
_DISTRIBUTIONS = "/usr/lib/systemd/system"
_DROPPED: Final = frozenset({b"dev", b"proc", b"sys", b"run"})
_BUILDERS_OWN: Final = frozenset({b".dockerenv", b"etc/resolv.conf", b"etc/hostname", b"etc/hosts"})

_SETTINGS: Final = {
    "etc/fstab": f"LABEL={ROOT_LABEL} / ext4 noatime,x-systemd.growfs 0 0\n",
    "etc/machine-id": "",  # empty, not missing: each machine makes its own, and it is no first boot
    "etc/hostname": "ghvm\n",
    "etc/hosts": "127.0.0.1 localhost ghvm\n::1 localhost ip6-localhost ip6-loopback\n",
    "etc/resolv.conf": "nameserver 10.0.2.3\n",
    "etc/systemd/network/10-ghvm.network": "[Match]\nName=e*\n\n[Network]\nDHCP=ipv4\nLinkLocalAddressing=no\n\n"
    "[DHCPv4]\nUseDNS=no\nUseHostname=no\nUseMTU=yes\n",
    "etc/systemd/journald.conf.d/10-ghvm.conf": "[Journal]\nStorage=volatile\nRuntimeMaxUse=64M\n",
}
_NEEDED: Final = {
    "usr/lib/systemd/systemd": "systemd",
    "sbin/init": "systemd-sysv",
    "usr/lib/systemd/systemd-networkd": "systemd (with systemd-networkd)",
    "usr/lib/systemd/systemd-udevd": "udev",
}
_MASKED: Final = (
    # What looks after a machine that lives for years.
    *("apt-daily.timer", "apt-daily-upgrade.timer", "dpkg-db-backup.timer", "e2scrub_all.timer", "fstrim.timer"),
    *("logrotate.timer", "man-db.timer", "motd-news.timer", "systemd-tmpfiles-clean.timer", "e2scrub_reap.service"),
    *("unattended-upgrades.service", "snapd.service", "snapd.socket", "snapd.seeded.service"),
    # What prepares the next boot, of which there is none.
    *("ldconfig.service", "systemd-hwdb-update.service", "systemd-machine-id-commit.service"),
    *("systemd-journal-flush.service", "systemd-random-seed.service", "systemd-update-done.service"),
    *("systemd-update-utmp.service", "systemd-update-utmp-runlevel.service", "systemd-firstboot.service"),
    # What serves a person at a keyboard.
    *("getty.target", "console-getty.service", "serial-getty@ttyS0.service", "serial-getty@ttyAMA0.service"),
    *("systemd-ask-password-console.path", "systemd-ask-password-wall.path", "console-setup.service"),
    "keyboard-setup.service",
    # What the kernel loads by itself as soon as somebody asks, and mounts for those who debug it.
    *("modprobe@.service", "sys-kernel-config.mount", "sys-kernel-debug.mount", "sys-kernel-tracing.mount"),
    # Done by the packages when they were installed.
    "systemd-sysusers.service",
    # A disk that is thrown away is not checked, and the job waits for a route, not for all links.
    *("systemd-fsck-root.service", "systemd-networkd-wait-online.service", "systemd-timesyncd.service"),
)
_OWN: Final = {
    "ghvm-agent.service": "sysinit.target",
    "ghvm-agent.socket": "sysinit.target",
    "ghvm-ssh.socket": "sysinit.target",
    "ghvm-host-key.service": "sysinit.target",
    "ghvm-booted.service": "multi-user.target",
}
_BY_SOCKETS: Final = ("ghvm-agent@.service", "ghvm-ssh@.service")
_ENABLED: Final = {
    "multi-user.target.wants/systemd-networkd.service": "systemd-networkd.service",
    "default.target": "multi-user.target",
}
_MASKED_GENERATORS: Final = (
    # Programs that look for what a virtual machine does not have, one after the other, before any unit is started.
    *("bless-boot", "cryptsetup", "debug", "getty", "gpt-auto", "hibernate-resume", "integritysetup", "rc-local"),
    *("run", "system-update", "tpm2", "veritysetup"),
)
_ON_DEMAND: Final = ("docker", "containerd")
"""Started by what asks for them, through docker.socket."""


@dataclass(frozen=True)
class Configuration:
    """What a container image says besides its files: the environment as NAME=value, and the directory to work in."""

    environment: Sequence[str] = ()
    directory: str = ""


def belongs(names: list[bytes]) -> bool:
    """Whether a path of a container's file system belongs into the image."""
    return not (len(names) > 1 and names[0] in _DROPPED) and b"/".join(names) not in _BUILDERS_OWN


def check(files: Files) -> None:
    """Raises UsageError when something is missing that ghvm cannot add."""
    missing = [package for path, package in _NEEDED.items() if not files.has(path)]
    if missing:
        raise UsageError(
            "The image cannot boot: it has no " + ", no ".join(missing),
            resolution=f"Install in its Dockerfile, by the names of Debian: {' '.join(missing)}.",
        )


def fit_out(files: Files, configuration: Configuration) -> Owner:
    """Add everything but the runner itself; whose the runner is to be."""
    for path in ("dev", "proc", "sys", "run", "tmp"):
        files.directory(path, mode=0o1777 if path == "tmp" else 0o755)
    for path, text in _SETTINGS.items():
        files.put(path, text.encode())
    _add_agent(files, configuration.directory)
    for unit in _MASKED:
        files.link(f"{_UNITS}/{unit}", "/dev/null")
    _start_on_demand(files)
    _forget_secrets(files)
    owner = users.add_runner(files)
    files.give(RUNNER_ROOT, owner)
    environment = "".join(f"{one}\n" for one in configuration.environment if "\n" not in one)
    files.put(f"{RUNNER_ROOT}/.env", environment.encode(), owner=owner)
    return owner


def describe(files: Files, owner: Owner, told: dict[str, str]) -> None:
    """What GitHub shows of the image at the start of each job."""
    detail = "\n".join(f"{what}: {value}" for what, value in told.items())
    files.put(f"{RUNNER_ROOT}/.setup_info", json.dumps([{"group": "Image", "detail": detail}]).encode(), owner=owner)


def _add_agent(files: Files, directory: str) -> None:
    settings = ["BOOTED=/run/ghvm-booted", *([] if directory in ("", "/") else [f"DIRECTORY={shlex.quote(directory)}"])]
    files.put("etc/ghvm/agent.conf", "".join(f"{line}\n" for line in settings).encode())
    image = resources("ghrunner_vm.guest").joinpath("image")
    for program in ("agent", "host-key"):
        files.put(f"usr/lib/ghvm/{program}", image.joinpath(program).read_bytes(), mode=0o755)
    for unit, target in _OWN.items():
        files.put(f"{_UNITS}/{unit}", image.joinpath(unit).read_bytes())
        files.link(f"{_UNITS}/{target}.wants/{unit}", f"/{_UNITS}/{unit}")
    for unit in _BY_SOCKETS:
        files.put(f"{_UNITS}/{unit}", image.joinpath(unit).read_bytes())
    for link, unit in _ENABLED.items():
        files.link(f"{_UNITS}/{link}", f"{_DISTRIBUTIONS}/{unit}")
    for generator in _MASKED_GENERATORS:
        files.link(f"etc/systemd/system-generators/systemd-{generator}-generator", "/dev/null")


def _start_on_demand(files: Files) -> None:
    for service in _ON_DEMAND:
        files.tree.remove(f"{_UNITS}/multi-user.target.wants/{service}.service")
    if files.has(f"{_DISTRIBUTIONS}/docker.socket"):
        files.link(f"{_UNITS}/sockets.target.wants/docker.socket", f"{_DISTRIBUTIONS}/docker.socket")


def _forget_secrets(files: Files) -> None:
    """Host keys, of which each machine makes its own, and the registration of a runner: an image's are everybody's."""
    for name in (".runner", ".credentials", ".credentials_rsaparams"):
        files.tree.remove(f"{RUNNER_ROOT}/{name}")
    for name in files.names("etc/ssh"):
        if name.startswith("ssh_host_"):
            files.tree.remove(f"etc/ssh/{name}")
