"""What a guest may reach, as people write it."""

import re
from ipaddress import IPv4Network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ghrunner_vm import egress
from ghrunner_vm.egress import Egress, Entry, parse


@pytest.mark.parametrize(
    ("text", "entry"),
    [
        ("10.1.2.3", Entry(IPv4Network("10.1.2.3/32"))),
        ("10.1.0.0/16", Entry(IPv4Network("10.1.0.0/16"))),
        ("10.1.2.3:443", Entry(IPv4Network("10.1.2.3/32"), (443, 443))),
        ("10.1.0.0/16:8000-8010", Entry(IPv4Network("10.1.0.0/16"), (8000, 8010))),
        ("GitHub.com:443", Entry("github.com", (443, 443))),
        ("*.actions.githubusercontent.com", Entry("*.actions.githubusercontent.com")),
        ("mirror", Entry("mirror")),
    ],
)
def test_what_is_understood(text: str, entry: Entry) -> None:
    assert parse([text]) == (entry,)
    assert parse([str(entry)]) == (entry,)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("10.1.2.0/8", "host bits set"),
        ("10.1.2", "neither a network nor a name"),
        ("10.1.2.3.4", "neither"),
        ("256.1.1.1", "neither"),
        ("", "neither"),
        ("fd00::1", "no port"),
        ("10.1.2.3:", "no port"),
        ("10.1.2.3:0", "no port"),
        ("10.1.2.3:65536", "no port"),
        ("10.1.2.3:20-10", "no port"),
        ("10.1.2.3:http", "no port"),
        ("a..b", "neither"),
        ("*", "neither"),
        ("a.*.b", "neither"),
        ("x" * 64, "neither"),
        (".".join(["a" * 60] * 5), "neither"),
        ("a b", "neither"),
        ("; drop", "neither"),
        ("@nothing", "names no set: there is cache, mirror"),
    ],
)
def test_what_is_not(text: str, why: str) -> None:
    with pytest.raises(ValueError, match=re.escape(why)):
        parse([text], {"mirror": (), "cache": ()})


def test_sets_stand_for_what_is_in_them() -> None:
    sets = {"mirror": ("10.0.0.5:5000", "10.0.0.6:5000")}
    assert parse(["@mirror", "10.0.0.5:5000"], sets) == parse(["10.0.0.5:5000", "10.0.0.6:5000"])


@given(st.text(max_size=80))
def test_nothing_else_comes_out_of_any_text(text: str) -> None:
    """What is accepted goes into a packet filter's text."""
    try:
        (entry,) = parse([text])
    except ValueError:
        return
    assert re.fullmatch(r"[*a-z0-9._/-]+(:\d+(-\d+)?)?", str(entry))


@pytest.mark.parametrize(
    ("mode", "allow", "deny", "why"),
    [
        ("internet", ["10.0.2.2:80"], [], "10.0.2.2:80 is in 10.0.2.0/24, the guest's own network"),
        ("internet", [], ["github.com"], "github.com cannot be denied by name"),
        ("internet", ["10.1.2.3:443"], ["10.0.0.0/8"], "10.1.2.3:443 is both allowed and denied"),
        ("internet", ["10.1.2.3"], ["10.1.2.3"], "both"),
        ("listed", [], [], "nothing is listed"),
        ("internet", ["127.0.0.53:53"], [], "only 127.0.0.1 can be reached"),
    ],
)
def test_policies_that_contradict_themselves(mode: egress.Mode, allow: list[str], deny: list[str], why: str) -> None:
    with pytest.raises(ValueError, match=re.escape(why)):
        egress.check(Egress(mode, parse(allow), parse(deny)))


@pytest.mark.parametrize(
    ("mode", "allow", "deny"),
    [
        ("internet", [], []),
        ("internet", ["10.1.0.0/16"], ["10.1.2.3"]),
        ("internet", ["10.1.2.3"], ["10.1.2.3:22"]),
        ("listed", ["github.com:443"], []),
        ("listed", ["127.0.0.1:5000"], []),
    ],
)
def test_policies_that_can_be_kept(mode: egress.Mode, allow: list[str], deny: list[str]) -> None:
    egress.check(Egress(mode, parse(allow), parse(deny)))


def test_the_hosts_loopback_is_relayed_and_not_routed() -> None:
    policy = Egress(allow=parse(["127.0.0.1:5000", "127.0.0.0/8:80-90", "10.1.2.3", "github.com"]))
    assert policy.relayed == ((5000, 5000), (80, 90))
    assert [port for port in (79, 80, 90, 91, 5000) if policy.relays(port)] == [80, 90, 5000]
    holed = Egress(allow=parse(["127.0.0.0/8"]), deny=parse(["127.0.0.1:5432", "127.0.0.0/8:22"]))
    assert [port for port in (22, 80, 5432) if holed.relays(port)] == [80]
    assert [str(entry) for entry in policy.networks] == ["10.1.2.3"]
    assert [str(entry) for entry in policy.names] == ["github.com"]
