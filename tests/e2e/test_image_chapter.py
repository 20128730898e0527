"""The README's chapter on images: from an empty directory to a signed image with Docker inside that runs a job."""

import contextlib
import json
import os
import subprocess  # noqa: TID251 the test is a person at a shell
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ghrunner_vm.errors import ExitCode
from ghrunner_vm.images.manifest import Manifest
from ghrunner_vm.images.server import serve
from ghrunner_vm.simulator.server import Simulator
from tests.e2e import container
from tests.lab import Lab
from tests.world import PUBLIC, World, world

pytestmark = pytest.mark.timeout(900)  # the base may have to be made first

_BUILD_SECONDS = 300.0
_RUN_SECONDS = 240.0
# The stand-in for GitHub's runner needs these two of busybox's.
_STAND_IN = "RUN ln -s /bin/busybox /usr/local/bin/wget && ln -s /bin/busybox /usr/local/bin/nc\n"
_ENVIRONMENT = 'ENV GREETING="hello world"\nWORKDIR /srv\n'
_JOB = r"""
echo "greeting: $GREETING, in $(pwd -P)"
echo "who: $(id -un), $(sudo -n id -un)"
echo "disk: $(df --output=size -BG / | tail -1 | tr -d ' G')"
echo "failed: $(systemctl --failed --no-legend | wc -l)"
mkdir box && cp /bin/busybox box/ && tar -C box -c . | docker import - box >/dev/null
inside() { docker run --rm box /busybox "$@"; }
echo "network: $(docker network inspect -f '{{.Driver}}' bridge)"
echo "name: $(inside nslookup public.example | grep -c 203.0.113.10)"
echo "reached: $(inside wget -q -O - http://public.example/)"
"""


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    Path("/var/lib/ghvm").mkdir(exist_ok=True)
    with world(tmp_path_factory.mktemp("host")) as made:
        yield made


class Shell:
    """A person's shell in a directory, on the host of a small world."""

    def __init__(self, here: World, directory: Path) -> None:
        self._here = here
        self.directory = directory
        storage = directory / "storage.conf"
        places = f'graphroot = "{directory}/graph"\nrunroot = "{directory}/run"\n'
        storage.write_text(f'[storage]\ndriver = "vfs"\n{places}', encoding="utf-8")
        # The tests may run in a container themselves.
        self.environment = {"CONTAINERS_STORAGE_CONF": str(storage), "BUILDAH_ISOLATION": "chroot"}
        self._own = {"HOME": str(directory), "GHVM_IMAGES_CACHE_DIR": str(directory / "cache")}

    def ghvm(self, *words: str) -> str:
        """What a command prints; it must end well."""
        done = subprocess.run(
            [*self._here.on_host, sys.executable, "-m", "ghrunner_vm", *words],
            cwd=self.directory,
            capture_output=True,
            text=True,
            check=False,
            timeout=_BUILD_SECONDS,
            env={"PATH": os.environ["PATH"], **self._own, **self.environment},
        )
        assert done.returncode == 0, done.stderr
        return done.stdout


@pytest.fixture
def shell(here: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shell:
    made = Shell(here, tmp_path)
    for name, value in made.environment.items():
        monkeypatch.setenv(name, value)
    return made


def test_from_an_empty_directory_to_a_job_in_a_container(shell: Shell, here: World, kept: Path) -> None:
    home = shell.directory
    with contextlib.ExitStack() as stack:
        github = here.in_host(Simulator)
        here.in_host(github.__enter__)
        stack.push(github)
        key = home / "key.pem"
        key.touch(mode=0o600)
        key.write_text(github.private_key_pem, encoding="utf-8")
        scope = ("--github-org", "demo-org", "--github-api-url", github.url)
        credentials = ("--github-client-id", github.client_id, "--github-private-key", str(key))

        shell.ghvm("images", "init", "image", "--distribution", container.DISTRIBUTION)
        dockerfile = home / "image/Dockerfile"
        text = dockerfile.read_text(encoding="utf-8")
        (home / "empty").touch()
        container.offer(container.base(kept, text), text, home / "empty")
        dockerfile.write_text(text + _STAND_IN + _ENVIRONMENT, encoding="utf-8")

        shell.ghvm("images", "build", "image", "--name", "mine", "--size", "4G", *scope, *credentials)
        trusted = shell.ghvm("images", "keygen", "images.key").strip()
        shell.ghvm("images", "sign", "build/mine.json", "--key", "images.key")
        manifest = Manifest.parse((home / "build/mine.json").read_bytes())
        assert manifest.runner_version is not None
        assert "docker.io" in manifest.packages
        told = json.loads(shell.ghvm("images", "inspect", "build/mine.json", "--json"))
        assert told["name"] == "mine"

        serving = serve(home / "build", cache_dir=home / "compressed")
        service = here.in_host(serving.__enter__)
        stack.push(serving)
        service.wait_ready(_BUILD_SECONDS)
        (home / "tmp").mkdir()
        reach = ("--egress-allow", f"127.0.0.1:{github.port}", "--resolvers", "127.0.0.1")
        program = (*here.on_host, sys.executable, "-m", "ghrunner_vm")
        lab = Lab(home, "built", github, service.url, home / "cache", program, reach)
        job = lab.job(_JOB)
        machine = lab.run(
            *("--images-trusted-keys", trusted),
            image="mine",
            ram="1G",
            cpu_cores=2,
            root_disk="10G",
            timeout_seconds=200,
        )
        with machine as run:
            assert run.wait_exit(_RUN_SECONDS) == ExitCode.OK, run.transcript()
        said = dict(line.split(": ", 1) for line in lab.finished(job).log if ": " in line)
        assert lab.finished(job).conclusion == "success", lab.finished(job).log
        assert said == {
            "greeting": "hello world, in /opt/actions-runner/_work",
            "who": "runner, root",
            "disk": "10",
            "failed": "0",
            "network": "bridge",
            "name": "1",
            "reached": f"this is {PUBLIC}",
        }
        assert [*lab.leftovers(), *here.ours()] == []
