"""What names let a guest reach, and what is learnt of those that it used."""

import asyncio
import tomllib
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from ghrunner_vm.egress import Egress, parse
from ghrunner_vm.errors import InfrastructureError, UsageError
from ghrunner_vm.lifecycle import learning
from ghrunner_vm.network.names import Names, learnt

FIRST, SECOND, INSIDE = map(IPv4Address, ("203.0.113.10", "203.0.113.11", "10.1.2.3"))


class Filter:
    """What was loaded into the packet filter; it may refuse more than one element at a time, or all."""

    def __init__(self, *, most: int = 100) -> None:
        self.loaded: list[str] = []
        self.most = most

    def load(self, text: str) -> None:
        if text.count("add element") > self.most:
            raise InfrastructureError("nft failed")
        self.loaded += text.splitlines()


def listed(*allow: str) -> Egress:
    return Egress("listed", parse(allow))


def answered(names: Names, name: str, *addresses: IPv4Address) -> None:
    asyncio.run(names.answered(name, [(address, 60) for address in addresses]))


@pytest.mark.parametrize(
    ("name", "permitted"),
    [
        ("github.com", True),
        ("GitHub.com", True),
        ("api.github.com", False),
        ("evilgithub.com", False),
        ("a.example.org", True),
        ("a.b.example.org", True),
        ("example.org", False),
        (".example.org", False),
        ("", False),
    ],
)
def test_which_names_may_be_asked_for(name: str, permitted: bool) -> None:
    names = Names(listed("github.com:443", "*.example.org"), Filter().load)
    assert names.permits(name) is permitted
    assert Names(Egress(), Filter().load).permits(name)


def test_an_answer_opens_its_addresses_once_and_at_the_ports_of_the_name() -> None:
    filter_ = Filter()
    names = Names(listed("github.com:443", "github.com:8000-8010", "other.com"), filter_.load)
    for _ in range(2):
        answered(names, "github.com", FIRST, SECOND)
    answered(names, "nobody.com", FIRST)
    opened = [line.partition("{ ")[2].split(",")[0] for line in filter_.loaded]
    assert sorted(opened) == [
        f"{address} . tcp . {ports}" for address in (FIRST, SECOND) for ports in ("443-443", "8000-8010")
    ]


def test_a_name_never_opens_a_private_address() -> None:
    filter_ = Filter()
    answered(Names(listed("rebound.com"), filter_.load), "rebound.com", INSIDE, IPv4Address("169.254.169.254"))
    assert filter_.loaded == []


def test_what_the_kernel_refuses_keeps_nothing_else_closed() -> None:
    """Ports that overlap with those of another name make it refuse a whole load."""
    filter_ = Filter(most=1)
    names = Names(listed("github.com"), filter_.load)
    answered(names, "github.com", FIRST, SECOND)
    assert len(filter_.loaded) == 2
    shut = Filter(most=0)
    names = Names(listed("github.com"), shut.load)
    answered(names, "github.com", FIRST)
    shut.most = 1
    answered(names, "github.com", FIRST)
    assert shut.loaded == [], "a guest cannot have it tried again and again"


def test_in_the_open_internet_nothing_is_loaded_and_names_are_known_all_the_same() -> None:
    filter_ = Filter()
    names = Names(Egress(), filter_.load)
    answered(names, "First.Example", FIRST)
    answered(names, "later.example", FIRST)
    assert filter_.loaded == []
    assert learnt([(FIRST, 443), (FIRST, 80), (SECOND, 22), (FIRST, 443)], names.known) == [
        "203.0.113.11:22",
        "first.example:443",
        "first.example:80",
    ]


def test_a_guest_writes_no_entries_of_its_own_choice() -> None:
    """What it asks for may be any bytes, and somebody's zone answers them."""
    names = Names(Egress(), Filter().load)
    for number, name in enumerate(('x","0.0.0.0/0","y.evil.com', "*.amazonaws.com", r"a\010b.evil.com", "10.0.0.1")):
        answered(names, name, IPv4Address(f"203.0.113.{number}"))
    assert names.known == {}


def test_a_list_grows_with_each_run(tmp_path: Path) -> None:
    file = tmp_path / "jobs.toml"
    learning.add(file, "demo", ["github.com:443"], [])
    learning.add(file, "demo", ["10.1.2.3:80", "github.com:443"], ["tcp 169.254.169.254:80"])
    text = file.read_text()
    assert tomllib.loads(text) == {"egress": "listed", "egress-allow": ["10.1.2.3:80", "github.com:443"]}
    assert "# refused: tcp 169.254.169.254:80\n" in text


@pytest.mark.parametrize("content", ["egress-allow = 3", "egress-allow = ['; drop']", "= =", "\udcff", "x" * (2 << 20)])
def test_another_file_is_left_alone(tmp_path: Path, content: str) -> None:
    file = tmp_path / "other.toml"
    file.write_text(content, encoding="utf-8", errors="surrogateescape")
    with pytest.raises(UsageError, match="no list that ghvm has learnt"):
        learning.add(file, "demo", ["github.com:443"], [])
    assert file.read_text(encoding="utf-8", errors="surrogateescape") == content
