"""The rules of an exit: their syntax, the first match, special addresses, and the odd forms of hosts."""

from __future__ import annotations

import ipaddress
import socket
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunnel.errors import BadArgument, TargetNotAllowed
from tunnel.established import Target, TargetKind
from tunnel.routing.addresses import special_block, unmapped
from tunnel.services.exit_rules import ExitRule, ExitRules, target_host

PUBLIC = "93.184.216.34"


def allows(rules: list[str], host: str, port: int = 80, *, name: str | None = None) -> bool:
    address = unmapped(host)
    return ExitRules(rules).allow(name, address, port, special_block(address))


# -- syntax ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "name", "addresses", "ports"),
    [
        ("allow *", None, None, [range(1, 65_536)]),
        ("allow * 80", None, None, [range(80, 81)]),
        ("allow  192.0.2.0/24  80,443", None, "192.0.2.0/24", [range(80, 81), range(443, 444)]),
        ("allow 192.0.2.7", None, "192.0.2.7/32", [range(1, 65_536)]),
        ("allow 2001:db8::/32 8000-8999,1", None, "2001:db8::/32", [range(8000, 9000), range(1, 2)]),
        ("allow ::1", None, "::1/128", [range(1, 65_536)]),
        ("allow 0.0.0.0/0", None, "0.0.0.0/0", [range(1, 65_536)]),
        ("allow *.Example.ORG. 1-65535", ".example.org", None, [range(1, 65_536)]),
        ("allow example.org", "example.org", None, [range(1, 65_536)]),
        ("allow _sip.xn--bcher-kva.example", "_sip.xn--bcher-kva.example", None, [range(1, 65_536)]),
        ("allow db", "db", None, [range(1, 65_536)]),
        ("allow 3com.example", "3com.example", None, [range(1, 65_536)]),
    ],
)
def test_a_rule_from_its_text(text: str, name: str | None, addresses: str | None, ports: list[range]) -> None:
    range_of = None if addresses is None else ipaddress.ip_network(addresses)
    assert ExitRule.parse(text) == ExitRule(True, name, range_of, tuple(ports))
    denied = ExitRule.parse(text.replace("allow", "deny"))
    assert not denied.is_allow
    assert denied.addresses == range_of


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "it has 0 words"),
        ("allow", "it has 1 words"),
        ("allow * 80 443", "it has 4 words"),
        ("* 80", "it begins with '*', expected 'allow' or 'deny'"),
        ("ALLOW *", "it begins with 'ALLOW'"),
        ("accept *", "it begins with 'accept'"),
        ("allow * 0", "the ports '0': expected 1 to 65535"),
        ("allow * 65536", "the ports '65536'"),
        ("allow * 90-80", "the ports '90-80'"),
        ("allow * 80,", "the ports ''"),
        ("allow * -80", "the ports '-80'"),
        ("allow * *", "the ports '*'"),
        ("allow * http", "the ports 'http'"),
        ("allow * ٨٠", "the ports"),
        (
            "allow 10.0.0.1/8",
            "has bits after its prefix, expected 10.0.0.0/8, or the address 10.0.0.1 alone",
        ),
        ("allow fd00::1/8", "has bits after its prefix, expected fd00::/8"),
        ("allow 10.0.0.0/33", "the host '10.0.0.0/33': expected addresses"),
        ("allow 10.0.0.0/255.0.0.0", "expected addresses"),
        ("allow 10.0.0.0/", "expected addresses"),
        ("allow [::1]", "without brackets"),
        ("allow [::1]:80", "without brackets"),
        ("allow 127.0.0.1:80", "the ports after a space"),
        ("allow example.org:80", "the ports after a space"),
        ("allow fe80::1%eth0", "expected addresses"),
        ("allow ::ffff:10.0.0.0/104", "represents IPv4 addresses"),
        ("allow 127.1", "it ends in a number"),
        ("allow 0177.0.0.1", "it ends in a number"),
        ("allow 0x7f000001", "it ends in a number"),
        ("allow 2130706433", "it ends in a number"),
        ("allow *example.org", "expected '*', a name, '*.' and a name, or a range"),
        ("allow *.*.org", "expected '*'"),
        ("allow example.*", "expected '*'"),
        ("allow *.", "expected '*'"),
        ("allow .example.org", "letters, digits"),
        ("allow a..b", "letters, digits"),
        ("allow " + "a" * 64 + ".org", "1 to 63"),
        ("allow " + "a." * 130 + "org", "expected at most 253"),
        ("allow bücher.example", "expected its form in the domain name system"),
        ("allow a\0b", "letters, digits"),
    ],
)
def test_a_malformed_rule_is_named_with_the_expected_form(text: str, words: str) -> None:
    with pytest.raises(BadArgument) as caught:
        ExitRules(["deny *", text])
    assert str(caught.value).startswith(f"exit rule {text!r}: ")
    assert words in str(caught.value)


@pytest.mark.parametrize("rules", ["allow *", [b"allow *"], [None], [("allow", "*")]])
def test_rules_are_a_list_of_texts(rules: Any) -> None:
    with pytest.raises(TypeError, match="exit rule"):
        ExitRules(rules)


@given(text=st.text(max_size=40) | st.from_regex(r"(allow|deny) [a-z0-9.:/*%\[\]-]{1,24}( [0-9,-]{1,9})?"))
def test_each_text_is_a_rule_or_a_bad_argument(text: str) -> None:
    try:
        rule = ExitRule.parse(text)
    except BadArgument:
        return
    assert rule.ports
    assert rule.name is None or rule.addresses is None


# -- matching --------------------------------------------------------------------------------------------


def test_nothing_is_allowed_without_a_rule() -> None:
    assert not allows([], PUBLIC)
    assert not ExitRules([]).may_allow("example.org", 80)
    assert not allows(["allow 8.8.8.0/24"], PUBLIC)


@pytest.mark.parametrize(
    ("rules", "expected"),
    [
        (["allow *"], True),
        (["deny *", "allow *"], False),
        (["allow *", "deny *"], True),
        (["allow * 443"], False),
        (["allow * 443,80"], True),
        (["allow * 79-81"], True),
        (["deny * 1-79", "allow *"], True),
        (["deny 93.184.0.0/16", "allow *"], False),
        (["deny 93.184.216.34", "allow *"], False),
        (["deny 2000::/3", "allow *"], True),
        (["allow 0.0.0.0/0"], True),
        (["allow ::/0"], False),
        (["allow www.example.org"], True),
        (["allow *.example.org"], True),
        (["allow *.org"], True),
        (["allow example.org"], False),
        (["allow *.www.example.org"], False),
        (["allow *.ample.org"], False),
        (["deny *.example.org", "allow *"], False),
        (["deny other.org", "allow www.example.org 80"], True),
    ],
)
def test_the_first_rule_that_matches_decides(rules: list[str], expected: bool) -> None:
    assert allows(rules, PUBLIC, name="www.example.org") is expected


def test_a_rule_by_name_does_not_match_an_address() -> None:
    assert not allows(["allow *.example.org"], PUBLIC)
    assert allows(["deny *.example.org", "allow *"], PUBLIC)


@pytest.mark.parametrize(
    ("rules", "expected"),
    [
        (["allow *"], True),
        (["allow * 443"], False),
        (["deny *", "allow *"], False),
        (["deny example.org", "allow *"], False),
        (["allow example.org"], True),
        (["allow *.example.org"], False),
        (["allow 10.0.0.0/8"], True),
        (["deny 0.0.0.0/0", "allow *"], True),
        (["deny *", "allow 10.0.0.0/8"], False),
    ],
)
def test_a_name_that_cannot_be_allowed_need_not_be_looked_up(rules: list[str], expected: bool) -> None:
    assert ExitRules(rules).may_allow("example.org", 80) is expected


# -- special addresses -----------------------------------------------------------------------------------

# An address, and a range in its block that opens it.
SPECIAL = {
    "0.0.0.0": "0.0.0.0",
    "0.1.2.3": "0.0.0.0/8",
    "10.1.2.3": "10.1.0.0/16",
    "100.64.0.1": "100.64.0.0/10",
    "100.127.255.255": "100.64.0.0/10",
    "127.0.0.1": "127.0.0.0/8",
    "127.8.9.10": "127.8.9.10",
    "169.254.169.254": "169.254.169.254/32",
    "172.31.255.255": "172.16.0.0/12",
    "192.0.0.9": "192.0.0.0/24",
    "192.0.0.170": "192.0.0.0/24",
    "192.0.2.1": "192.0.2.0/24",
    "192.88.99.1": "192.88.99.0/24",
    "192.168.1.1": "192.168.0.0/16",
    "198.19.255.255": "198.18.0.0/15",
    "198.51.100.1": "198.51.100.0/24",
    "203.0.113.1": "203.0.113.0/24",
    "224.0.0.1": "224.0.0.0/4",
    "240.0.0.1": "240.0.0.0/4",
    "255.255.255.255": "255.255.255.255",
    "::": "::/128",
    "::1": "::1",
    "::7f00:1": "::/96",
    "::ffff:127.0.0.1": "127.0.0.0/8",
    "::ffff:10.1.2.3": "10.0.0.0/8",
    "::ffff:0:7f00:1": "::/3",
    "64:ff9b::7f00:1": "64:ff9b::/96",
    "64:ff9b::808:808": "64:ff9b::/96",
    "64:ff9b:1::a00:1": "64:ff9b:1::/48",
    "100::1": "100::/64",
    "2001:0:4136:e378:8000:63bf:3fff:fdd2": "2001::/32",
    "2001:2::1": "2001::/23",
    "2001:db8::1": "2001:db8::/32",
    "2002:7f00:1::": "2002::/16",
    "2002:808:808::1": "2002::/16",
    "3fff::1": "3fff::/20",
    "4000::1": "4000::/2",
    "fc00::1": "fc00::/7",
    "fd12:3456::1": "fd12:3456::/32",
    "fe80::1": "fe80::/10",
    "fec0::1": "fec0::/10",
    "ff02::1": "ff00::/8",
}
WIDE = ["allow *", "allow 0.0.0.0/0", "allow ::/0", "allow 0.0.0.0/1", "allow 128.0.0.0/1", "allow 2000::/3"]


@pytest.mark.parametrize(("host", "opened_by"), SPECIAL.items())
def test_a_special_address_is_refused_unless_a_rule_names_it(host: str, opened_by: str) -> None:
    by_name = ["allow *.example.org", "allow inside.example.org"]
    assert not allows(WIDE, host)
    assert not allows([*by_name, *WIDE], host, name="inside.example.org")
    for others in SPECIAL.values():
        if unmapped(host) not in ipaddress.ip_network(others):
            assert not allows([f"allow {others}", *WIDE], host)
    named = [*WIDE, f"allow {opened_by} 80"]
    assert allows(named, host)
    assert allows([*by_name, *named], host, name="inside.example.org")
    assert not allows(named, host, 81)
    assert not allows(["deny *", *named], host)
    assert not allows(["deny *.example.org", *named], host, name="inside.example.org")


@pytest.mark.parametrize("wide", ["10.0.0.0/7", "126.0.0.0/7", "192.0.0.0/8", "fc00::/6", "2000::/3"])
def test_a_range_that_is_wider_than_the_block_does_not_name_it(wide: str) -> None:
    for host in SPECIAL:
        assert not allows([f"allow {wide}"], host)


# -- forms of hosts --------------------------------------------------------------------------------------


def host_of(domain: str) -> Any:
    return target_host(Target(TargetKind.DOMAIN, domain.encode(), 80))


@pytest.mark.parametrize(
    ("domain", "host"),
    [
        ("example.org", "example.org"),
        ("EXAMPLE.Org.", "example.org"),
        ("localhost", "localhost"),
        ("_dmarc.example.org", "_dmarc.example.org"),
        ("xn--bcher-kva.example", "xn--bcher-kva.example"),
        ("1.2.3.4.example", "1.2.3.4.example"),
        ("3com", "3com"),
        ("0xg", "0xg"),
        ("127.0.0.1", ipaddress.ip_address("127.0.0.1")),
        ("127.0.0.1.", ipaddress.ip_address("127.0.0.1")),
        ("8.8.8.8", ipaddress.ip_address("8.8.8.8")),
        ("a" * 63 + ".org", "a" * 63 + ".org"),
        ("a." * 126 + "b.", "a." * 126 + "b"),
    ],
)
def test_the_host_of_a_domain(domain: str, host: Any) -> None:
    assert host_of(domain) == host


NUMBERS = [
    "0x7f000001",
    "0X7F000001",
    "017700000001",
    "2130706433",
    "127.1",
    "127.0.1",
    "127.1.",
    "0177.0.0.1",
    "0x7f.0.0.1",
    "127.0.0.0x1",
    "127.0.0.01",
    "010.8.8.8",
    "0",
    "0x",
    "00000000",
    "1.2.3.4.5",
    "256.256.256.256",
    "example.1",
    "example.0x1f",
]


@pytest.mark.parametrize(
    "domain",
    [*NUMBERS, "127.0.0.1..", "a..b", ".", "..", ".example.org", "example.org..", "a" * 64, "a." * 127 + "a"],
)
def test_other_forms_of_addresses_and_malformed_names_are_refused(domain: str) -> None:
    with pytest.raises(TargetNotAllowed) as refused:
        host_of(domain)
    assert repr(domain) not in str(refused.value), "the target would be logged"


@pytest.mark.parametrize("domain", ["[::1]", "::1", "a\0b", "a b", "bücher", "a%b", "127.0.0.1\n", "a/b", ""])
def test_a_target_cannot_hold_other_characters(domain: str) -> None:
    with pytest.raises(Exception, match="letters, digits"):
        host_of(domain)


@given(number=st.integers(0, 2**32 - 1), data=st.data())
def test_text_that_the_resolver_reads_as_an_address_becomes_that_address_or_is_refused(
    number: int, data: st.DataObject
) -> None:
    """Each textual form of an address that `inet_aton` knows is that address, or refused."""
    count = data.draw(st.integers(1, 4), label="parts")
    parts = [number >> 24 - 8 * index & 255 for index in range(count - 1)]
    parts.append(number & (1 << 8 * (5 - count)) - 1)
    forms = st.sampled_from(["{}", "0{:o}", "0x{:x}", "0X{:X}", "00{:o}"])
    text = ".".join(data.draw(forms).format(part) for part in parts)
    assert socket.inet_aton(text) == number.to_bytes(4, "big")
    text += data.draw(st.sampled_from(["", "."]))
    try:
        host = host_of(text)
    except TargetNotAllowed:
        return
    assert host == ipaddress.IPv4Address(number)


def test_a_mapped_address_is_the_ipv4_address() -> None:
    target = Target(TargetKind.IPV6, ipaddress.ip_address("::ffff:127.0.0.1").packed, 80)
    assert target_host(target) == ipaddress.ip_address("127.0.0.1")
