"""The rules of an exit: the hosts and ports to which it connects for others. No sockets, no look-ups.

    rules = ["deny *.example.org", "allow 10.1.0.0/16 22", "allow * 80,443"]

A rule is `allow` or `deny`, then a host, then ports:

    *                   every host
    example.org         a name; *.example.org: all names below it, and not itself
    192.0.2.0/24        an address or a range of addresses, IPv4 or IPv6
    80,443,8000-8999    ports; omitted: all

The first matching rule decides; without a matching rule the target is refused. A rule with a name matches the
requested name, a rule with an address the address that the exit would dial. Each address of a name is
therefore checked separately, by rules of both kinds.

Special addresses (loopback, private and so on: `tunnel.routing.addresses`) have one more condition: an
`allow` rule matches them only if its range lies within their block, as 10.1.0.0/16 lies within 10.0.0.0/8.
Neither `*` nor a name nor 0.0.0.0/0 opens them. Otherwise anybody could point a name of his own at a machine
behind the exit's firewall.

Rule for changing this file: refuse every rule and target that is not fully understood. The system's resolver
reads "127.1", "0x7f000001" and "2130706433" as 127.0.0.1; no such text may reach it.

Source: docs/services.md, "Exit"; "ends in a number" as in the URL standard (WHATWG), section 3.5.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from tunnel.arguments import MOST_PORT
from tunnel.errors import BadArgument, TargetNotAllowed
from tunnel.established import Target, TargetKind
from tunnel.routing.addresses import IpAddress, IpRange, unmapped

__all__ = ["ExitRule", "ExitRules", "target_host"]

_MOST_NAME_BYTES: Final = 253
_LABEL: Final = re.compile(r"[a-z0-9_-]{1,63}")
# The system would take a name with this ending for an address: decimal, octal or hexadecimal.
_NUMBER: Final = re.compile(r"[0-9]+|0x[0-9a-f]*")
_MAPPED: Final = ipaddress.IPv6Network("::ffff:0:0/96")
_EXAMPLE: Final = '"allow *.example.org 80,443"'


@dataclass(frozen=True, slots=True)
class ExitRule:
    """One rule, from `parse`.

    Attributes:
        is_allow: whether the rule allows or denies the targets that it matches.
        name: the host is a name or, with a leading ".", any name below it; None: no name.
        addresses: the host is one of these addresses; None: no addresses. Both None: every host.
        ports: ranges of ports.
    """

    is_allow: bool
    name: str | None
    addresses: IpRange | None
    ports: tuple[range, ...]

    @classmethod
    def parse(cls, text: str) -> ExitRule:
        """A rule from its text.

        Raises:
            BadArgument: not a rule; the text has the rule, the fault and what was expected. TypeError: not
                text.
        """
        if not isinstance(text, str):
            raise TypeError(f"exit rule: expected text such as {_EXAMPLE}, got {text!r}")
        try:
            return cls._parse(text.split())
        except ValueError as error:
            raise BadArgument(f"exit rule {text!r}: {error}") from None

    @classmethod
    def _parse(cls, words: list[str]) -> ExitRule:
        if not 2 <= len(words) <= 3:
            raise ValueError(
                f"it has {len(words)} words, expected a verb, a host and perhaps ports: {_EXAMPLE}"
            )
        verb, host = words[:2]
        if verb not in ("allow", "deny"):
            raise ValueError(f"it begins with {verb!r}, expected 'allow' or 'deny'")
        ports = _parse_ports(words[2]) if len(words) == 3 else (range(1, MOST_PORT + 1),)
        name, addresses = _parse_host(host)
        return cls(verb == "allow", name, addresses, ports)

    def matches_port(self, port: int) -> bool:
        """Whether a port is among those of this rule."""
        return any(port in ports for ports in self.ports)

    def matches_name(self, name: str | None) -> bool:
        """Whether the host of this rule is every host, or the name that was asked for."""
        if self.name is None:
            return self.addresses is None
        if name is None:
            return False
        return name.endswith(self.name) if self.name.startswith(".") else name == self.name

    def matches(self, name: str | None, address: IpAddress) -> bool:
        """Whether the name or the address is the host of this rule."""
        return self.matches_name(name) if self.addresses is None else address in self.addresses

    def names(self, block: IpRange) -> bool:
        """Whether the addresses of this rule lie within `block`."""
        addresses = self.addresses
        if isinstance(addresses, ipaddress.IPv4Network):
            return isinstance(block, ipaddress.IPv4Network) and addresses.subnet_of(block)
        if isinstance(addresses, ipaddress.IPv6Network):
            return isinstance(block, ipaddress.IPv6Network) and addresses.subnet_of(block)
        return False


class ExitRules:
    """The rules of one exit, in order.

    Args:
        rules: texts, as in the example of this file; without rules nothing is allowed.
    Raises:
        BadArgument, TypeError: as `ExitRule.parse`.
    """

    def __init__(self, rules: Iterable[str]) -> None:
        if isinstance(rules, str):
            raise TypeError(f"exit rules: expected a list of texts such as {_EXAMPLE}, got {rules!r}")
        self._rules = tuple(map(ExitRule.parse, rules))

    def allow(self, name: str | None, address: IpAddress, port: int, block: IpRange | None) -> bool:
        """Whether a connection to `address` is allowed.

        Args:
            name: for which the address was found; None: the address itself was asked for.
            address: from `unmapped`.
            block: of special addresses that holds it; None: a public address.
        """
        for rule in self._rules:
            if not rule.matches_port(port) or not rule.matches(name, address):
                continue
            if block is None or not rule.is_allow or rule.names(block):
                return rule.is_allow
        return False

    def may_allow(self, name: str, port: int) -> bool:
        """Whether `allow` is true for some address of this name. If not, it need not be looked up."""
        for rule in self._rules:
            if not rule.matches_port(port):
                continue
            if rule.is_allow and rule.addresses is not None:
                return True
            if rule.matches_name(name):
                return rule.is_allow
        return False


def target_host(target: Target) -> str | IpAddress:
    """The host of a target: a name in lower case without a trailing dot, or an address.

    A domain that is an address as "192.0.2.1" counts as that address, because some clients send addresses so.

    Raises:
        TargetNotAllowed: a malformed name, or an address in another form.
    """
    if target.kind is not TargetKind.DOMAIN:
        return unmapped(str(ipaddress.ip_address(target.address)))
    text = target.address.decode("ascii").lower().removesuffix(".")
    try:
        return ipaddress.IPv4Address(text)
    except ValueError:
        pass
    if fault := _name_fault(text):
        raise TargetNotAllowed(f"the target is not a host name: {fault}")
    return text


def _name_fault(name: str) -> str:
    """The reason why `name`, in lower case, is not a host name; empty: it is one."""
    labels = name.split(".")
    if _NUMBER.fullmatch(labels[-1]):
        return "it ends in a number, as addresses do, and is not one of the form 192.0.2.1"
    if len(name) > _MOST_NAME_BYTES:
        return f"it has {len(name)} characters, expected at most {_MOST_NAME_BYTES}"
    if not all(map(_LABEL.fullmatch, labels)):
        return "expected parts of 1 to 63 letters, digits, '-' or '_' with dots between them"
    return ""


def _parse_host(host: str) -> tuple[str | None, IpRange | None]:
    """Name and addresses of a rule's host. Raises ValueError: neither."""
    if host == "*":
        return None, None
    if ":" in host or "/" in host:
        return None, _parse_range(host)
    try:
        return None, ipaddress.ip_network(host)
    except ValueError:
        pass
    if not host.isascii():
        raise ValueError(
            f"the name {host!r} is not ASCII, expected its form in the domain name system, xn--…"
        )
    name = host.lower().removesuffix(".")
    below = name.removeprefix("*.")
    if fault := _name_fault(below):
        raise ValueError(
            f"the host {host!r}: expected '*', a name, '*.' and a name, or a range such as 192.0.2.0/24; as "
            f"a name, {fault}"
        )
    return (name if below == name else f".{below}"), None


def _parse_range(text: str) -> IpRange:
    address, slash, prefix = text.partition("/")
    try:
        if "%" in text or (slash and not prefix.isdecimal()):
            raise ValueError
        found = ipaddress.ip_network(text, strict=False)
    except ValueError:
        raise ValueError(
            f"the host {text!r}: expected addresses such as 192.0.2.0/24, 2001:db8::/32 or ::1, without "
            "brackets, and the ports after a space"
        ) from None
    if ipaddress.ip_address(address) != found.network_address:
        raise ValueError(
            f"{text} has bits after its prefix, expected {found}, or the address {address} alone"
        )
    if isinstance(found, ipaddress.IPv6Network) and found.subnet_of(_MAPPED):
        raise ValueError(f"{text} represents IPv4 addresses: write these instead")
    return found


def _parse_ports(text: str) -> tuple[range, ...]:
    return tuple(map(_parse_port_range, text.split(",")))


def _parse_port_range(text: str) -> range:
    match = re.fullmatch(r"([0-9]{1,5})(?:-([0-9]{1,5}))?", text)
    if match is not None:
        first, last = int(match[1]), int(match[2] or match[1])
        if 1 <= first <= last <= MOST_PORT:
            return range(first, last + 1)
    raise ValueError(f"the ports {text!r}: expected 1 to {MOST_PORT}, as 80,443 or 8000-8999")
