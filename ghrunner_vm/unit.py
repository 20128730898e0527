"""The systemd unit that keeps a runner on a host: `ghvm@NAME.service` runs /etc/ghvm/NAME.json again and again."""

from pathlib import Path

NAME = "ghvm@.service"
DIRECTORY = Path("/etc/systemd/system")
SETTINGS = Path("/etc/ghvm")
STOP_HOURS = 121
"""Longer than any job may take: GitHub ends each after five days. ghvm's own timers end it in time."""

_UNIT = f"""\
# Runs the virtual machines of {SETTINGS}/NAME.json, one after another, for ghvm@NAME.service.
# Written by `ghvm systemd`; what a host needs otherwise belongs into a drop-in: systemctl edit {NAME}
[Unit]
Description=GitHub Actions runner %i, a fresh virtual machine for each job
Wants=network-online.target
After=network-online.target time-sync.target
# A night without network must not end the runner: ghvm itself waits longer and longer after failed starts.
StartLimitIntervalSec=0

[Service]
Type=notify
NotifyAccess=main
ExecStart=@executable@ run --back-off {SETTINGS}/%i.json
@credential@
@identity@
# A run takes one job. What only a person can mend is not tried again: 2 (usage), 5 (permanent), and what systemd itself
# ends with if the file of a credential is missing (243, systemd.exec(5)).
Restart=always
RestartSec=1
RestartPreventExitStatus=2 5 243
SuccessExitStatus=124

# A stop drains: only ghvm is told, and it has the time to finish its job.
KillMode=mixed
TimeoutStopSec={STOP_HOURS}h
WatchdogSec=5min
OOMPolicy=continue

StateDirectory=ghvm
CacheDirectory=ghvm
RuntimeDirectory=ghvm
RuntimeDirectoryPreserve=yes
UMask=0077
LimitCORE=0

NoNewPrivileges=yes
CapabilityBoundingSet=@capabilities@
ProtectSystem=strict
ProtectHome=tmpfs
PrivateTmp=yes
DevicePolicy=closed
@devices@
# Each guest's network namespace is told to route, below /proc/sys/net.
ProtectKernelTunables=no
ProtectKernelModules=yes
ProtectKernelLogs=yes
ProtectControlGroups=yes
ProtectClock=yes
ProtectHostname=yes
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK
RestrictNamespaces=@namespaces@
RestrictRealtime=yes
RestrictSUIDSGID=yes
LockPersonality=yes
SystemCallArchitectures=native
# QEMU's own filter needs seccomp(2), and its view of the files mount(2), or else Landlock.
SystemCallFilter=@system-service @mount seccomp landlock_create_ruleset landlock_add_rule landlock_restrict_self
# A program that tries what is not listed is refused, and can do without it; else it would be killed.
SystemCallErrorNumber=EPERM

[Install]
WantedBy=multi-user.target
"""

# To give each machine a user of its own, to end it, and to see which files a dead run's machine holds; and to give each
# guest a network and each VMM its own view of the files.
_ROOT_CAPABILITIES = (
    "CAP_SETUID CAP_SETGID CAP_SETPCAP CAP_KILL CAP_SYS_PTRACE "
    "CAP_SYS_ADMIN CAP_NET_ADMIN CAP_NET_RAW CAP_NET_BIND_SERVICE"
)
_NAMESPACES = "net mnt ipc uts"
_DEVICES = ("/dev/kvm rw", "/dev/net/tun rw")
# The jailer makes a jail with device files of its own (m), changes the root, and gives it to the machine's user.
_JAILERS_CAPABILITIES = " CAP_SYS_CHROOT CAP_MKNOD CAP_CHOWN CAP_DAC_OVERRIDE CAP_FOWNER"
_JAILERS_NAMESPACES = " pid"
_JAILERS_DEVICES = ("/dev/kvm rwm", "/dev/net/tun rwm", "/dev/urandom rwm", "/dev/userfaultfd rwm")
_ROOT_IDENTITY = "# As root: each machine gets a user id of its own, which has nothing."
_USER_IDENTITY = """\
# Without root: all machines run as this user.
User={user}
SupplementaryGroups=kvm
Environment=GHVM_STATE_DIR=/var/lib/ghvm GHVM_IMAGES_CACHE_DIR=/var/cache/ghvm/images"""

_KEY = f"""\
LoadCredential=github-private-key:{SETTINGS}/app.pem
Environment=GHVM_GITHUB_PRIVATE_KEY=%d/github-private-key"""
_TOKEN = f"LoadCredential=github-token:{SETTINGS}/token"


def unit(executable: Path, user: str | None = None, *, token: bool = False, firecracker: bool = False) -> str:
    """The text of the unit (systemd.service(5), systemd 252 or newer). Without `user` ghvm runs as root.

    It is a GitHub App, or with `token` whoever the token in a file stands for. `firecracker`: its jailer can be used.
    """
    text = _UNIT.replace("@executable@", str(executable))
    text = text.replace("@credential@", _TOKEN if token else _KEY)
    text = text.replace("@identity@", _ROOT_IDENTITY if user is None else _USER_IDENTITY.format(user=user))
    capabilities = "" if user is not None else _ROOT_CAPABILITIES + firecracker * _JAILERS_CAPABILITIES
    namespaces = f"user {_NAMESPACES}" if user is not None else _NAMESPACES + firecracker * _JAILERS_NAMESPACES
    devices = "\n".join(f"DeviceAllow={device}" for device in (_JAILERS_DEVICES if firecracker else _DEVICES))
    text = text.replace("@namespaces@", namespaces).replace("@devices@", devices)
    return text.replace("@capabilities@", capabilities)
