"""`ghvm doctor`: is this host fit for virtual machines, and are GitHub and the images within reach?"""

import itertools
import platform
from collections.abc import Iterator
from ipaddress import IPv4Address
from pathlib import Path

import click
from platformdirs import user_cache_path

from ghrunner_vm import app, config, spec
from ghrunner_vm.commands.options import PATH, github_options, state_option, trusted_keys_option
from ghrunner_vm.config import Settings
from ghrunner_vm.console import Console
from ghrunner_vm.doctor import host, machine, network, services, storage
from ghrunner_vm.egress import PRIVATE
from ghrunner_vm.errors import GhvmError
from ghrunner_vm.finding import Finding, Status, examine, failed, of_error, ok, verdict
from ghrunner_vm.network import uplink
from ghrunner_vm.simulator import walls as attempts
from ghrunner_vm.spec import Spec
from ghrunner_vm.vm.base import Arch

_MARKS = {Status.OK: "✓", Status.WARNING: "!", Status.FAILED: "✗", Status.UNKNOWN: "?"}
_STYLES = {Status.OK: "green", Status.WARNING: "yellow", Status.FAILED: "bold red", Status.UNKNOWN: ""}
_IMAGES_ROOM = 10 << 30


@click.command()
@click.argument("spec_file", metavar="[SPEC]", type=PATH, required=False)
@github_options
@click.option("--runner-group-id", metavar="N", type=int, help="Runner group.  [default: 1]")
@click.option("--images-server", metavar="URL", help="Image server.  [default: the Rust project's]")
@click.option("--images-cache-dir", metavar="DIR", type=PATH, help="Where images are kept.")
@trusted_keys_option
@click.option("--allow-emulation", is_flag=True, default=None, help="Without KVM only warn.")
@click.option("--walls", is_flag=True, help="Also boot a guest that tries what it must not reach; takes a minute.")
@state_option
@click.option("--json", "as_json", is_flag=True, help="Print the findings as JSON.")
def doctor(spec_file: Path | None, walls: bool, as_json: bool, **flags: object) -> None:
    """Check what runs need of this host, of GitHub and of the image server, and say what to do.

    With SPEC also whether its machine and its image are to be had. Nothing is registered. The exit code is 0 if nothing
    has failed, warnings or not; 5 or 2 if a person must mend something, 4 if trying again later may help.

    \b
    Example:
      ghvm doctor instances/ubuntu-24.04-x86_64.json
    """
    console = Console()
    settings = config.load(flags)
    described = None if spec_file is None else spec.load(spec_file)
    findings = []
    for finding in itertools.chain(_findings(settings, described), _walls(settings) if walls else ()):
        findings.append(finding)
        if not as_json:
            _show(console, finding)
    if as_json:
        console.result_json({"schema": 1, "checks": [_facts(finding) for finding in findings]})
    raise click.exceptions.Exit(verdict(findings))


def _findings(settings: Settings, described: Spec | None) -> Iterator[Finding]:
    yield examine("settings", lambda: _usable(settings))
    yield from _of_host(described)
    yield from _of_machine(settings, described)
    yield from _of_network(settings)
    state, cache = config.state_directory(settings), config.images_directory(settings)
    yield examine("disk for runs", lambda: storage.state(state, described))
    yield examine("disk for images", lambda: storage.room("disk for images", cache, _IMAGES_ROOM))
    yield from services.github(settings)
    if described is None:
        yield examine("images", lambda: services.server(settings))
    else:
        yield from services.image(settings, described, cache)


def _usable(settings: Settings) -> Finding:
    app.check_settings(settings)
    return ok("settings", "can be used on this host")


def _walls(settings: Settings) -> Iterator[Finding]:
    """What a guest reaches here by the default policy; the private ranges and names that are allowed do not count."""
    host_ = uplink.host(settings.uplink)
    routers = [router for router in host_.routers if any(IPv4Address(router) in private for private in PRIVATE)]
    kind = app.network_kind(settings)
    flags = ["--network", kind, "--network-pool", str(settings.network_pool), "--accel", settings.accel]
    flags += ["--uplink", settings.uplink] if settings.uplink else []
    try:
        with attempts.targets(host_.own, routers) as places:
            reached = attempts.attempt(places, user_cache_path("ghvm") / "demo", flags)
    except GhvmError as error:
        yield of_error("walls", error)
        return
    for name, through in reached.items():
        if through:
            yield failed("walls", f"a guest reaches {name}", "Do not run jobs here that you do not trust.")
        else:
            yield ok("walls", f"a guest does not reach {name}")


def _of_network(settings: Settings) -> Iterator[Finding]:
    kind = app.network_kind(settings)
    yield examine("wall", lambda: network.wall(kind))
    if kind != "none":
        yield examine("uplink", lambda: network.way_out(kind, settings.uplink))


def _of_host(described: Spec | None) -> Iterator[Finding]:
    yield examine("processors", lambda: host.processors(described))
    yield examine("memory", lambda: host.memory(described))
    for name, check in (
        ("control groups", host.control_groups),
        ("swap", host.swap),
        ("hyperthreads", host.hyperthreads),
        ("memory merging", host.shared_memory),
        ("processor flaws", host.flaws),
    ):
        yield examine(name, check)


def _of_machine(settings: Settings, described: Spec | None) -> Iterator[Finding]:
    arch: Arch = described.arch if described else "aarch64" if platform.machine() == "aarch64" else "x86_64"
    state = config.state_directory(settings)
    base, count = settings.vm_uid_base, settings.vm_uid_count
    identities = app.identities(settings)
    yield examine("programs", machine.programs)
    if described is not None and described.engine == "firecracker":
        yield examine("Firecracker", lambda: _firecracker(settings, arch))
        return
    yield examine("QEMU", lambda: machine.qemu(arch, state))
    yield examine("firmware", lambda: machine.firmware(arch))
    emulate = settings.allow_emulation
    yield examine("KVM", lambda: machine.kvm(arch, state, identities, base, count, emulate=emulate))


def _firecracker(settings: Settings, arch: Arch) -> Finding:
    found = app.firecracker_programs(settings, arch)
    return ok("Firecracker", f"{found.firecracker} and {found.jailer}")


def _show(console: Console, finding: Finding) -> None:
    console.styled(
        (f"{_MARKS[finding.status]} ", _STYLES[finding.status]), (f"{finding.name}: ", "bold"), (finding.found, "")
    )
    for line in (finding.details or "").splitlines():
        console.result(f"    {line}")
    if finding.resolution:
        console.result(f"  → {finding.resolution}")


def _facts(finding: Finding) -> dict[str, object]:
    return {
        "name": finding.name,
        "status": finding.status.value,
        "found": finding.found,
        "details": finding.details,
        "resolution": finding.resolution,
    }
