"""What goes from the cache and what stays, by the rules and on the command line."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st

from ghrunner_vm.cli import cli
from ghrunner_vm.errors import UsageError
from ghrunner_vm.images.prune import Rules, may_go
from ghrunner_vm.images.store import CachedImage, ImageStore
from ghrunner_vm.units import parse_duration
from tests.unit.test_images_store import put
from tests.unit.test_ledger import ALIVE, Host, record

HOUR = 3600.0


def cached(commit: str, name: str = "ubuntu", *, size: int = 10, age: float = 0.0, in_use: bool = False) -> CachedImage:
    return CachedImage(commit, name, size, age, in_use)


CACHE = [
    cached("d", age=1 * HOUR),
    cached("c", age=2 * HOUR, in_use=True),
    cached("x", "debian", age=3 * HOUR),
    cached("b", age=4 * HOUR),
    cached("a", age=5 * HOUR),
]


@pytest.mark.parametrize(
    ("rules", "gone"),
    [
        (Rules(), ""),
        (Rules(keep=1), "ba"),
        (Rules(keep=2), "ba"),
        (Rules(keep=3), "a"),
        (Rules(older_than=3 * HOUR), "xba"),
        (Rules(older_than=0), "dxba"),
        (Rules(max_size=50), ""),
        (Rules(max_size=49), "a"),
        (Rules(max_size=30), "ab"),
        (Rules(max_size=0), "abxd"),
        (Rules(everything=True), "dxba"),
        (Rules(keep=3, max_size=30), "ab"),
        (Rules(keep=3, older_than=3 * HOUR), "xba"),
    ],
)
def test_one_reason_is_enough_and_what_is_in_use_stays(rules: Rules, gone: str) -> None:
    assert "".join(image.commit for image in may_go(CACHE, rules)) == gone


@pytest.mark.parametrize(
    ("rules", "names", "gone"),
    [
        (Rules(max_size=40), ["debian"], "x"),
        (Rules(max_size=0), ["debian"], "x"),
        (Rules(max_size=50), ["ubuntu"], ""),
        (Rules(max_size=40), ["ubuntu"], "a"),
        (Rules(keep=1), ["debian"], ""),
        (Rules(keep=1), ["ubuntu", "debian"], "ba"),
    ],
)
def test_only_named_images_go_while_all_count(rules: Rules, names: list[str], gone: str) -> None:
    assert "".join(image.commit for image in may_go(CACHE, rules, names)) == gone


IMAGE = st.builds(cached, st.text(min_size=1), st.sampled_from("ab"), size=st.integers(0, 9), in_use=st.booleans())
IMAGES = st.lists(IMAGE, unique_by=lambda image: image.commit)


@given(IMAGES, st.none() | st.integers(1, 5), st.none() | st.integers(0, 50))
def test_after_a_prune_the_rules_hold(images: list[CachedImage], keep: int | None, max_size: int | None) -> None:
    going = may_go(images, Rules(keep=keep, max_size=max_size))
    assert not any(image.in_use for image in going)
    left = list(images)
    for image in going:
        left.remove(image)
    if max_size is not None and sum(image.size for image in left) > max_size:
        assert all(image.in_use for image in left)


def ghvm(directory: Path, *words: str) -> Result:
    return CliRunner().invoke(cli, ["images", *words, "--images-cache-dir", str(directory / "cache")])


@pytest.fixture
def cache(tmp_path: Path) -> ImageStore:
    store = ImageStore(tmp_path / "cache")
    for number, commit in enumerate(("1" * 40, "2" * 40, "3" * 40)):
        put(store, commit, completed=1000 + number)
    put(store, "2" * 40, "debian", completed=500)
    return store


def test_the_list_names_the_runs_that_use_an_image(cache: ImageStore, tmp_path: Path) -> None:
    host = Host(tmp_path)
    host.put(record("demo-0001", ALIVE, image="ubuntu", commit="3" * 40))
    words = ("list", "--state-dir", str(tmp_path))
    with cache.lease("3" * 40, "ubuntu"), cache.lease("1" * 40, "ubuntu"):
        listed = json.loads(ghvm(tmp_path, *words, "--json").stdout)
        text = ghvm(tmp_path, *words)
    assert listed["schema"] == 1
    seen = [(one["name"], one["commit"][0], one["in-use"], one["in-use-by"]) for one in listed["images"]]
    assert seen == [
        ("ubuntu", "3", True, ["demo-0001"]),
        ("ubuntu", "2", False, []),
        ("ubuntu", "1", True, []),
        ("debian", "2", False, []),
    ]
    lines = text.stdout.splitlines()
    assert lines[0].split() == ["IMAGE", "COMMIT", "SIZE", "AGE", "IN", "USE", "BY"]
    assert [line.split()[0] for line in lines[1:]] == ["ubuntu", "ubuntu", "ubuntu", "debian"]
    assert [" ".join(line.split()[6:]) for line in lines[1:]] == ["demo-0001", "-", "a run or a pull elsewhere", "-"]
    assert text.stderr.startswith("4 images, ")


def test_a_cache_that_is_not_there(tmp_path: Path) -> None:
    assert json.loads(ghvm(tmp_path, "list", "--json").stdout) == {"schema": 1, "images": []}
    dry = ghvm(tmp_path, "prune", "--dry-run", "--json")
    assert json.loads(dry.stdout) == {"schema": 1, "dry-run": True, "removed": []}
    assert not (tmp_path / "cache").exists()


def test_a_dry_run_tells_what_the_prune_then_does(cache: ImageStore, tmp_path: Path) -> None:
    dry = ghvm(tmp_path, "prune", "--dry-run")
    assert len(cache.images()) == 4
    done = ghvm(tmp_path, "prune")
    assert (dry.exit_code, done.exit_code) == (0, 0)
    assert dry.stdout.replace("would remove", "removed") == done.stdout
    assert done.stdout.startswith("removed ubuntu 111111111111 (")
    assert dry.stderr.startswith("would free ")
    assert dry.stderr.endswith(": 1 image\n")
    assert sorted(image.commit[0] for image in cache.images()) == ["2", "2", "3"]
    again = ghvm(tmp_path, "prune", "--json")
    assert json.loads(again.stdout) == {"schema": 1, "dry-run": False, "removed": []}
    assert again.stderr == "freeing 0 B: 0 images\n"


def test_a_bound_is_that_of_the_whole_cache(cache: ImageStore, tmp_path: Path) -> None:
    sizes = {(image.name, image.commit[0]): image.size for image in cache.images()}
    bound = str(sum(sizes.values()) - 1)
    assert ghvm(tmp_path, "prune", "debian", "--max-size", bound).exit_code == 0
    assert {(image.name, image.commit[0]) for image in cache.images()} == set(sizes) - {("debian", "2")}


def test_only_the_named_images_go(cache: ImageStore, tmp_path: Path) -> None:
    assert ghvm(tmp_path, "prune", "--all", "debian").exit_code == 0
    assert {image.name for image in cache.images()} == {"ubuntu"}
    unknown = ghvm(tmp_path, "prune", "ubunut")
    assert isinstance(unknown.exception, UsageError)
    assert unknown.exception.resolution == 'Did you mean "ubuntu"?'


@pytest.mark.parametrize("words", [["--older-than", "soon"], ["--max-size", "big"], ["--keep", "0"]])
def test_a_rule_that_is_none_removes_nothing(cache: ImageStore, tmp_path: Path, words: list[str]) -> None:
    assert ghvm(tmp_path, "prune", *words).exit_code != 0
    assert len(cache.images()) == 4


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("30m", 1800), ("12h", 43_200), ("7d", 604_800), (" 2w ", 1_209_600)]
)
def test_ages_as_people_write_them(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "7", "d", "-1d", "1.5h", "7days", "1e3s"])
def test_what_is_no_age(text: str) -> None:
    with pytest.raises(ValueError, match="is no time"):
        parse_duration(text)
