"""The exit service: connects sub-streams of established tunnels to TCP servers that its rules allow.

    service = Services({}, exit=Exit(["allow * 80,443"]))

The exit resolves a name once and checks each of its addresses. The allowed addresses race ("Happy Eyeballs").
There is no second look-up, because a name server could then give a different address that was not checked
(DNS rebinding).

The sub-stream is accepted when the target has answered. Otherwise it is refused with a code:

    TARGET_NOT_ALLOWED      the rules, or a malformed name
    TARGET_REFUSED          the target refused the connection
    TARGET_UNREACHABLE      no address for the name, or no route to it
    TIMEOUT                 no answer in time
    BUSY                    too many connections, or no descriptor left

Targets are never logged above DEBUG, because they show the activity of the tunnel's user.

Source: docs/services.md, "Exit".
"""

from __future__ import annotations

import errno
import ipaddress
import logging
import socket
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final, TypeAlias

from reactor import (
    Broken,
    Channel,
    ConnectError,
    Service,
    Signal,
    SocketStream,
    Spawn,
    TimedOut,
    timeout_after,
)
from reactor.core.threads import LookUp
from reactor.io.connecting import connect_addresses
from tunnel.arguments import check_fields, setting
from tunnel.errors import ErrorCode, PeerError, TableFull, TargetNotAllowed
from tunnel.established import SubStream, Target
from tunnel.identity.descriptor import Address
from tunnel.routing.addresses import IpAddress, special_block, unmapped
from tunnel.services.base import StreamService
from tunnel.services.exit_rules import ExitRules, target_host
from tunnel.services.published import target_error
from tunnel.services.splice import Splice

__all__ = [
    "HALF_OPEN_S",
    "MOST_ADDRESSES",
    "TUNNEL_LOOK_UPS",
    "Exit",
    "ExitSettings",
    "LookUpFunction",
    "is_of_this_machine",
    "look_up",
]

log = logging.getLogger("tunnel.services")

# "localhost" and all names below it mean this machine, whatever a name server says (RFC 6761, 6.3).
_LOCALHOST: Final = ("127.0.0.1", "::1")
# Documentation addresses.
_OF_NOBODY: Final[dict[int, IpAddress]] = {
    4: ipaddress.IPv4Address("192.0.2.1"),
    6: ipaddress.IPv6Address("2001:db8::1"),
}
MOST_ADDRESSES: Final = 8
"""Addresses of one family that are tried for one connection. A name server's answer can list thousands, and
the owner of the name could make the exit connect to all of them."""
TUNNEL_LOOK_UPS: Final = 8
"""Look-ups of one tunnel at the same time: half of those that the reactor runs. So slow name servers of one
user do not delay the users of other tunnels."""
HALF_OPEN_S: Final = 600.0
"""Idle limit of a connection that has ended in one direction: its server may still prepare the answer."""

LookUpFunction: TypeAlias = Callable[[str], Iterable[str]]
"""The numeric addresses of a name, the preferred one first. Raises OSError: none, or no name server answers.
Runs in a thread."""


@dataclass(frozen=True, slots=True)
class ExitSettings:
    """The limits of an exit.

    Raises:
        BadArgument, TypeError: a value out of range, or of a wrong type.
    """

    connections: int = setting(
        1_024,
        "Simultaneous connections, including those to targets that have not answered yet. One tunnel may "
        "have up to `[limits] sub_streams` of them.",
    )
    connect_s: float = setting(
        30.0, "Time limit for looking up a name and connecting to one of its addresses.", "s"
    )
    connection_idle_s: float = setting(
        3_600.0, "The exit ends a connection with TIMEOUT when no byte moves for this long.", "s"
    )
    bytes_per_s: int = setting(
        0, "Bytes per second of each connection, in each direction. 0: no limit.", "bytes"
    )

    def __post_init__(self) -> None:
        check_fields(self)


def look_up(name: str) -> list[str]:
    """The addresses of a name, as the system finds them: in its hosts file, or by its name servers."""
    # As bytes: Python would convert text to IDNA, and the name of a target is in that form already.
    found = socket.getaddrinfo(name.encode("ascii"), None, type=socket.SOCK_STREAM)
    return [str(entry[4][0]) for entry in found]


class Exit(StreamService):
    """Connects to the targets that its rules allow; none by default.

    One object serves all tunnels of a node, and counts their connections together.

    Args:
        rules: texts, in order; see `exit_rules.py`.
        settings: limits.
        look_up: replaces the system's look-up of names.
    Attributes:
        open_connections: now, including those being opened.
    Raises:
        BadArgument: not a rule; the text names it. TypeError: a wrong type.
    """

    def __init__(
        self,
        rules: Iterable[str] = (),
        settings: ExitSettings | None = None,
        *,
        look_up: LookUpFunction = look_up,
    ) -> None:
        self._rules = ExitRules(rules)
        self._settings = settings or ExitSettings()
        self._look_up = look_up
        self._look_ups: dict[bytes, Channel[None]] = {}  # under way, by tunnel
        self._own: frozenset[Address] = frozenset()
        self.open_connections = 0

    def avoid(self, own: Iterable[Address]) -> None:
        """Add addresses at which this exit's node, or a port for its programs, is reached.

        Their ports are refused on this machine, whatever the rules allow. The hosts count as addresses of
        this machine, even if a router translates them.
        """
        self._own |= frozenset(own)

    def serve(self, stream: SubStream[Signal]) -> Service[None]:
        """Connect to the target of a sub-stream, and join the two until both have ended.

        Raises:
            PeerError: refused or ended, with one of the codes above. TableFull: BUSY.
        """
        settings = self._settings
        if self.open_connections >= settings.connections:
            raise TableFull(f"{self.open_connections} connections, the limit of this exit")
        self.open_connections += 1
        try:
            with (yield from self._connect(stream)) as sock:
                stream.confirm()
                splice = Splice(
                    sock,
                    stream,
                    idle_s=settings.connection_idle_s,
                    half_open_s=HALF_OPEN_S,
                    bytes_per_s=settings.bytes_per_s or None,
                )
                yield from splice.run()
        finally:
            self.open_connections -= 1

    def _connect(self, stream: SubStream[Signal]) -> Service[SocketStream]:
        log.debug("connecting to %s", stream.target)
        reaching = self._reach(stream.target, stream.binding)
        try:
            return (yield from timeout_after(self._settings.connect_s, reaching))
        except (ConnectError, TimedOut) as error:
            raise target_error(error) from error
        except OSError as error:
            raise TableFull("no descriptor is left to check the target") from error

    def _reach(self, target: Target, tunnel: bytes) -> Service[SocketStream]:
        host, port = target_host(target), target.port
        if isinstance(host, str):
            name, found = host, (yield from self._find(host, port, tunnel))
        else:
            name, found = None, [host]
        allowed = [address for address in found if self._is_allowed(name, address, port)]
        if not allowed:
            raise TargetNotAllowed("the rules of this exit do not allow the target")
        return (yield from connect_addresses(list(map(str, _some_of_each_family(allowed))), port))

    def _find(self, name: str, port: int, tunnel: bytes) -> Service[list[IpAddress]]:
        """The addresses of a name.

        Raises:
            TargetNotAllowed: the rules allow none, whatever its addresses are: nothing is looked up.
            PeerError (TARGET_UNREACHABLE): it has none. TableFull: the system starts no more threads.
        """
        if not self._rules.may_allow(name, port):
            raise TargetNotAllowed("the rules of this exit do not allow the name")
        if name == "localhost" or name.endswith(".localhost"):
            return list(map(unmapped, _LOCALHOST))
        found = yield from self._look_up_in_turn(name, tunnel)
        if isinstance(found, Broken):
            raise TableFull("no thread is free for a look-up") from found
        if isinstance(found, OSError):
            raise PeerError("no address was found for the name", ErrorCode.TARGET_UNREACHABLE) from found
        return list(dict.fromkeys(map(unmapped, found)))

    def _look_up_in_turn(self, name: str, tunnel: bytes) -> Service[Iterable[str] | Broken | OSError]:
        """Look a name up when the tunnel has few look-ups under way; the others wait in order."""
        running = self._look_ups.setdefault(tunnel, Channel(TUNNEL_LOOK_UPS, "look-ups of a tunnel"))
        yield from running.send(None)

        def whole() -> Service[Iterable[str] | Broken | OSError]:
            try:
                found: Iterable[str] = yield LookUp(self._look_up, name)
                return found
            except (Broken, OSError) as error:
                return error  # its caller may be gone
            finally:
                running.receive_nowait()
                if not running:
                    del self._look_ups[tunnel]

        # A separate service: a thread cannot be interrupted, so a connection that is given up must not let
        # the tunnel occupy another one.
        looking = yield Spawn(whole(), "look-up")
        found: Iterable[str] | Broken | OSError = yield from looking.join()
        return found

    def _is_allowed(self, name: str | None, address: IpAddress, port: int) -> bool:
        is_own = (
            address.is_loopback
            or address.is_unspecified  # reaches loopback
            or any(address == unmapped(own.host) for own in self._own)
            or is_of_this_machine(address)
        )
        if is_own and any(port == own.port for own in self._own):
            return False
        block = special_block(address)
        if is_own and not address.is_loopback:
            # Many servers trust connections from their own machine: a rule must name the address alone.
            block = ipaddress.ip_network(address)
        return self._rules.allow(name, address, port, block)


def is_of_this_machine(address: IpAddress) -> bool:
    """Whether this machine has the address. Nothing is sent. Raises OSError: no descriptor is left."""
    # The system binds sockets only to its own addresses. With the option ip_nonlocal_bind it binds them to
    # any address: then only those of `avoid` are known.
    return _can_bind(address) and not _can_bind(_OF_NOBODY[address.version])


def _can_bind(address: IpAddress) -> bool:
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    try:
        probe = socket.socket(family, socket.SOCK_DGRAM)
    except OSError as error:
        if error.errno == errno.EAFNOSUPPORT:
            return False
        raise
    with probe:
        try:
            probe.bind((str(address), 0))
        except OSError as error:
            return error.errno != errno.EADDRNOTAVAIL
    return True


def _some_of_each_family(found: list[IpAddress]) -> list[IpAddress]:
    first = {
        version: [address for address in found if address.version == version][:MOST_ADDRESSES]
        for version in (4, 6)
    }
    return [address for address in found if address in first[address.version]]
