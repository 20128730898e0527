"""What `ghvm doctor` finds: on made-up hosts, at a simulated GitHub, and here."""

import json
import os
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from ghrunner_vm import app, config, process
from ghrunner_vm.cli import cli
from ghrunner_vm.clock import SYSTEM
from ghrunner_vm.doctor import host, machine, network, services, storage
from ghrunner_vm.errors import ExitCode, InfrastructureError, UsageError
from ghrunner_vm.finding import Finding, Status, examine, failed, ok, unknown, verdict, warning
from ghrunner_vm.github.inspection import clock
from ghrunner_vm.images.signing import SigningKey
from ghrunner_vm.simulator.faults import Rule
from ghrunner_vm.simulator.server import Simulator
from ghrunner_vm.spec import Spec
from tests.integration.images_site import COMMIT, Site, bundle, disk, site
from tests.world import world

SPEC = Spec.model_validate(
    {
        "label": "demo",
        "image": "ubuntu",
        "arch": "x86_64",
        "cpu-cores": 1,
        "ram": "1G",
        "root-disk": "1G",
        "timeout-seconds": 60,
    }
)
MEMINFO = "MemTotal: 8000000 kB\nMemAvailable: 4194304 kB\n"


def tree(root: Path, files: dict[str, str]) -> Path:
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(content)
    return root


@pytest.mark.parametrize(
    ("files", "status", "found"),
    [
        ({"proc/swaps": "Filename Type\n"}, Status.OK, "none"),
        ({}, Status.OK, "none"),
        ({"proc/swaps": "Filename Type\n/dev/sda2 partition\n"}, Status.WARNING, "on /dev/sda2, not encrypted"),
        ({"proc/swaps": "Filename Type\n/dev/zram0 partition\n"}, Status.OK, "encrypted or in memory"),
        (
            {"proc/swaps": "Filename Type\n/dev/dm-1 partition\n", "sys/block/dm-1/dm/uuid": "CRYPT-PLAIN-swap"},
            Status.OK,
            "encrypted or in memory",
        ),
        (
            {"proc/swaps": "Filename Type\n/dev/dm-1 partition\n", "sys/block/dm-1/dm/uuid": "LVM-x"},
            Status.WARNING,
            "on /dev/dm-1, not encrypted",
        ),
    ],
)
def test_swap(tmp_path: Path, files: dict[str, str], status: Status, found: str) -> None:
    finding = host.swap(tree(tmp_path, files))
    assert (finding.status, finding.found) == (status, found)


@pytest.mark.parametrize(
    ("files", "found"),
    [
        ({"proc/meminfo": MEMINFO}, "4.0 GiB are free"),
        (
            {"proc/meminfo": MEMINFO, "proc/self/cgroup": "0::/a\n", "sys/fs/cgroup/a/memory.max": "2147483648\n"},
            "2.0 GiB are free",
        ),
        (
            {"proc/meminfo": MEMINFO, "proc/self/cgroup": "0::/a\n", "sys/fs/cgroup/a/memory.max": "max\n"},
            "4.0 GiB are free",
        ),
        (
            {
                "proc/meminfo": MEMINFO,
                "proc/self/cgroup": "4:cpu,memory:/b\n0::/\n",
                "sys/fs/cgroup/memory/b/memory.limit_in_bytes": "3221225472\n",
            },
            "3.0 GiB are free",
        ),
    ],
)
def test_memory_within_the_limit(tmp_path: Path, files: dict[str, str], found: str) -> None:
    assert host.memory(SPEC, tree(tmp_path, files)) == ok("memory", found)


def test_too_little_memory(tmp_path: Path) -> None:
    finding = host.memory(SPEC, tree(tmp_path, {"proc/meminfo": "MemAvailable: 1024 kB\n"}))
    assert (finding.status, finding.found) == (Status.WARNING, "1.0 MiB are free, the spec wants 1.0 GiB")


def test_processors() -> None:
    assert host.processors(SPEC).status is Status.OK
    many = SPEC.model_copy(update={"cpu_cores": 1000})
    assert host.processors(many).found.endswith(", the spec wants 1000")


@pytest.mark.parametrize(
    ("file", "status"),
    [("cgroup.controllers", Status.OK), ("memory/tasks", Status.WARNING), ("other", Status.WARNING)],
)
def test_control_groups(tmp_path: Path, file: str, status: Status) -> None:
    assert host.control_groups(tree(tmp_path, {f"sys/fs/cgroup/{file}": ""})).status is status


def test_what_guests_could_learn_of_each_other(tmp_path: Path) -> None:
    cpu = "sys/devices/system/cpu"
    told = {
        f"{cpu}/smt/active": "1\n",
        "sys/kernel/mm/ksm/run": "1\n",
        f"{cpu}/vulnerabilities/mds": "Vulnerable: no microcode\n",
        f"{cpu}/vulnerabilities/meltdown": "Mitigation: PTI\n",
    }
    open_ = tree(tmp_path / "open", told)
    closed = tree(tmp_path / "closed", dict.fromkeys(told, "0\n"))
    checks = (host.hyperthreads, host.shared_memory, host.flaws)
    assert [check(open_).found for check in checks] == ["on", "on (KSM)", "open: mds"]
    assert [check(closed).status for check in checks] == [Status.OK] * 3
    nothing = [check(tmp_path / "none").status for check in checks]
    assert nothing == [Status.UNKNOWN, Status.OK, Status.UNKNOWN]


def test_no_kvm_device(tmp_path: Path) -> None:
    assert host.accelerator_device(tmp_path).found == "there is no /dev/kvm"


def test_room(tmp_path: Path) -> None:
    there = storage.room("disk", tmp_path / "not/yet", 1)
    assert (there.status, there.found.endswith(f"are free for {tmp_path}/not/yet")) == (Status.OK, True)
    full = storage.room("disk", tmp_path, 1 << 60)
    assert (full.status, full.resolution) == (Status.WARNING, "Make room, or choose a larger disk.")


def test_a_state_directory_that_others_may_write(tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs").chmod(0o777)
    finding = examine("disk for runs", lambda: storage.state(tmp_path, SPEC))
    assert (finding.status, finding.exit_code) == (Status.FAILED, ExitCode.PERMANENT)
    assert "cannot be trusted" in finding.found


def test_programs_that_are_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert machine.programs().status is Status.OK
    monkeypatch.setenv("PATH", str(tmp_path))
    assert machine.programs() == failed(
        "programs", "missing: qemu-img, setpriv", "On Debian and Ubuntu: apt-get install qemu-utils util-linux"
    )


def test_another_architecture_is_emulated_or_refused(tmp_path: Path) -> None:
    refused = machine.kvm("aarch64", tmp_path, tmp_path, 1, 1, emulate=False)
    assert refused.status is (Status.FAILED if os.uname().machine == "x86_64" else refused.status)
    allowed = machine.kvm("aarch64", tmp_path, tmp_path, 1, 1, emulate=True)
    assert allowed.status is (Status.WARNING if os.uname().machine == "x86_64" else allowed.status)


def test_an_error_in_a_check_is_a_finding() -> None:
    def breaks() -> Finding:
        raise InfrastructureError("it broke", details="so", resolution="mend it")

    found = examine("x", breaks)
    assert found == Finding("x", Status.FAILED, "it broke", "mend it", "so", ExitCode.INFRASTRUCTURE)
    assert examine("x", lambda: failed("x", str(1 // 0), "")).found == (
        "it could not be checked: ZeroDivisionError('integer division or modulo by zero')"
    )


@pytest.mark.parametrize(
    ("findings", "code"),
    [
        ([], 0),
        ([ok("a", ""), warning("b", "", ""), unknown("c", "")], 0),
        ([Finding("a", Status.FAILED, "", exit_code=ExitCode.INFRASTRUCTURE)], 4),
        ([Finding("a", Status.FAILED, "", exit_code=ExitCode.INFRASTRUCTURE), failed("b", "", "")], 5),
        ([Finding("a", Status.FAILED, "", exit_code=one) for one in (ExitCode.INFRASTRUCTURE, ExitCode.USAGE)], 2),
    ],
)
def test_the_verdict(findings: list[Finding], code: int) -> None:
    assert verdict(findings) == code


# ---- GitHub and images ----

ASKED = ("identity", "installation", "permission", "budget", "group")


@pytest.fixture
def simulator() -> Iterator[Simulator]:
    with Simulator() as simulator:
        yield simulator


def settings(simulator: Simulator, tmp_path: Path, **changes: object) -> config.Settings:
    key = tmp_path / "key.pem"
    key.touch(mode=0o600)
    key.write_text(simulator.private_key_pem, encoding="utf-8")
    given = {"github_org": "demo-org", "github_api_url": simulator.url, "github_client_id": simulator.client_id}
    return config.load({**given, "github_private_key": key, **changes}, environ={}, files=[])


def test_github_as_it_should_be(simulator: Simulator, tmp_path: Path) -> None:
    findings = list(services.github(settings(simulator, tmp_path)))
    assert [one.name for one in findings] == [f"GitHub {name}" for name in (*ASKED, "access", "clock")]
    assert {one.status for one in findings} == {Status.OK}
    assert findings[-2].found == "may register runners for org:demo-org"
    assert simulator.state.runners() == []


def test_a_token_is_not_said_to_do_more_than_was_asked(simulator: Simulator) -> None:
    """Only a registration tells, and doctor makes none."""
    token = {"GHVM_GITHUB_TOKEN": simulator.personal_token}
    told = config.load({"github_org": "demo-org", "github_api_url": simulator.url}, environ=token, files=[])
    findings = {one.name: one.found for one in services.github(told)}
    assert findings["GitHub identity"] == "a token, not an App"
    assert findings["GitHub access"] == (
        "may list the runners of org:demo-org; `ghvm token` shows whether it may register any"
    )


def test_what_is_wrong_at_github(simulator: Simulator, tmp_path: Path) -> None:
    *_, no_group, _ = services.github(settings(simulator, tmp_path, runner_group_id=99))
    assert (no_group.name, no_group.status) == ("GitHub", Status.FAILED)
    assert no_group.found == "org:demo-org has no runner group 99"
    no_org = next(services.github(settings(simulator, tmp_path, github_org=None)))
    assert no_org.found == "no organization, repository or enterprise is set"
    (tmp_path / "key.pem").chmod(0o644)
    readable = next(services.github(settings(simulator, tmp_path)))
    assert (readable.exit_code, "every user can read the private key" in readable.found) == (5, True)


@pytest.mark.parametrize(
    ("trouble", "name", "resolution"),
    [
        ("suspended", "GitHub installation", "An owner must unsuspend it"),
        ("no-permission", "GitHub permission", 'Grant the App "organization_self_hosted_runners: write"'),
        ("host-clock-behind", "GitHub clock", "Set the clock"),
    ],
)
def test_what_an_administrator_must_mend(
    simulator: Simulator, tmp_path: Path, trouble: str, name: str, resolution: str
) -> None:
    simulator.trouble(trouble)
    findings = list(services.github(settings(simulator, tmp_path)))
    (wrong,) = [one for one in findings if one.name == name]
    assert wrong.status in (Status.FAILED, Status.WARNING)
    assert str(wrong.resolution).startswith(resolution)
    assert verdict(findings) == ExitCode.PERMANENT


def test_a_github_that_is_down(simulator: Simulator, tmp_path: Path) -> None:
    simulator.faults.add(Rule(path="/*", status=403))
    findings = list(services.github(settings(simulator, tmp_path)))
    assert [(one.name, one.status) for one in findings] == [("GitHub", Status.FAILED), ("GitHub clock", Status.OK)]


@pytest.mark.parametrize(
    ("drift", "status", "found"),
    [
        (-29.0, Status.OK, "this host's agrees with GitHub's within 30 seconds"),
        (420.0, Status.WARNING, "this host's is 7 minutes ahead of GitHub's"),
        (-1200.0, Status.WARNING, "this host's is 20 minutes behind GitHub's"),
    ],
)
def test_the_clock(drift: float, status: Status, found: str) -> None:
    assert (clock(drift).status, clock(drift).found) == (status, found)


@pytest.fixture
def web() -> Iterator[Site]:
    with site() as mine:
        yield mine


def test_the_image_server(web: Site, simulator: Simulator, tmp_path: Path) -> None:
    web.offer_bundle(bundle("ubuntu", {"ubuntu.qcow2": disk()}), {"ubuntu.qcow2": disk()})
    told = settings(simulator, tmp_path, images_server=web.url)
    image, runner = services.image(told, SPEC, tmp_path / "cache")
    assert image == ok("images", f"ubuntu {COMMIT[:12]}, with an agent")
    assert (runner.name, runner.status) == ("runner", Status.UNKNOWN)
    assert services.server(told).status is Status.OK
    other = SPEC.model_copy(update={"arch": "aarch64"})
    image = next(services.image(told, other, tmp_path / "cache"))
    assert image.found == "ubuntu is made for x86_64, the spec says aarch64"
    missing = SPEC.model_copy(update={"image": "debian"})
    (image,) = services.image(told, missing, tmp_path / "cache")
    assert (image.name, image.status) == ("images", Status.FAILED)


def test_an_image_that_may_not_boot_here(web: Site, simulator: Simulator, tmp_path: Path) -> None:
    ours, other = SigningKey.generate(), SigningKey.generate()
    told = settings(
        simulator, tmp_path, images_server=web.url, images_trusted_keys=(str(ours.public),), state_dir=tmp_path
    )
    files = {"ubuntu.qcow2": disk()}
    web.offer_bundle(bundle("ubuntu", files), files, key=other)
    (refused,) = services.image(told, SPEC, tmp_path / "cache")
    assert (refused.status, refused.exit_code) == (Status.FAILED, ExitCode.INFRASTRUCTURE)
    assert "a key that is not trusted" in refused.found
    web.offer_bundle(bundle("ubuntu", files), files, key=ours)
    image, _ = services.image(told, SPEC, tmp_path / "cache")
    assert image == ok("images", f"ubuntu {COMMIT[:12]}, with an agent, signed by key {ours.public.id}")


@pytest.mark.parametrize(
    ("days", "newest", "status", "words"),
    [
        (3, "2.338.0", Status.OK, "2.337.0, 3 days old, 27 days left"),
        (25, "2.338.0", Status.WARNING, "2.337.0, 25 days old, 5 days left"),
        (30, "2.338.0", Status.FAILED, "The runner in the image ubuntu is too old"),
        (90, "2.337.0", Status.OK, "2.337.0, 90 days old, the newest there is"),
    ],
)
def test_the_age_of_the_runner(
    web: Site, simulator: Simulator, tmp_path: Path, days: int, newest: str, status: Status, words: str
) -> None:
    simulator.state.runner_version = newest
    files = {"ubuntu.qcow2": disk()}
    built = SYSTEM.today() - timedelta(days=days)
    web.offer_bundle(bundle("ubuntu", files).model_copy(update={"runner_date": built}), files)
    told = settings(simulator, tmp_path, images_server=web.url)
    _, runner = services.image(told, SPEC, tmp_path / "cache")
    assert (runner.status, runner.found) == (status, words)


# ---- the command ----


def ghvm(*words: str) -> Result:
    return CliRunner().invoke(cli, ["doctor", *words])


def test_the_findings_for_people_and_for_scripts(
    simulator: Simulator, web: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    web.offer_bundle(bundle("ubuntu", {"ubuntu.qcow2": disk()}), {"ubuntu.qcow2": disk()})
    told = settings(simulator, tmp_path)
    described = tmp_path / "spec.json"
    described.write_text(json.dumps({key.replace("_", "-"): value for key, value in SPEC_TEXT.items()}))
    words = [
        *(str(described), "--github-org", "demo-org", "--github-api-url", simulator.url),
        *("--github-client-id", simulator.client_id, "--github-private-key", str(told.github_private_key)),
        *("--images-server", web.url, "--images-cache-dir", str(tmp_path / "cache")),
        *("--state-dir", str(tmp_path / "state"), "--allow-emulation"),
    ]
    text = ghvm(*words)
    document = json.loads(ghvm(*words, "--json").stdout)
    assert document["schema"] == 1
    names = [check["name"] for check in document["checks"]]
    assert names == [
        *("settings", "processors", "memory", "control groups", "swap", "hyperthreads", "memory merging"),
        *(
            "processor flaws",
            "programs",
            "QEMU",
            "firmware",
            "KVM",
            "wall",
            "uplink",
            "disk for runs",
            "disk for images",
        ),
        *(f"GitHub {name}" for name in (*ASKED, "access", "clock")),
        *("images", "runner"),
    ]
    assert not [check for check in document["checks"] if check["status"] == "failed"]
    assert text.exit_code == 0
    assert [line.split(":")[0][2:] for line in text.stdout.splitlines() if line[:1] in "✓!✗?"] == names
    for check in document["checks"]:
        assert (check["resolution"] is not None) == (check["status"] == "warning")


def test_settings_that_no_run_can_use(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What `ghvm run` would refuse, in the same words."""
    monkeypatch.setattr(os, "geteuid", lambda: 1000)  # root's sockets have a path of their own
    monkeypatch.setenv("XDG_RUNTIME_DIR", f"/{'r' * 100}")
    with pytest.raises(UsageError) as refused:
        app.check_settings(config.Settings())
    done = ghvm("--json", "--state-dir", str(tmp_path), "--images-server", "http://127.0.0.1:1")
    first = json.loads(done.stdout)["checks"][0]
    assert first == {
        "name": "settings",
        "status": "failed",
        "found": refused.value.brief,
        "details": None,
        "resolution": refused.value.resolution,
    }
    assert done.exit_code in (ExitCode.USAGE, ExitCode.PERMANENT)  # what else is wrong here may come first


SPEC_TEXT = {
    "label": "demo",
    "image": "ubuntu",
    "arch": "x86_64",
    "cpu_cores": 1,
    "ram": "128M",
    "root_disk": "1G",
    "timeout_seconds": 60,
}


# ---- the network ----


def test_a_wall_is_made_for_a_moment() -> None:
    for kind in ("namespace", "user", "none"):
        assert network.wall(kind).status is Status.OK


def test_a_missing_program_is_named_by_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "environment", lambda _=None: {"PATH": "/nowhere"})  # this host has them all
    found = network.wall("user")
    assert (found.status, found.resolution) == (
        Status.FAILED,
        "On Debian and Ubuntu: apt-get install iproute2 nftables util-linux slirp4netns",
    )


def test_the_way_out_and_who_stands_in_it(tmp_path: Path) -> None:
    with world(tmp_path) as here:
        there = here.in_host(lambda: network.way_out("namespace", None))
        assert (there.status, there.found) == (Status.OK, "eth0 (MTU 1500)")
        here.nft(
            "add table ip filter; add chain ip filter FORWARD { type filter hook forward priority 0; policy drop; }"
        )
        blocked = here.in_host(lambda: network.way_out("namespace", None))
        assert (blocked.status, "forbidden by ip filter FORWARD" in blocked.found) == (Status.WARNING, True)
        here.ip("route", "delete", "default")
        nowhere = here.in_host(lambda: network.way_out("namespace", None))
        assert nowhere.found == "this host has no default route"
