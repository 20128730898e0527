"""Settings: flags, then `GHVM_*` variables, then the user's and the system's config.toml, then defaults."""

import os
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Network, ip_address
from pathlib import Path
from typing import Annotated, Literal

import platformdirs
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, SecretStr, ValidationError

from ghrunner_vm.egress import FORMS as DESTINATION_FORMS
from ghrunner_vm.egress import Mode, parse
from ghrunner_vm.errors import UsageError
from ghrunner_vm.suggest import did_you_mean, first_fault
from ghrunner_vm.units import SIZE_FORMS, parse_size
from ghrunner_vm.urls import api_url, server_url

APP = "ghvm"
PREFIX = "GHVM_"
RUNNER_PREFIX = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,54}")
RUNNER_PREFIX_FORMS = "1 to 55 letters, digits, dots, underscores and hyphens, the first a letter or digit"
_IMAGE_KEY_FORMS = "public keys as ghvm images keygen prints them, ed25519:BASE64"
_SCOPES = ("github_org", "github_repo", "github_enterprise")
_SECRETS = ("github_token", "publish_token")
_PATHS = (
    *("github_private_key", "images_cache_dir", "state_dir", "metrics_textfile", "egress_learn"),
    *("firecracker", "jailer"),
)
_MAX_FILE = 1 << 20
_IMAGE_KEY = re.compile(r"ed25519:[A-Za-z0-9+/]{42}[AEIMQUYcgkosw048]=")  # 32 bytes in base64


def _matching(pattern: re.Pattern[str], forms: str) -> AfterValidator:
    def check(text: str) -> str:
        if not pattern.fullmatch(text):
            raise ValueError(f"must be {forms}")
        return text

    return AfterValidator(check)


def _no_bool(value: object) -> object:
    if isinstance(value, bool):
        raise ValueError("must be a whole number")  # noqa: TRY004 pydantic turns ValueError into a fault
    return value


def _expand(value: object) -> object:
    if isinstance(value, Path):
        value = str(value)
    if not isinstance(value, str):
        return value
    if not value or not value.isprintable() or value.startswith("-----BEGIN"):
        raise ValueError("must be a path")
    return Path(value).expanduser()


def _size(value: object) -> int:
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    if not isinstance(value, str):
        raise ValueError("must be a size")  # noqa: TRY004 pydantic turns ValueError into a fault
    return parse_size(value)


def _words(value: object) -> object:
    """One setting of several words: a list in a file, text with commas in a variable."""
    return tuple(value.replace(",", " ").split()) if isinstance(value, str) else value


def _destinations(values: tuple[str, ...]) -> tuple[str, ...]:
    for value in values:
        if not value.startswith("@"):
            parse([value])
    return values


def _addresses(values: tuple[str, ...]) -> tuple[str, ...]:
    for value in values:
        ip_address(value)
    return values


def _image_keys(values: tuple[str, ...]) -> tuple[str, ...]:
    for value in values:
        if not _IMAGE_KEY.fullmatch(value):
            raise ValueError(f"must be {_IMAGE_KEY_FORMS}")
    return values


Addresses = Annotated[tuple[str, ...], BeforeValidator(_words), AfterValidator(_addresses)]
ImageKeys = Annotated[tuple[str, ...], BeforeValidator(_words), AfterValidator(_image_keys)]
Destinations = Annotated[tuple[str, ...], BeforeValidator(_words), AfterValidator(_destinations)]
Whole = Annotated[int, BeforeValidator(_no_bool)]
AnyPath = Annotated[Path, BeforeValidator(_expand)]
Name = Annotated[str, _matching(re.compile(r"[A-Za-z0-9_-]{1,100}"), "letters, digits, hyphens and underscores")]
Repository = Annotated[
    str, _matching(re.compile(r"[A-Za-z0-9_-]{1,100}/(?!\.{1,2}$)[A-Za-z0-9._-]{1,100}"), "an OWNER/NAME")
]
Sha256 = Annotated[str, _matching(re.compile(r"[0-9a-f]{64}"), "64 hexadecimal digits, small letters")]
RunnerPrefix = Annotated[str, _matching(RUNNER_PREFIX, RUNNER_PREFIX_FORMS)]


class Settings(BaseModel):
    """What a person may set. A field `images_keep` is `images-keep` in a file and GHVM_IMAGES_KEEP in the environment.

    Each description says what is allowed; errors and `ghvm config show` repeat it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    github_client_id: str | None = Field(None, min_length=1, description="the App's client ID or its number, as text")
    github_private_key: AnyPath | None = Field(None, description="the path of the App's private key, a PEM file")
    github_org: Name | None = Field(None, description="an organization's name")
    github_repo: Repository | None = Field(None, description="a repository, as OWNER/NAME")
    github_enterprise: Name | None = Field(None, description="an enterprise's name as in its URL")
    github_api_url: Annotated[str, AfterValidator(api_url)] = Field(
        "https://api.github.com", description="an https URL; http for loopback only"
    )
    github_token: SecretStr | None = Field(None, min_length=1, description="a token, from GHVM_GITHUB_TOKEN only")
    runner_group_id: Whole = Field(1, ge=1, description="a runner group's number, 1 or more")
    images_server: Annotated[str, AfterValidator(server_url)] = Field(
        "https://gha-self-hosted-images.infra.rust-lang.org", description="an http or https URL"
    )
    images_cache_dir: AnyPath | None = Field(None, description="a directory")
    image_poll_seconds: Whole = Field(300, ge=0, le=86_400, description="seconds, 1 to 86400; 0: never")
    images_keep: Whole = Field(2, ge=1, description="how many versions of an image to keep, 1 or more")
    images_trusted_keys: ImageKeys = Field((), description=f"a list of {_IMAGE_KEY_FORMS}")
    runner_max_age_days: Whole = Field(30, ge=0, le=3650, description="days, 1 to 3650; 0: never refuse a runner")
    publish_token: SecretStr | None = Field(None, min_length=1, description="a token, from GHVM_PUBLISH_TOKEN only")
    no_cache: bool = Field(False, description="true or false")
    require_latest: bool = Field(False, description="true or false")
    no_shutdown_after_job: bool = Field(False, description="true or false")
    ssh_port: Whole | None = Field(None, ge=1, le=65535, description="a port, 1 to 65535")
    accel: Literal["auto", "kvm", "tcg"] = Field("auto", description="auto, kvm or tcg")
    allow_emulation: bool = Field(False, description="true or false")
    allow_host_loopback: bool = Field(False, description="true or false")
    network: Literal["namespace", "user", "none"] | None = Field(None, description="namespace, user or none")
    uplink: str | None = Field(None, min_length=1, max_length=15, description="the name of a network interface")
    network_pool: IPv4Network = Field(
        IPv4Network("198.18.0.0/16"), description="an IPv4 network of at least four addresses that is used nowhere here"
    )
    resolvers: Addresses = Field((), description="IPv4 or IPv6 addresses of name servers")
    egress: Mode = Field("internet", description="internet or listed")
    egress_allow: Destinations = Field((), description=f"a list, each {DESTINATION_FORMS}")
    egress_deny: Destinations = Field((), description=f"a list, each {DESTINATION_FORMS}")
    egress_learn: AnyPath | None = Field(None, description="the path of a file")
    egress_sets: dict[str, Destinations] = Field({}, description="a table of lists by name, in a file only")
    name: RunnerPrefix | None = Field(None, description=RUNNER_PREFIX_FORMS)
    log_format: Literal["text", "json"] = Field("text", description="text or json")
    state_dir: AnyPath | None = Field(None, description="a directory")
    metrics_textfile: AnyPath | None = Field(None, description="the path of a file NAME.prom")
    history_runs: Whole = Field(50, ge=0, le=10_000, description="finished runs to keep the records of; 0: none")
    history_size: Annotated[int, BeforeValidator(_size)] = Field(200 << 20, description=f"their room: {SIZE_FORMS}")
    memory_reserve: Annotated[int, BeforeValidator(_size)] = Field(
        512 << 20, description=f"memory that machines leave to the host: {SIZE_FORMS}"
    )
    memory_overcommit: float = Field(1.0, ge=0.01, le=100, description="how often it may be promised, 0.01 to 100")
    disk_overcommit: float = Field(1.0, ge=0.1, le=1000, description="how often free disk may be promised, 0.1 to 1000")
    vm_uid_base: Whole = Field(1_900_000_000, ge=100_000, le=4_000_000_000, description="a user id above 100000")
    vm_uid_count: Whole = Field(4096, ge=1, le=1_000_000, description="1 to 1000000")
    back_off: bool = Field(False, description="true or false")
    firecracker: AnyPath | None = Field(None, description="the path of firecracker; unset: it is on the PATH")
    jailer: AnyPath | None = Field(None, description="the path of its jailer; unset: it is on the PATH")
    firecracker_sha256: Sha256 | None = Field(None, description="the SHA-256 of firecracker, 64 hexadecimal digits")
    jailer_sha256: Sha256 | None = Field(None, description="the SHA-256 of the jailer, 64 hexadecimal digits")
    firecracker_allow_old: bool = Field(False, description="true or false")
    drain_seconds: Whole = Field(600, ge=0, le=432_000, description="seconds, 0 to 432000 (5 days)")
    poll_seconds: Whole = Field(60, ge=1, le=3600, description="seconds, 1 to 3600")

    def scope(self) -> str:
        """The one place the runner belongs to: `org:NAME`, `repo:OWNER/NAME` or `enterprise:NAME`.

        Raises UsageError unless exactly one is set.
        """
        given = [(name, value) for name in _SCOPES if (value := getattr(self, name)) is not None]
        flags = " or ".join(f"{_flag(name)} {_SCOPE_FORMS[name]}" for name in _SCOPES)
        if len(given) != 1:
            names = " and ".join(_flag(name) for name, _ in given)
            brief = f"{names} are both set" if given else "no organization, repository or enterprise is set"
            raise UsageError(brief, resolution=f"Give exactly one of {flags}.")
        name, value = given[0]
        return f"{name.removeprefix('github_')}:{value}"


_SCOPE_FORMS = {"github_org": "NAME", "github_repo": "OWNER/NAME", "github_enterprise": "NAME"}
_KEYS = {name.replace("_", "-"): name for name in Settings.model_fields}


@dataclass(frozen=True)
class Given:
    """A value as somebody wrote it, and where."""

    value: object
    origin: str


@dataclass(frozen=True)
class Loaded:
    """Settings, and where each came from by field name: a flag, a variable, a file's path, or `default`."""

    settings: Settings
    origins: Mapping[str, str]


def load(
    flags: Mapping[str, object], *, environ: Mapping[str, str] = os.environ, files: Sequence[Path] | None = None
) -> Settings:
    """The settings in force. Flags are by field name; None means not given, so a switch's default must be None.

    `files` are config files, the last one the strongest; missing ones are skipped. Raises UsageError.
    """
    return load_with_origins(flags, environ=environ, files=files).settings


def load_with_origins(
    flags: Mapping[str, object], *, environ: Mapping[str, str] = os.environ, files: Sequence[Path] | None = None
) -> Loaded:
    """As `load`, and tells where each value came from."""
    layers = [_from_file(path) for path in (default_files() if files is None else files)]
    layers += [_from_environment(environ), _from_flags(flags)]
    given = _merge(layers)
    settings = _validated(given)
    origins = {name: given[name].origin if name in given else "default" for name in Settings.model_fields}
    return Loaded(settings, origins)


def check_file(path: Path, content: bytes) -> None:
    """Raises UsageError if a config file `path` with this content could not be used."""
    _validated(_given(path, _parsed(path, content)))


def default_files() -> list[Path]:
    """The system's config.toml, then the user's, which is the stronger one."""
    directories = (platformdirs.site_config_path(APP), platformdirs.user_config_path(APP))
    return [directory / "config.toml" for directory in directories]


def images_directory(settings: Settings) -> Path:
    """Where images are cached: the setting, else /var/cache/ghvm/images as root, else under the user's cache."""
    if settings.images_cache_dir is not None:
        return settings.images_cache_dir
    cache = platformdirs.site_cache_path(APP) if _is_root() else platformdirs.user_cache_path(APP)
    return cache / "images"


def state_directory(settings: Settings) -> Path:
    """Where run directories live, on a disk that survives a reboot: the setting, else /var/lib/ghvm as root."""
    if settings.state_dir is not None:
        return settings.state_dir
    return Path("/var/lib") / APP if _is_root() else platformdirs.user_state_path(APP)


def runtime_directory(settings: Settings, *, environ: Mapping[str, str] = os.environ) -> Path:
    """Where sockets live: a short path, since a socket's path has 108 bytes; may vanish at a reboot."""
    if _is_root():
        return Path("/run") / APP
    session = environ.get("XDG_RUNTIME_DIR")
    return Path(session) / APP if session else state_directory(settings)


def runtime_directories(settings: Settings, *, environ: Mapping[str, str] = os.environ) -> list[Path]:
    """Where the sockets of this user's runs may be, our own place first: cron gives a run no XDG_RUNTIME_DIR."""
    own = runtime_directory(settings, environ=environ)
    if _is_root():
        return [own]
    login = Path(f"/run/user/{os.geteuid()}") / APP  # see pam_systemd(8)
    return list(dict.fromkeys((own, login, state_directory(settings))))


def _is_root() -> bool:
    return os.geteuid() == 0


def _merge(layers: Sequence[Mapping[str, Given]]) -> dict[str, Given]:
    """Later layers win. A layer that names a scope hides the scopes of all earlier ones, whatever their kind."""
    merged: dict[str, Given] = {}
    for layer in layers:
        if any(name in layer for name in _SCOPES):
            merged = {name: one for name, one in merged.items() if name not in _SCOPES}
        merged.update(layer)
    return merged


def _from_flags(flags: Mapping[str, object]) -> dict[str, Given]:
    if unknown := [name for name in flags if name not in Settings.model_fields or name in _SECRETS]:
        raise TypeError(f"not settings that a flag may carry: {unknown}")
    return {name: Given(value, f"flag {_flag(name)}") for name, value in flags.items() if value is not None}


def _from_environment(environ: Mapping[str, str]) -> dict[str, Given]:
    known = {_variable(name): name for name in Settings.model_fields}
    given: dict[str, Given] = {}
    for variable, value in environ.items():
        if not variable.startswith(PREFIX) or not value:
            continue
        if variable not in known:
            raise UsageError(f"environment: {variable} is no setting", resolution=did_you_mean(variable, known))
        given[known[variable]] = Given(value, f"environment {variable}")
    return given


def _validated(given: Mapping[str, Given]) -> Settings:
    try:
        return Settings.model_validate({name: one.value for name, one in given.items()})
    except ValidationError as error:
        raise _refused(error, given) from error


def _from_file(path: Path) -> dict[str, Given]:
    return _given(path, _read_toml(path))


def _given(path: Path, table: Mapping[str, object]) -> dict[str, Given]:
    given: dict[str, Given] = {}
    for key, value in table.items():
        name = _KEYS.get(key)
        if name is None:
            raise UsageError(
                f"{path}: unknown key {key!r}", resolution=did_you_mean(key.lower().replace("_", "-"), _KEYS)
            )
        if name in _SECRETS:
            resolution = f"Remove it from the file and set {_variable(name)} in the environment."
            raise UsageError(f"{path}: {key} is a secret, which is never read from a file", resolution=resolution)
        given[name] = Given(_beside(path, name, value), str(path))
    return given


def _beside(path: Path, name: str, value: object) -> object:
    """A file's relative paths mean files beside it, wherever ghvm was started."""
    if name in _PATHS and isinstance(value, str) and value:
        return path.absolute().parent / Path(value).expanduser()
    return value


def _read_toml(path: Path) -> dict[str, object]:
    try:
        with path.open("rb") as file:
            content = file.read(_MAX_FILE + 1)
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror}", resolution="Check the file's mode.") from error
    return _parsed(path, content)


def _parsed(path: Path, content: bytes) -> dict[str, object]:
    if len(content) > _MAX_FILE:
        raise UsageError(f"{path}: larger than 1 MiB", resolution="Check that this is ghvm's config.toml.")
    try:
        return tomllib.loads(content.decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: not TOML: {error}", resolution='Write lines such as github-org = "NAME".') from error


def _refused(error: ValidationError, given: Mapping[str, Given]) -> UsageError:
    fault = first_fault(error)
    name = fault.key.partition(".")[0]
    one = given[name]
    text = str(one.value)
    secret = name in _SECRETS or "PRIVATE KEY" in text or "@" in text
    shown = "" if secret else f" {text[:200]!r}"
    return UsageError(
        f"{one.origin}: {_key(name)}{shown} cannot be used",
        details=f"It {fault.why}.",
        resolution=f"Allowed: {Settings.model_fields[name].description}.",
    )


def _key(name: str) -> str:
    return name.replace("_", "-")


def _flag(name: str) -> str:
    return f"--{_key(name)}"


def _variable(name: str) -> str:
    return PREFIX + name.upper()
