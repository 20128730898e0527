"""ghvm as a real service of systemd: `ghvm@NAME`, as docs/service.md sets it up."""

import contextlib
import json
import subprocess  # noqa: TID251 the journal is followed while it grows
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from ghrunner_vm import process, unit
from tests import guests
from tests.harness import Following, proc
from tests.kvm.inside import SECONDS
from tests.lab import Lab

STATE = Path("/var/lib/ghvm")
"""Where the services of root keep their runs."""
_SETTINGS = Path("/etc/xdg/ghvm/config.toml")
_GHVM = "/opt/ghvm/bin/ghvm"


@dataclass(frozen=True)
class Service:
    """The service for one test; its spec's name and label are the lab's label."""

    lab: Lab

    @property
    def name(self) -> str:
        return f"ghvm@{self.lab.label}.service"

    @property
    def spec(self) -> Path:
        return unit.SETTINGS / f"{self.lab.label}.json"

    @property
    def runs(self) -> list[Path]:
        """The run directories that are there."""
        return sorted((STATE / "runs").glob(f"{self.lab.label}-*"))

    def start(self) -> None:
        """Returns once the service has told systemd that it is ready."""
        systemctl("start", self.name)

    def stop(self, *options: str) -> None:
        """Returns once it has ended, unless the options say otherwise."""
        systemctl("stop", *options, self.name)

    def property(self, name: str) -> str:
        """What systemd says of it (org.freedesktop.systemd1(5))."""
        return systemctl("show", "--value", f"--property={name}", self.name).strip()

    @contextlib.contextmanager
    def journal(self) -> Iterator[Following]:
        """What it says, from its first line on."""
        argv = ["/usr/bin/journalctl", "--follow", "--lines=all", "--output=cat", f"--unit={self.name}"]
        process = subprocess.Popen(argv, stdout=subprocess.PIPE, bufsize=0)
        with contextlib.closing(Following(process)) as following:
            yield following


@contextlib.contextmanager
def installed(
    lab: Lab, *options: str, settings: Mapping[str, object] | None = None, **spec: object
) -> Iterator[Service]:
    """Write the unit, the settings, the App's key and the spec; at the end of the block the service is no more.

    `options` are for the unit; `settings` and `spec` change what is usual.
    """
    service = Service(lab)
    unit.SETTINGS.mkdir(mode=0o700, exist_ok=True)
    (unit.SETTINGS / "app.pem").touch(mode=0o600)
    (unit.SETTINGS / "app.pem").write_text(lab.sim.private_key_pem, encoding="utf-8")
    service.spec.write_text(json.dumps({**_spec(lab), **spec}), encoding="utf-8")
    _SETTINGS.parent.mkdir(exist_ok=True)
    STATE.mkdir(mode=0o700, exist_ok=True)
    _SETTINGS.write_text(_settings(lab, settings or {}), encoding="utf-8")
    process.run([_GHVM, "systemd", "--install", "--force", *options], timeout=SECONDS)
    systemctl("daemon-reload")
    try:
        yield service
    finally:
        with contextlib.suppress(process.CommandFailed):  # nothing of it runs, as it should be
            systemctl("kill", "--signal=KILL", service.name)
        service.stop()
        service.spec.unlink()


def control_group(pid: int) -> Path:
    """That of a process."""
    return Path("/sys/fs/cgroup") / proc(pid, "cgroup").decode().strip().removeprefix("0::/")


def is_gone(group: Path) -> bool:
    """Whether systemd has neither the scope of a control group that became empty, nor the group."""
    # The answer comes after systemd has seen that the group is empty.
    return json.loads(systemctl("list-units", "--all", "--output=json", group.name)) == [] and not group.exists()


def systemctl(*words: str) -> str:
    """What it prints; it must end well."""
    return process.run(["systemctl", *words], timeout=SECONDS)


def _settings(lab: Lab, changes: Mapping[str, object]) -> str:
    # JSON's strings, numbers and booleans are TOML's.
    settings: dict[str, object] = {
        "github-org": "demo-org",
        "github-api-url": lab.sim.url,
        "github-client-id": lab.sim.client_id,
        "images-server": lab.images_url,
        "accel": "kvm",
        "allow-host-loopback": True,
        "poll-seconds": 1,
        **changes,
    }
    return "".join(f"{key} = {json.dumps(value)}\n" for key, value in settings.items())


def _spec(lab: Lab) -> Mapping[str, object]:
    return {
        "label": lab.label,
        "image": guests.TINY,
        "arch": "x86_64",
        "cpu-cores": 1,
        "ram": "256M",
        "root-disk": "1G",
        "timeout-seconds": 300,
    }
