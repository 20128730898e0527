"""Whether a guest can be given a network behind a wall here."""

import json
import os
import shutil
from collections.abc import Iterator
from typing import Literal

from ghrunner_vm import process
from ghrunner_vm.errors import PermanentError
from ghrunner_vm.finding import Finding, failed, ok, warning
from ghrunner_vm.network import rules, uplink
from ghrunner_vm.network.namespace import namespace

Kind = Literal["namespace", "user", "none"]

_SECONDS = 10.0
_PROGRAMS = {"ip": "iproute2", "nft": "nftables", "nsenter": "util-linux"}
_UNPRIVILEGED = {"slirp4netns": "slirp4netns"}


def wall(kind: Kind) -> Finding:
    """The programs for it, and a namespace with a network card, made for a moment."""
    needed = {} if kind == "none" else _PROGRAMS if kind == "namespace" else {**_PROGRAMS, **_UNPRIVILEGED}
    search = process.environment()["PATH"]
    missing = [package for program, package in needed.items() if shutil.which(program, path=search) is None]
    if missing:
        packages = " ".join(missing)
        return failed("wall", f"missing: {packages}", f"On Debian and Ubuntu: apt-get install {packages}")
    if kind == "none":
        return ok("wall", "guests have no network")
    with namespace() as made:
        os.close(made.tap(rules.TAP))
        made.run(["nft", "-f", "-"], f"table ip {rules.TABLE} {{ }}\n")
    return ok("wall", "a network namespace for each guest" if kind == "namespace" else "slirp4netns for each guest")


def way_out(kind: Kind, chosen: str | None) -> Finding:
    """The interface by which guests go out, and firewalls of others that may stop them there."""
    host = uplink.host(chosen)
    if host.uplink is None:
        return warning("uplink", "this host has no default route", "Guests reach nothing until it has one.")
    told = f"{host.uplink} (MTU {host.mtu})"
    blocking = list(_blocking()) if kind == "namespace" else []
    if blocking:
        advice = (
            f"Let it pass what comes in by interfaces {rules.LINK}*, and the answers to that: for Docker, iptables -I "
            f"DOCKER-USER -i {rules.LINK}+ -j ACCEPT. docs/security.md has both lines."
        )
        return warning("uplink", f"{told}; routing is forbidden by {', '.join(blocking)}", advice)
    return ok("uplink", told)


def _blocking() -> Iterator[str]:
    """Chains of others that drop what is routed unless a rule lets it pass."""
    try:
        document = json.loads(process.run(["nft", "-j", "list", "chains"], timeout=_SECONDS))
    except process.CommandFailed as error:
        raise PermanentError("nft does not work here", details=error.details, resolution="Run it as root.") from error
    for one in document["nftables"]:
        chain = one.get("chain", {})
        ours = str(chain.get("table", "")).startswith(rules.LINK)
        if chain.get("hook") == "forward" and chain.get("policy") == "drop" and not ours:
            yield f"{chain['family']} {chain['table']} {chain['name']}"
