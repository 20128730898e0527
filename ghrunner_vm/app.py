"""Wiring: from settings to the objects that do the work."""

import contextlib
import dataclasses
import functools
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

from ghrunner_vm import config, egress, process, runs, spec
from ghrunner_vm.config import Settings
from ghrunner_vm.console import Bar, Meter
from ghrunner_vm.egress import Egress
from ghrunner_vm.errors import GhvmError, UsageError
from ghrunner_vm.github.client import GitHub
from ghrunner_vm.github.newest import newest_runner
from ghrunner_vm.history import History
from ghrunner_vm.images.errors import CacheNotWritable, ImageServerUnreachable, ImageUntrusted
from ghrunner_vm.images.manifest import Manifest
from ghrunner_vm.images.prune import prune
from ghrunner_vm.images.pull import pull
from ghrunner_vm.images.remote import ImageServer
from ghrunner_vm.images.store import ImageStore, LeasedImage
from ghrunner_vm.images.trust import trust
from ghrunner_vm.images.watch import newer
from ghrunner_vm.ledger import Ledger
from ghrunner_vm.lifecycle import learning
from ghrunner_vm.lifecycle.backoff import BackOff, counter
from ghrunner_vm.lifecycle.gc import Collected, collect, sweep
from ghrunner_vm.lifecycle.network import Connect, unplugged, walled, walled_or_open
from ghrunner_vm.lifecycle.plan import Means, Plan
from ghrunner_vm.lifecycle.state import Policy
from ghrunner_vm.lifecycle.textfile import Textfile
from ghrunner_vm.network import uplink
from ghrunner_vm.network.wall import Building
from ghrunner_vm.record import RunnerRecord
from ghrunner_vm.spec import Spec
from ghrunner_vm.vm.admission import Rules
from ghrunner_vm.vm.base import Accelerator, Arch, Engine
from ghrunner_vm.vm.firecracker import host, programs
from ghrunner_vm.vm.firecracker.commandline import Programs
from ghrunner_vm.vm.firecracker.engine import FirecrackerEngine
from ghrunner_vm.vm.jail import Identity
from ghrunner_vm.vm.qemu import accelerator, version
from ghrunner_vm.vm.qemu.engine import QemuEngine

_SOCKET_PATH_BYTES = 107  # sun_path of unix(7), without its NUL
_DESCRIPTORS = 4096
"""The guest's connections to what is served to it take two each."""
_LONGEST_SOCKET_NAME = 56  # a run's name and .sock

Warn = Callable[[str], None]


def runs_directory(settings: Settings) -> Path:
    """Where run directories are."""
    return config.state_directory(settings) / "runs"


def history(settings: Settings) -> History:
    """The black boxes of finished runs."""
    directory = config.state_directory(settings) / "history"
    return History(directory, settings.history_runs, settings.history_size)


def host_directory(settings: Settings) -> Path:
    """What all runs on this host share, so that no two machines get the same; as root one for the whole host."""
    return Path("/var/lib/ghvm") if os.geteuid() == 0 else config.state_directory(settings)


def identities(settings: Settings) -> Path:
    """Where user ids for machines are leased."""
    return host_directory(settings) / "uids"


def ledger(settings: Settings) -> Ledger:
    """All runs that one can ask about."""
    return Ledger(runs_directory(settings), history(settings))


def image_users(settings: Settings) -> dict[tuple[str, str], list[str]]:
    """The live runs of each image, which is given by its commit and its name."""
    users: dict[tuple[str, str], list[str]] = {}
    for entry in ledger(settings).live():
        if entry.record.commit is not None:
            users.setdefault((entry.record.commit, entry.record.image), []).append(entry.id)
    return users


def plan(settings: Settings, described: Spec, pause: float = 0.0) -> Plan:
    """What `ghvm run` needs to know; it waits `pause` seconds. Raises UsageError when it cannot be done here."""
    egress_policy(settings, described)
    state = config.state_directory(settings)
    check_settings(settings)
    return Plan(
        spec=described,
        policy=Policy(
            boot=described.boot_timeout_seconds,
            job=described.timeout_seconds,
            idle=described.idle_timeout_seconds,
            drain=settings.drain_seconds,
            shutdown_after_job=not settings.no_shutdown_after_job,
        ),
        runs=state / "runs",
        history=history(settings),
        sockets=config.runtime_directory(settings),
        identities=identities(settings),
        uid_base=settings.vm_uid_base,
        uid_count=settings.vm_uid_count,
        name=settings.name,
        group_id=settings.runner_group_id,
        ssh_port=settings.ssh_port,
        poll_seconds=settings.poll_seconds,
        image_poll_seconds=settings.image_poll_seconds,
        runner_max_age_days=settings.runner_max_age_days,
        admission=Rules(settings.memory_reserve, settings.memory_overcommit, settings.disk_overcommit),
        learn=settings.egress_learn,
        pause=pause,
    )


def check_settings(settings: Settings) -> None:
    """What needs neither a spec nor a network. Raises UsageError when no run can be made with these settings here."""
    if settings.network == "namespace" and os.geteuid() != 0:
        raise UsageError(
            "Only root can connect a network namespace with the host's network",
            resolution="Run it as root, or leave --network out: an ordinary user's guests go out by slirp4netns.",
        )
    _check_socket_path(config.runtime_directory(settings))
    try:
        egress.parse((*settings.egress_allow, *settings.egress_deny), settings.egress_sets)
    except ValueError as error:
        raise UsageError(f"egress-allow or egress-deny cannot be used: {error}") from error
    if settings.egress_learn is not None:
        learning.check(settings.egress_learn)


def back_off(settings: Settings, spec_file: Path) -> BackOff:
    """What counts the failed runs of this spec, if that is asked for."""
    return BackOff(counter(config.state_directory(settings), spec_file) if settings.back_off else None)


def textfile(settings: Settings, described: Spec, back_off: BackOff, warn: Warn) -> Textfile:
    """The file of metrics, if there is to be one."""
    places = (runs_directory(settings), history(settings).directory)
    return Textfile(settings.metrics_textfile, described.label, places, lambda: back_off.failures, warn)


def _check_socket_path(directory: Path) -> None:
    longest = len(os.fsencode(directory)) + len("/") + _LONGEST_SOCKET_NAME
    if longest > _SOCKET_PATH_BYTES:
        raise UsageError(
            f"the directory for sockets has a path too long by {longest - _SOCKET_PATH_BYTES} bytes: {directory}",
            resolution="Set XDG_RUNTIME_DIR, or choose a shorter --state-dir.",
        )


def network_kind(settings: Settings) -> Literal["namespace", "user", "none"]:
    """How guests are connected: as root each gets a namespace, unless the settings say otherwise."""
    return settings.network or ("namespace" if os.geteuid() == 0 else "user")


def egress_policy(settings: Settings, described: Spec) -> Egress:
    """What the guest may reach. Raises UsageError when the settings and the spec contradict each other."""
    loopback = (str(egress.LOOPBACK),) if settings.allow_host_loopback else ()
    try:
        policy = Egress(
            described.egress or settings.egress,
            egress.parse((*loopback, *settings.egress_allow, *described.egress_allow), settings.egress_sets),
            egress.parse((*settings.egress_deny, *described.egress_deny), settings.egress_sets),
        )
        egress.check(policy)
    except ValueError as error:
        raise UsageError(
            f"What the guest may reach cannot be enforced: {error}",
            resolution="Change egress, egress-allow or egress-deny in the configuration or in the spec.",
        ) from error
    return policy


def _connect(settings: Settings, described: Spec) -> Connect:
    building = Building(
        egress=egress_policy(settings, described),
        state=host_directory(settings),
        pool=settings.network_pool,
        uplink=settings.uplink,
        resolvers=settings.resolvers,
        learn=settings.egress_learn is not None,
    )
    ssh_port = None if described.engine == "firecracker" else settings.ssh_port
    match network_kind(settings):
        case "namespace":
            return functools.partial(walled, building, ssh_port)
        case "user":
            unprivileged = dataclasses.replace(building, unprivileged=True)
            return functools.partial(walled_or_open if settings.allow_host_loopback else walled, unprivileged, ssh_port)
        case "none":
            return unplugged


def check_host(described: Spec, warn: Warn) -> None:
    """Compare the spec with this host. Raises UsageError when it cannot fit."""
    ram = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if warning := spec.check_host(described, cores=os.cpu_count() or 1, ram_bytes=ram):
        warn(warning)


@contextlib.contextmanager
def means(settings: Settings, described: Spec, github: GitHub, bar: Bar, warn: Warn) -> Iterator[Means]:
    """What `ghvm run` works with; the token of `github` is revoked at the end."""
    process.allow_descriptors(_DESCRIPTORS)
    state = config.state_directory(settings)
    state.mkdir(parents=True, exist_ok=True, mode=0o700)
    choose, engine = (
        _firecracker(settings, described) if described.engine == "firecracker" else _qemu(settings, described)
    )
    with contextlib.ExitStack() as stack:
        stack.enter_context(github)
        server = stack.enter_context(ImageServer(settings.images_server))
        store = ImageStore(stack.enter_context(_images_directory(settings)), trust=trust(settings))
        yield Means(
            github=github,
            images=CachedImages(store, server, settings, bar, warn),
            accelerator=choose,
            engine=engine,
            connect=_connect(settings, described),
            collect=lambda: _drop(collect_garbage(settings, github)),
            newest_runner=lambda: newest_runner(github),
        )


def firecracker_programs(settings: Settings, arch: Arch) -> Programs:
    """Firecracker and its jailer. Raises UsageError and PermanentError if they cannot be used here."""
    host.check(arch)
    wanted = programs.Wanted(
        settings.firecracker,
        settings.jailer,
        settings.firecracker_sha256,
        settings.jailer_sha256,
        allow_old=settings.firecracker_allow_old,
    )
    return programs.find(wanted)


Choose = Callable[[Identity], Accelerator]
MakeEngine = Callable[[Identity], Engine]


def _qemu(settings: Settings, described: Spec) -> tuple[Choose, MakeEngine]:
    arch, state = described.arch, config.state_directory(settings)
    binary = version.find(arch, state / f"qemu-{arch}.json")

    def choose(identity: Identity) -> Accelerator:
        kvm = settings.accel != "tcg" and accelerator.kvm_works(binary, arch, identity, state / "kvm.json")
        return accelerator.choose(settings.accel, arch, kvm=kvm, allow_emulation=settings.allow_emulation)

    return choose, lambda identity: QemuEngine(binary, identity)


def _firecracker(settings: Settings, described: Spec) -> tuple[Choose, MakeEngine]:
    found = firecracker_programs(settings, described.arch)

    def engine(identity: Identity) -> Engine:
        assert identity.uid is not None  # noqa: S101 only root comes here, and gets one for each machine
        return FirecrackerEngine(found, identity.uid)

    return lambda _identity: "kvm", engine


def collect_garbage(settings: Settings, github: GitHub | None) -> Iterator[Collected]:
    """Remove what dead runs left; registrations only in the scope of `github`."""

    def client(record: RunnerRecord) -> GitHub | None:
        ours = github is not None and (github.api_url, str(github.scope)) == (record.api_url, record.scope)
        return github if ours else None

    sweep(config.state_directory(settings))
    if os.geteuid() == 0:
        with contextlib.suppress(GhvmError, OSError):  # no nftables, or busy: the next run, or the next gc, tries again
            uplink.sweep(host_directory(settings))
    sockets = config.runtime_directories(settings)
    return collect(runs_directory(settings), sockets, client, bury=history(settings).keep)


class CachedImages:
    """Images from a server through the cache on this host."""

    def __init__(self, store: ImageStore, server: ImageServer, settings: Settings, bar: Bar, warn: Warn) -> None:
        self._store = store
        self._server = server
        self._settings = settings
        self._bar = bar
        self._warn = warn

    def fetch(self, name: str, cancelled: Callable[[], bool], accept: Callable[[Manifest], object]) -> str:
        """The latest commit, pulled if needed; if it cannot be reached, written or trusted, the newest cached one."""
        try:
            with Meter(self._bar, f"pulling {name}") as meter:
                pulled = pull(self._store, self._server, name, progress=meter.show, cancelled=cancelled, accept=accept)
                return pulled.commit
        except (ImageServerUnreachable, CacheNotWritable, ImageUntrusted) as error:
            cached = self._store.newest(name)
            if cached is None or self._settings.require_latest:
                raise
            self._warn(f"{error.brief}: going on with the newest image in the cache, {cached[:12]}")
            return cached

    @contextlib.contextmanager
    def lease(self, commit: str, name: str) -> Iterator[LeasedImage]:
        """See lifecycle.plan.Images. No older image is taken from now on."""
        with self._store.lease(commit, name) as image:
            self._store.trust.remember(name, image.signature)
            yield image

    def newer(
        self, running: LeasedImage, cancelled: Callable[[], bool], accept: Callable[[Manifest], object]
    ) -> str | None:
        """See lifecycle.plan.Images."""
        return newer(self._server, self._store, running, cancelled=cancelled, accept=accept)

    def tidy(self) -> None:
        """Remove old commits that nobody uses."""
        with contextlib.suppress(CacheNotWritable):  # then others look after this cache
            prune(self._store, self._settings.images_keep)


@contextlib.contextmanager
def _images_directory(settings: Settings) -> Iterator[Path]:
    if not settings.no_cache:
        yield config.images_directory(settings)
        return
    with runs.scratch(runs_directory(settings), "images") as directory:
        yield directory / "images"


def _drop(collected: Iterator[Collected]) -> None:
    for _ in collected:
        continue
