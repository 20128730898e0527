"""The instance spec: what is accepted, and what an error says."""

import json
from pathlib import Path

import pytest

from ghrunner_vm import spec
from ghrunner_vm.errors import UsageError
from ghrunner_vm.spec import Spec, check_host

INSTANCES = Path(__file__).parents[2] / "instances"
DEMO: dict[str, object] = json.loads((INSTANCES / "demo.json").read_text())


def load(directory: Path, text: str) -> Spec:
    path = directory / "spec.json"
    path.write_text(text)
    return spec.load(path)


def demo(directory: Path, **changes: object) -> Spec:
    return load(directory, json.dumps({**DEMO, **{key.replace("_", "-"): value for key, value in changes.items()}}))


def error_text(error: UsageError) -> str:
    return f"{error.brief}\n{error.details}\n{error.resolution}"


@pytest.mark.parametrize("path", sorted(INSTANCES.glob("*.json")), ids=lambda path: path.stem)
def test_each_example_loads(path: Path) -> None:
    assert spec.load(path).label == path.stem


def test_the_demo_example() -> None:
    loaded = spec.load(INSTANCES / "demo.json")
    assert (loaded.image, loaded.arch, loaded.cpu_cores) == ("ghvm-demo", "x86_64", 1)
    assert (loaded.ram, loaded.root_disk) == (512 << 20, 1 << 30)
    assert (loaded.timeout_seconds, loaded.boot_timeout_seconds, loaded.idle_timeout_seconds) == (600, 120, None)
    assert (loaded.credential, loaded.engine, loaded.all_labels) == ("both", "qemu", ("demo",))


def test_what_a_firecracker_writes_may_be_in_memory(tmp_path: Path) -> None:
    """Which the host must have beside the machine's own."""
    on_disk = demo(tmp_path, engine="firecracker")
    assert (on_disk.memory, on_disk.disk) == (512 << 20, 1 << 30)
    in_memory = demo(tmp_path, engine="firecracker", root_disk_in="ram")
    assert (in_memory.memory, in_memory.disk) == ((512 << 20) + (1 << 30), 0)
    with pytest.raises(UsageError, match=r"asks for 1\.5 GiB of RAM"):
        check_host(in_memory, cores=4, ram_bytes=1 << 30)


def test_labels_are_the_label_and_the_others(tmp_path: Path) -> None:
    assert demo(tmp_path, labels=["linux", "x64"]).all_labels == ("demo", "linux", "x64")
    assert len(demo(tmp_path, labels=[f"l{n}" for n in range(99)]).all_labels) == 100


@pytest.mark.parametrize(
    ("key", "value", "allowed"),
    [
        ("ram", 512, '"512M"'),
        ("ram", "512", '"512M"'),
        ("ram", "0.5M", "whole number of MiB"),
        ("ram", "0G", "whole number of MiB"),
        ("root-disk", "10K", '"512M"'),
        ("cpu-cores", 0, "1 or more"),
        ("cpu-cores", True, "1 or more"),
        ("cpu-cores", "2", "1 or more"),
        ("timeout-seconds", 432_001, "5 days"),
        ("boot-timeout-seconds", 0, "1 to 86400"),
        ("arch", "arm64", "x86_64 or aarch64"),
        ("credential", "none", "url, direct or both"),
        ("engine", "xen", "qemu or firecracker"),
        ("root-disk-in", "ram", "ram on Firecracker"),
        ("root-disk-in", "tape", "disk, or ram"),
        ("image", "../etc", "letters, digits"),
        ("label", "a,b", "no comma"),
        ("label", "", "1 to 256"),
        ("labels", "linux", "a list"),
        ("labels", ["x", "X"], "none of them twice"),
        ("labels", ["DEMO"], "none of them twice"),
        ("labels", ["x" * 257], "at most 99"),
        ("labels", [f"l{n}" for n in range(100)], "at most 99"),
    ],
)
def test_a_fault_names_file_key_value_and_what_is_allowed(
    tmp_path: Path, key: str, value: object, allowed: str
) -> None:
    with pytest.raises(UsageError) as caught:
        load(tmp_path, json.dumps({**DEMO, key: value}))
    text = error_text(caught.value)
    assert str(tmp_path / "spec.json") in text
    assert f'"{key}"' in text
    assert json.dumps(value)[:200] in text
    assert allowed in text


def test_an_unknown_key_gets_the_nearest_right_one(tmp_path: Path) -> None:
    renamed = {("cpu_cores" if key == "cpu-cores" else key): value for key, value in DEMO.items()}
    with pytest.raises(UsageError) as caught:
        load(tmp_path, json.dumps(renamed))
    assert "'cpu_cores'" in caught.value.brief
    assert '"cpu-cores"' in str(caught.value.resolution)


def test_a_missing_key_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match='"ram" is missing'):
        load(tmp_path, json.dumps({key: value for key, value in DEMO.items() if key != "ram"}))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{\n "a": 1,\n}', "line 3, column 1"),
        ('{"a": 1, "a": 2}', "'a' is there twice"),
        ('{"ram": NaN}', "NaN"),
        ("[1]", "not a JSON object"),
        ("", "line 1, column 1"),
        ("[" * 100_000, "recursion"),
    ],
)
def test_text_that_is_no_spec(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(UsageError) as caught:
        load(tmp_path, text)
    assert said in error_text(caught.value)


def test_files_that_are_none(tmp_path: Path) -> None:
    (tmp_path / "latin").write_bytes(b'{"label": "\xe9"}')
    (tmp_path / "large").write_bytes(b" " * ((1 << 20) + 1))
    for name, said in (("", "not a file"), ("none", "No such file"), ("latin", "UTF-8"), ("large", "larger")):
        with pytest.raises(UsageError, match=said):
            spec.load(tmp_path / name)


def test_the_host_must_have_the_ram_and_should_have_the_cores(tmp_path: Path) -> None:
    wanted = demo(tmp_path, cpu_cores=4, ram="4G")
    assert check_host(wanted, cores=4, ram_bytes=4 << 30) is None
    assert "4 cores" in str(check_host(wanted, cores=2, ram_bytes=8 << 30))
    with pytest.raises(UsageError, match=r"4\.0 GiB"):
        check_host(wanted, cores=4, ram_bytes=(4 << 30) - 1)
