"""Targets as programs write them: a host and a port, or `HOST:PORT`, checked before they enter a tunnel.

An IPv4 or IPv6 address becomes an address target, even if it was given as a name, so that the rules of an
exit see an address. Everything else must be a DNS name in ASCII. Other spellings of IPv4 addresses ("127.1",
"0x7f000001", "0177.0.0.1") are refused, because the resolver of the exit would read them as addresses. No
look-up happens here. The errors do not repeat the host, so that they can be logged.

Source: RFC 1035, section 2.3.4 (lengths); RFC 3986, section 3.2.2 (brackets); the rule about a numeric last
label is that of the WHATWG URL Standard, "ends in a number".
"""

from __future__ import annotations

import ipaddress
import re

from tunnel.arguments import MOST_PORT
from tunnel.errors import BadArgument, LocalTunnelError
from tunnel.established import Target, TargetKind

__all__ = ["make_target", "parse_destination", "parse_target"]

_MAX_NAME = 253  # without the dot of the root
_MAX_LABEL = 63
_LABEL = re.compile(r"[A-Za-z0-9_-]+")
_NUMBER = re.compile(r"[0-9]+|0[xX][0-9A-Fa-f]*")
_PORT = re.compile(r"[0-9]{1,5}")


def parse_target(text: str) -> Target:
    """The target of `name:port`, `1.2.3.4:port` or `[v6]:port`.

    Raises:
        BadArgument: anything else; the text gives the reason.
    """
    host, colon, port = text.rpartition(":")
    if not colon:
        raise BadArgument("no port: expected HOST:PORT")
    if not _PORT.fullmatch(port):
        raise BadArgument(f"expected a port, 1 to {MOST_PORT:,}, after the last colon")
    if host.startswith("[") and host.endswith("]"):
        return _address(TargetKind.IPV6, _ipv6(host[1:-1]), int(port))
    if ":" in host:
        raise BadArgument("write an IPv6 address in brackets: [ADDRESS]:PORT")
    return make_target(host, int(port))


def parse_destination(text: str) -> tuple[str, Target]:
    """The node and the target of `NODE:SERVICE` or `NODE/HOST:PORT`.

    Returns:
        The node as it was written, and a target of kind SERVICE, or one for that node as exit.
    Raises:
        BadArgument: anything else; the text gives the reason.
    """
    node, slash, place = text.partition("/")
    if slash:
        target = parse_target(place)
    else:
        node, colon, service = text.rpartition(":")
        if not colon:
            raise BadArgument("no service: expected NODE:SERVICE, or NODE/HOST:PORT through an exit")
        try:
            if service.startswith("."):
                raise BadArgument("names with a dot in front are of this library")
            target = Target(TargetKind.SERVICE, service.encode("ascii"))
        except (LocalTunnelError, UnicodeEncodeError) as error:
            raise BadArgument(f"{service!r} is not the name of a service") from error
    if not node:
        raise BadArgument("no node: expected NODE:SERVICE, or NODE/HOST:PORT through an exit")
    return node, target


def make_target(host: str, port: int) -> Target:
    """The target of a name, or of an address as text, without brackets.

    Raises:
        BadArgument: neither; or port 0. The text gives the reason.
    """
    if ":" in host:
        return _address(TargetKind.IPV6, _ipv6(host), port)
    if _ends_in_number(host):
        return _address(TargetKind.IPV4, _ipv4(host), port)
    if fault := _name_fault(host):
        raise BadArgument(f"invalid host: {fault}")
    return _address(TargetKind.DOMAIN, host.encode("ascii"), port)


def _address(kind: TargetKind, address: bytes, port: int) -> Target:
    if not 1 <= port <= MOST_PORT:
        raise BadArgument(f"port {port}: expected 1 to {MOST_PORT:,}")
    return Target(kind, address, port)


def _ipv4(host: str) -> bytes:
    try:
        return ipaddress.IPv4Address(host).packed
    except ValueError as error:
        raise BadArgument(
            "invalid host: its last part is a number, so it is an IPv4 address; write that "
            "with four decimal numbers, as 127.0.0.1"
        ) from error


def _ipv6(host: str) -> bytes:
    try:
        address = ipaddress.IPv6Address(host)
    except ValueError as error:
        raise BadArgument("invalid host: not an IPv6 address") from error
    if address.scope_id is not None:
        raise BadArgument("invalid host: a zone ('%') means nothing at the exit")
    return address.packed


def _ends_in_number(host: str) -> bool:
    last = host.removesuffix(".").rpartition(".")[2]
    return _NUMBER.fullmatch(last) is not None


def _name_fault(host: str) -> str:
    """The reason to refuse a name; empty: it is valid. A dot at its end denotes the root."""
    name = host.removesuffix(".")
    if not name:
        return "it is empty"
    if not name.isascii():
        return "it is not ASCII; write an international name in its form for the DNS, xn--…"
    if len(name) > _MAX_NAME:
        return f"it has {len(name)} characters, names have at most {_MAX_NAME}"
    for label in name.split("."):
        if not label:
            return "two dots have nothing between them, or it begins with a dot"
        if not _LABEL.fullmatch(label):
            return "expected letters, digits, '-', '_' and '.'"
        if len(label) > _MAX_LABEL:
            return f"a part of it has {len(label)} characters, at most {_MAX_LABEL} are allowed"
    return ""
