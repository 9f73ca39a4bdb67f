"""Hosts and ports as programs write them: the kind of target, and the sentence of each refusal."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunnel.errors import BadArgument
from tunnel.established import Target, TargetKind
from tunnel.front.targets import make_target, parse_destination, parse_target

LONG = ".".join(["a" * 63] * 3 + ["b" * 61])  # 253 characters
NAMES = ["a", "example.com", "Example.COM", "example.com.", "xn--bcher-kva.ch", "a_b.c-d", "1e100.net", LONG]


@pytest.mark.parametrize("name", [*NAMES, LONG + "."])
def test_names(name: str) -> None:
    assert make_target(name, 80) == Target(TargetKind.DOMAIN, name.encode(), 80)
    assert parse_target(f"{name}:80") == make_target(name, 80)


@given(st.ip_addresses(v=4), st.integers(1, 65_535))
def test_ipv4(address: ipaddress.IPv4Address, port: int) -> None:
    expected = Target(TargetKind.IPV4, address.packed, port)
    assert make_target(str(address), port) == parse_target(f"{address}:{port}") == expected


@given(st.ip_addresses(v=6), st.integers(1, 65_535))
def test_ipv6(address: ipaddress.IPv6Address, port: int) -> None:
    expected = Target(TargetKind.IPV6, address.packed, port)
    assert make_target(str(address), port) == parse_target(f"[{address}]:{port}") == expected


@pytest.mark.parametrize(
    "host",
    [
        "127.1",
        "0177.0.0.1",
        "0x7f.0.0.1",
        "0x7f000001",
        "0X7F000001",
        "2130706433",
        "127.0.0.1.",
        "0x",
        "a.1",
        "1.2.3.4.5",
        "256.0.0.1",
        "1.2.3.04",
        "example.0x10",
    ],
)
def test_other_spellings_of_addresses_are_refused(host: str) -> None:
    with pytest.raises(BadArgument, match="four decimal numbers"):
        make_target(host, 80)


@pytest.mark.parametrize(
    ("host", "reason"),
    [
        ("", "empty"),
        (".", "empty"),
        (".a", "dot"),
        ("a..b", "dot"),
        ("a..", "dot"),
        ("a\0b", "letters"),
        ("a b", "letters"),
        ("a\n", "letters"),
        ("user@host", "letters"),
        ("a/b", "letters"),
        ("bücher.ch", "xn--"),
        ("b\xfc", "xn--"),
        ("\u0661.\u0662", "xn--"),  # digits, but not ASCII
        ("a" * 64, "64 characters"),
        (LONG + "c", "254 characters"),
        ("a:b", "IPv6"),
        ("::g", "IPv6"),
        ("fe80::1%eth0", "zone"),
        ("[::1]", "IPv6"),
    ],
)
def test_refused_hosts(host: str, reason: str) -> None:
    with pytest.raises(BadArgument, match=reason):
        make_target(host, 80)


@pytest.mark.parametrize("host", ["secret.0x7", "secret host", "sécret", "secret" + "x" * 60, "fe80::5ec%t"])
def test_the_text_of_a_refusal_does_not_repeat_the_host(host: str) -> None:
    with pytest.raises(BadArgument) as caught:
        make_target(host, 80)
    assert not any(part in str(caught.value) for part in ("secret", "cret", "5ec"))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("example.com", "no port"),
        ("", "no port"),
        ("example.com:", "port"),
        ("example.com:+80", "port"),
        ("example.com: 80", "port"),
        ("example.com:80 ", "port"),
        ("example.com:http", "port"),
        ("example.com:\u0668\u0660", "port"),
        ("example.com:0", "port 0"),
        ("example.com:65536", "port 65536"),
        ("example.com:000080", "port"),
        ("::1:80", "brackets"),
        ("[::1]", "port"),
        ("[::1]80", "port"),
        ("[]:80", "IPv6"),
        ("[127.0.0.1]:80", "IPv6"),
        ("[fe80::1%25eth0]:80", "zone"),
        ("user@example.com:80", "letters"),
        ("user:pass@example.com:80", "brackets"),
        ("http://example.com:80", "brackets"),
        ("[::1]:80:80", "brackets"),
    ],
)
def test_refused_texts(text: str, reason: str) -> None:
    with pytest.raises(BadArgument, match=reason):
        parse_target(text)


@given(st.text(max_size=40))
def test_any_text_is_a_target_or_refused(text: str) -> None:
    try:
        target = parse_target(text)
    except BadArgument:
        return
    assert parse_target(str(target)) == target


@pytest.mark.parametrize(
    ("text", "node", "target"),
    [
        ("node-7:ssh", "node-7", Target(TargetKind.SERVICE, b"ssh")),
        ("node-7/a.test:80", "node-7", Target(TargetKind.DOMAIN, b"a.test", 80)),
        ("node-7/[::1]:80", "node-7", Target(TargetKind.IPV6, bytes(15) + b"\x01", 80)),
        ("node:7:ssh", "node:7", Target(TargetKind.SERVICE, b"ssh")),
    ],
)
def test_destinations(text: str, node: str, target: Target) -> None:
    assert parse_destination(text) == (node, target)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "no service"),
        ("node-7", "no service"),
        (":ssh", "no node"),
        ("/a.test:80", "no node"),
        ("node-7/a.test", "no port"),
        ("node-7/127.1:80", "IPv4"),
        ("node-7:", "not the name of a service"),
        ("node-7:.reverse", "not the name of a service"),
        ("node-7:a b", "not the name of a service"),
        ("node-7:\u00fc", "not the name of a service"),
        ("node-7:\udc80", "not the name of a service"),
        ("node-7:" + "a" * 256, "not the name of a service"),
    ],
)
def test_refused_destinations(text: str, reason: str) -> None:
    with pytest.raises(BadArgument, match=reason):
        parse_destination(text)
