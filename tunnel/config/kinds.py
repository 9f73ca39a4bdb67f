"""Kinds of setting values, each with a description for people and its checks.

`expected` describes valid values. `check` converts a TOML value to the value that the program uses; `read`
converts the text of an environment variable to a TOML value. Both raise ValueError, and the caller adds
file, key and `expected` to the message; a BadArgument has a complete text of its own. `show` writes a default
as TOML. Unlike in Python, a `bool` never counts as an integer.
"""

from __future__ import annotations

import ipaddress
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from tunnel.arguments import MOST_PORT, plain_name
from tunnel.errors import BadArgument, LocalTunnelError
from tunnel.established import Target
from tunnel.front.entrance import EntrancePlace
from tunnel.front.targets import parse_destination
from tunnel.identity.descriptor import Address
from tunnel.routing.addresses import IpRange, is_private_range
from tunnel.services.exit_rules import ExitRule
from tunnel.services.names import checked_name

__all__ = [
    "Choice",
    "ClientKeyId",
    "Destination",
    "ExitRuleText",
    "FilePath",
    "FilesClients",
    "FilesRight",
    "HostPort",
    "Integer",
    "ListOf",
    "ListenPlace",
    "NetworkId",
    "Number",
    "Place",
    "PrivateRange",
    "ServiceName",
    "SettingKind",
    "Size",
    "Switch",
    "Text",
    "parse_size",
    "show",
    "write_toml",
]

_NONE = "none"
_EVERYBODY, _SECRET = "everybody", "secret"
_LOCALHOST = "127.0.0.1"


_SIZE = re.compile(r"(\d{1,20})\s*([a-zA-Z]*)", re.ASCII)
_UNITS = {"": 1, "b": 1}
for _power, _letter in enumerate("kmgt", start=1):
    _UNITS |= {_letter: 1024**_power, f"{_letter}ib": 1024**_power, f"{_letter}b": 1000**_power}


def parse_size(text: str) -> int:
    """Bytes of "17", "10k", "300KiB", "1GB". Case does not matter; only KB, MB, … count in thousands.

    Raises:
        ValueError: not a size.
    """
    match = _SIZE.fullmatch(text.strip())
    if match is None or match[2].lower() not in _UNITS:
        raise ValueError(f"not a size: {text!r}")
    return int(match[1]) * _UNITS[match[2].lower()]


class SettingKind(Protocol):
    """A kind of value; see the module's docstring."""

    @property
    def expected(self) -> str:
        """Description of valid values, for people."""

    def check(self, value: Any) -> Any:
        """The value as the program uses it. Raises ValueError: invalid."""

    def read(self, text: str) -> Any:
        """The TOML value of an environment variable's text. Raises ValueError: invalid."""


class _AsWritten:
    """A kind whose TOML values are text: the environment has them unchanged."""

    __slots__ = ()

    def read(self, text: str) -> str:
        return text


@dataclass(frozen=True, slots=True)
class Integer:
    """A whole number in a range; with `or_empty` also None, from empty text."""

    least: int
    most: int
    or_empty: bool = False

    @property
    def expected(self) -> str:
        more = ", or empty" if self.or_empty else ""
        return f"a whole number, {self.least:,} to {self.most:,}{more}"

    def check(self, value: Any) -> int | None:
        if self.or_empty and value == "":
            return None
        if type(value) is not int or not self.least <= value <= self.most:
            raise ValueError
        return value

    def read(self, text: str) -> int:
        return int(text)


@dataclass(frozen=True, slots=True)
class Size:
    """A number of bytes in a range, or text with a unit as in `parse_size`."""

    least: int
    most: int

    @property
    def expected(self) -> str:
        return f'a whole number, {self.least:,} to {self.most:,}, or text as "10k", "64MiB" or "1GB"'

    def check(self, value: Any) -> int:
        if isinstance(value, str):
            value = parse_size(value)
        if type(value) is not int or not self.least <= value <= self.most:
            raise ValueError
        return value

    def read(self, text: str) -> int:
        return parse_size(text)


@dataclass(frozen=True, slots=True)
class Number:
    """A number in a range; no NaN."""

    least: float
    most: float

    @property
    def expected(self) -> str:
        return f"a number, {self.least:g} to {self.most:,.0f}"

    def check(self, value: Any) -> float:
        if type(value) not in (int, float) or not self.least <= value <= self.most:
            raise ValueError
        return float(value)

    def read(self, text: str) -> float:
        return float(text)


@dataclass(frozen=True, slots=True)
class Switch:
    """Yes or no."""

    expected = "true or false"

    def check(self, value: Any) -> bool:
        if type(value) is not bool:
            raise ValueError
        return value

    def read(self, text: str) -> bool:
        if text.lower() not in ("true", "false"):
            raise ValueError
        return text.lower() == "true"


@dataclass(frozen=True, slots=True)
class Choice(_AsWritten):
    """One of a few names."""

    names: Mapping[str, Any]

    @property
    def expected(self) -> str:
        return "one of " + ", ".join(f'"{name}"' for name in self.names)

    def check(self, value: Any) -> Any:
        if not isinstance(value, str) or plain_name(value) not in self.names:
            raise ValueError
        return self.names[plain_name(value)]


@dataclass(frozen=True, slots=True)
class Text(_AsWritten):
    """Any text, such as a path. Args: or_empty: whether it may be empty."""

    what: str
    or_empty: bool = False

    @property
    def expected(self) -> str:
        return self.what + (", or empty" if self.or_empty else "")

    def check(self, value: Any) -> str:
        if not isinstance(value, str) or "\0" in value or not (value or self.or_empty):
            raise ValueError
        return value


@dataclass(frozen=True, slots=True)
class FilePath(_AsWritten):
    """The path of a file, or None, from empty text. A relative one begins at the configuration's folder."""

    expected = "a path, or empty"

    def check(self, value: Any) -> Path | None:
        text = Text("a path", or_empty=True).check(value)
        return Path(text) if text else None


def _host_and_port(value: Any, least_port: int) -> tuple[str, int]:
    """The parts of "host:port" or "[v6]:port". Raises ValueError."""
    if not isinstance(value, str):
        raise ValueError
    host, _, port = value.rpartition(":")
    is_v6 = host.startswith("[") and host.endswith("]")
    host = host[1:-1] if is_v6 else host
    is_text = bool(host) and all(sign.isprintable() and not sign.isspace() for sign in host)
    if not is_text or (":" in host) != is_v6 or not (port.isascii() and port.isdigit()):
        raise ValueError
    if not least_port <= int(port) <= MOST_PORT:
        raise ValueError
    return host, int(port)


@dataclass(frozen=True, slots=True)
class Place(_AsWritten):
    """An IP address and a port, as "127.0.0.1:4000" or "[::1]:4000"; with `or_none` also "none"."""

    or_none: bool = False
    least_port: int = 1

    @property
    def expected(self) -> str:
        more = ', or "none"' if self.or_none else ""
        zero = ", port 0 for any free port" if not self.least_port else ""
        return f'an IP address and a port, as "127.0.0.1:4000" or "[::1]:4000"{zero}{more}'

    def check(self, value: Any) -> Address | None:
        if self.or_none and value == _NONE:
            return None
        host, port = _host_and_port(value, self.least_port)
        return Address(str(ipaddress.ip_address(host)), port)


@dataclass(frozen=True, slots=True)
class ListenPlace(_AsWritten):
    """Where programs connect: "1080", "127.0.0.1:1080", "[::1]:0", or "/run/socks"."""

    expected = (
        'a port, as "1080", or an IP address and a port, as "127.0.0.1:1080" (0: any free port), or the path '
        'of a Unix socket, with "/"'
    )

    def check(self, value: Any) -> EntrancePlace:
        if isinstance(value, str) and "/" in value:
            return Path(Text("a path").check(value))
        is_port = isinstance(value, str) and value.isascii() and value.isdigit()
        host, port = _host_and_port(f"{_LOCALHOST}:{value}" if is_port else value, 0)
        return _LOCALHOST if host == "localhost" else str(ipaddress.ip_address(host)), port


@dataclass(frozen=True, slots=True)
class Destination(_AsWritten):
    """A node, and a service that it publishes or a target behind it as exit."""

    expected = 'NODE:SERVICE, as "node-7:ssh", or NODE/HOST:PORT, as "node-7/intranet:80"'

    def check(self, value: Any) -> tuple[str, Target]:
        """Raises BadArgument: text that names none."""
        if not isinstance(value, str):
            raise ValueError
        return parse_destination(value)


@dataclass(frozen=True, slots=True)
class HostPort(_AsWritten):
    """A host by name or address, and a port; with `or_empty` also None, from empty text."""

    or_empty: bool = False

    @property
    def expected(self) -> str:
        more = ", or empty" if self.or_empty else ""
        return f'a host and a port, as "example.org:4222" or "[::1]:4222"{more}'

    def check(self, value: Any) -> tuple[str, int] | None:
        return None if self.or_empty and value == "" else _host_and_port(value, 1)


@dataclass(frozen=True, slots=True)
class PrivateRange(_AsWritten):
    """A range of private addresses, as "10.8.0.0/16"."""

    @property
    def expected(self) -> str:
        return 'a range of private addresses, as "10.8.0.0/16" or "fd00::/8"'

    def check(self, value: Any) -> IpRange:
        if not isinstance(value, str):
            raise ValueError
        network = ipaddress.ip_network(value)
        if not is_private_range(network):
            raise ValueError
        return network


@dataclass(frozen=True, slots=True)
class ExitRuleText(_AsWritten):
    """A rule of an exit, as "allow * 80,443"."""

    @property
    def expected(self) -> str:
        return '"allow" or "deny", a host, and optionally ports, as "allow *.example.org 80,443"'

    def check(self, value: Any) -> str:
        """Raises BadArgument: text that is not a rule."""
        if not isinstance(value, str):
            raise ValueError
        ExitRule.parse(value)
        return value


def _id_of(value: Any, digits: int = 32) -> bytes:
    """The bytes of a number of hex digits."""
    if not isinstance(value, str) or len(value) != digits:
        raise ValueError
    return bytes.fromhex(value)


@dataclass(frozen=True, slots=True)
class ClientKeyId(_AsWritten):
    """The public key of a client, 32 bytes in hex."""

    expected = "64 hex digits, the public key of a client"

    def check(self, value: Any) -> bytes:
        """Raises BadArgument: text that is none, such as the name of its file."""
        try:
            return _id_of(value, 64)
        except ValueError as error:
            if not isinstance(value, str):
                raise
            raise BadArgument(
                f"{value!r} is not a public key: expected 64 hex digits",
                "give the key itself, not its file; `mtun keygen --client FILE` shows the key of an existing "
                "file too",
            ) from error


@dataclass(frozen=True, slots=True)
class FilesRight:
    """Who may do one thing with the files service."""

    most: int

    @property
    def expected(self) -> str:
        return (
            f'["everybody"], or a list of at most {self.most}, each "secret" or {ClientKeyId.expected}; '
            "[]: nobody"
        )

    def check(self, value: Any) -> FilesClients:
        """Raises BadArgument: something else as text in the list, such as the name of a key's file."""
        if value == [_EVERYBODY]:
            return FilesClients(None)
        if not isinstance(value, list) or len(value) > self.most:
            raise ValueError
        try:
            keys = frozenset(ClientKeyId().check(each) for each in value if each != _SECRET)
        except BadArgument as error:
            raise BadArgument(f"{error}; the complete setting is {self.expected}", error.hint) from error
        return FilesClients(keys, _SECRET in value)

    def read(self, text: str) -> list[str]:
        return [part.strip() for part in text.split(",") if part.strip()]


@dataclass(frozen=True, slots=True)
class FilesClients:
    """The clients of a `FilesRight`.

    Attributes:
        keys: public; None: everybody.
        with_secret: whether also those who know the secret.
    """

    keys: frozenset[bytes] | None
    with_secret: bool = False


@dataclass(frozen=True, slots=True)
class ServiceName(_AsWritten):
    """The name of a service."""

    expected = 'a name of 1 to 120 letters, digits, "-", "_" and "."; the first is not "."'

    def check(self, value: Any) -> str:
        if not isinstance(value, str):
            raise ValueError
        try:
            checked_name(value)
        except LocalTunnelError as error:
            raise ValueError from error
        return value


@dataclass(frozen=True, slots=True)
class NetworkId(_AsWritten):
    """The name of one network: "local", or 16 bytes in hex."""

    local: bytes

    @property
    def expected(self) -> str:
        return '"local", or 32 hex digits (the same for all nodes of one network)'

    def check(self, value: Any) -> bytes:
        if value == "local":
            return self.local
        return _id_of(value)


@dataclass(frozen=True, slots=True)
class Family(_AsWritten):
    """The family that the nodes of one owner share: 16 bytes in hex. Empty: None."""

    @property
    def expected(self) -> str:
        return "empty, or 32 hex digits (the same in all nodes of one owner)"

    def check(self, value: Any) -> bytes | None:
        if value == "":
            return None
        return _id_of(value)


@dataclass(frozen=True, slots=True)
class ListOf:
    """A list of values of one kind; in the environment `separator` separates them.

    With `or_empty`, empty text is accepted too and gives None. An empty list is then refused, because it
    could be mistaken for "no list".
    """

    item: SettingKind
    most: int
    separator: str = ","
    or_empty: bool = False

    @property
    def expected(self) -> str:
        if self.or_empty:
            return f'a list of 1 to {self.most}, each {self.item.expected}; or empty text, ""'
        return f"a list of at most {self.most}, each {self.item.expected}"

    def check(self, value: Any) -> tuple[Any, ...] | None:
        if self.or_empty and value == "":
            return None
        if not isinstance(value, list) or not self.or_empty <= len(value) <= self.most:
            raise ValueError
        return tuple(self.item.check(entry) for entry in value)

    def read(self, text: str) -> list[Any]:
        return [self.item.read(part.strip()) for part in text.split(self.separator) if part.strip()]


def show(value: Any) -> str:
    """A value in TOML syntax, which equals JSON for text, numbers, booleans and lists."""
    return json.dumps(value, ensure_ascii=False)


def write_toml(tables: Mapping[str, Mapping[str, Any]]) -> str:
    """A configuration file with these values, given as TOML represents them."""
    parts = []
    for table, entries in tables.items():
        parts.append(f"[{table}]\n" + "".join(f"{key} = {show(value)}\n" for key, value in entries.items()))
    return "\n".join(parts)
