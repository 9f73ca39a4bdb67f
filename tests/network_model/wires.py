"""Connections in memory between the nodes of one reactor, and what can go wrong on the way.

`Wires.listen` and `Wires.connect_from` stand in for `TcpListener` and `connect_tcp` (`Node(listen=…,
connect=…)`). A connection is a `Wire` with two ends and a `Flow` for each direction. It behaves like TCP:
bytes arrive in order, the end after them; both ends break when it is cut.

A `Path` has what the wires between two hosts share: whether bytes are held, how long they travel, and whether
connections are refused or never answered. Faults of single bytes (`flipped`, `doubled`, `shortened`, `lost`)
meet the next write on one wire.
"""

from __future__ import annotations

import errno
import os
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, TypeAlias

from reactor import Broken, Closed, ConnectError, Reactor, Service, Signal
from tunnel.node.context import Connect

__all__ = [
    "Fault",
    "Flow",
    "MemoryListener",
    "MemorySocket",
    "Passage",
    "Path",
    "Wire",
    "Wires",
    "doubled",
    "flipped",
    "lost",
    "shortened",
]

# As much as the kernel usually buffers on both sides of a connection.
_CAPACITY_BYTES: Final = 256 * 1024
_FIRST_PORT: Final = 7000
_FIRST_CLIENT_PORT: Final = 40_000

Fault: TypeAlias = Callable[[bytes], bytes]
"""What arrives of one write."""


def flipped(at: int) -> Fault:
    """One bit is changed."""

    def change(data: bytes) -> bytes:
        changed = bytearray(data)
        changed[at // 8 % len(data)] ^= 1 << at % 8
        return bytes(changed)

    return change


def doubled(data: bytes) -> bytes:
    """The bytes come twice."""
    return data * 2


def shortened(data: bytes) -> bytes:
    """The second half does not come, what follows does."""
    return data[: len(data) // 2]


def lost(_: bytes) -> bytes:
    """Nothing of them comes, what follows does."""
    return b""


@dataclass(frozen=True, slots=True)
class Passage:
    """What an observer of a wire sees of one write.

    Attributes:
        source, target: hosts. at_s: on the reactor's clock. data: as sent, encrypted by the link.
    """

    source: str
    target: str
    at_s: float
    data: bytes


@dataclass
class Path:
    """The way between two hosts.

    Attributes:
        delay_s: time that bytes travel.
        is_held: nothing arrives until it is released; no end sees why.
        refuses: connections are refused. is_silent: they are never answered.
    """

    delay_s: float = 0.0
    is_held: bool = False
    refuses: bool = False
    is_silent: bool = False


@dataclass
class Flow:
    """One direction of a wire.

    Attributes:
        arrived: not read yet.
        travelling: pieces with their time of arrival; b"" is the end of the stream.
        fault: meets the next write.
    """

    arrived: bytearray = field(default_factory=bytearray)
    travelling: deque[tuple[float, bytes]] = field(default_factory=deque)
    has_ended: bool = False
    fault: Fault | None = None
    readable: Signal = field(default_factory=Signal)
    writable: Signal = field(default_factory=Signal)

    @property
    def room(self) -> int:
        return _CAPACITY_BYTES - len(self.arrived) - sum(len(data) for _, data in self.travelling)


class Wire:
    """A connection. `ends[0]` has dialled; `flows[i]` is what `ends[i]` sends."""

    def __init__(self, wires: Wires, hosts: tuple[str, str], ports: tuple[int, int]) -> None:
        self._wires = wires
        self._reactor = wires.reactor
        self.hosts = hosts
        self.path = wires.path(*hosts)
        self.is_cut = False
        self.flows = (Flow(), Flow())
        places = tuple(zip(hosts, ports, strict=True))
        self.ends = (MemorySocket(self, 0, places[1]), MemorySocket(self, 1, places[0]))

    def send(self, side: int, data: bytes) -> None:
        """Let bytes leave from an end; b"": its half ends."""
        flow = self.flows[side]
        if data:
            source, target = self.hosts[side], self.hosts[1 - side]
            self._wires.saw(Passage(source, target, self._reactor.now(), data))
            if flow.fault is not None:
                fault, flow.fault = flow.fault, None
                data = fault(data)
                if not data:
                    return
        before_s = flow.travelling[-1][0] if flow.travelling else 0.0
        flow.travelling.append((max(before_s, self._reactor.now() + self.path.delay_s), data))
        self.carry(side)

    def carry(self, side: int) -> None:
        """Let all that is due on one side arrive, and come back for the rest."""
        flow, now_s = self.flows[side], self._reactor.now()
        if self.path.is_held or self.is_cut:
            return
        while flow.travelling and flow.travelling[0][0] <= now_s:
            _, data = flow.travelling.popleft()
            flow.arrived += data
            flow.has_ended = not data
            flow.readable.set()
        if flow.travelling:
            self._reactor.timers.add(flow.travelling[0][0], self.carry, side)

    def cut(self) -> None:
        """Break the connection: both ends notice, and what was travelling is lost."""
        self.is_cut = True
        self.wake()
        self._wires.forget(self)

    def wake(self) -> None:
        """Let whoever waits on either end try again."""
        for flow in self.flows:
            flow.readable.set()
            flow.writable.set()

    def end_closed(self) -> None:
        """An end was closed; with both closed the wire is gone."""
        self.wake()
        if all(end.is_closed for end in self.ends):
            self._wires.forget(self)


class MemorySocket:
    """One end of a wire, as `tunnel.node.context.Connection` describes it.

    Attributes:
        peername: host and port of the other end. readable, writable: as those of a `SocketStream`.
    """

    def __init__(self, wire: Wire, side: int, peername: tuple[str, int]) -> None:
        self._wire = wire
        self._side = side
        self._in, self._out = wire.flows[1 - side], wire.flows[side]
        self.peername = peername
        self.readable, self.writable = self._in.readable, self._out.writable
        self.is_closed = False
        self._is_shut = False

    @property
    def drained(self) -> bool:
        """Whether a read would be refused now."""
        return not (self._in.arrived or self._in.has_ended or self._wire.is_cut)

    def readinto(self, buffer: bytearray | memoryview) -> int:
        """Read what has arrived. Raises BlockingIOError, Broken, Closed."""
        self._check()
        arrived = self._in.arrived
        if not arrived:
            if self._in.has_ended:
                return 0
            raise BlockingIOError("nothing has arrived")
        count = min(len(buffer), len(arrived))
        memoryview(buffer)[:count] = arrived[:count]
        del arrived[:count]
        self._in.writable.set()
        return count

    def write(self, data: bytes | bytearray | memoryview) -> int:
        """Send some bytes. Raises BlockingIOError, Broken, Closed."""
        self._check()
        # While the path is held nobody learns of the other end.
        if self._is_shut or (self._wire.ends[1 - self._side].is_closed and not self._wire.path.is_held):
            raise Broken("connection lost: Broken pipe")
        count = min(len(data), self._out.room)
        if not count and len(data):
            raise BlockingIOError("the wire is full")
        if count:
            self._wire.send(self._side, bytes(data[:count]))
        return count

    def shutdown_write(self) -> None:
        """End this half. Raises Broken, Closed."""
        self._check()
        if not self._is_shut:
            self._is_shut = True
            self._wire.send(self._side, b"")

    def close(self) -> None:
        """Close the connection; idempotent."""
        if self.is_closed:
            return
        if not self._is_shut and not self._wire.is_cut:
            self._wire.send(self._side, b"")
        self.is_closed = self._is_shut = True
        self._wire.end_closed()

    def _check(self) -> None:
        if self.is_closed:
            raise Closed("the stream is closed")
        if self._wire.is_cut:
            raise Broken("connection lost: Connection reset by peer")


class MemoryListener:
    """Accepts the wires to one host and port."""

    def __init__(self, wires: Wires, host: str, port: int) -> None:
        self._wires = wires
        self.address = (host, port)
        self.waiting: deque[MemorySocket] = deque()
        self.arrival = Signal()
        self.is_closed = False

    def accept(self) -> Service[MemorySocket]:
        """Wait for a connection. Raises Closed."""
        while not self.is_closed:
            if self.waiting:
                return self.waiting.popleft()
            yield self.arrival
        raise Closed(f"the listener at {self.address} is closed")

    def close(self) -> None:
        """Stop listening; idempotent."""
        if not self.is_closed:
            self.is_closed = True
            self._wires.ended(self)
            for socket in self.waiting:
                socket.close()
            self.arrival.set()


class Wires:
    """All connections between the hosts of one reactor.

    Attributes:
        live: the wires with an open end.
        observer: called with each passage; None: nobody looks.
    """

    def __init__(self, reactor: Reactor) -> None:
        self.reactor = reactor
        self.live: list[Wire] = []
        self.observer: Callable[[Passage], None] | None = None
        self._listeners: dict[tuple[str, int], MemoryListener] = {}
        self._paths: dict[frozenset[str], Path] = {}
        self._next_port = _FIRST_CLIENT_PORT

    def path(self, one: str, other: str) -> Path:
        """The way between two hosts."""
        return self._paths.setdefault(frozenset((one, other)), Path())

    def between(self, one: str, other: str) -> list[Wire]:
        """The live wires between two hosts."""
        return [wire for wire in self.live if set(wire.hosts) == {one, other}]

    def listen(self, host: str, port: int) -> MemoryListener:
        """Listen. Raises OSError: the place is taken."""
        place = (host, port or _FIRST_PORT)
        if place in self._listeners:
            raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))
        self._listeners[place] = listener = MemoryListener(self, *place)
        return listener

    def connect_from(self, source: str) -> Connect:
        """The function by which a node at this host connects."""

        def connect(host: str, port: int) -> Service[MemorySocket]:
            path = self.path(source, host)
            if path.is_silent:
                yield Signal()  # until the caller's limit
            listener = self._listeners.get((host, port))
            if path.refuses or listener is None:
                raise ConnectError(host, port, errno.ECONNREFUSED, os.strerror(errno.ECONNREFUSED))
            self._next_port += 1
            wire = Wire(self, (source, host), (self._next_port, port))
            self.live.append(wire)
            listener.waiting.append(wire.ends[1])
            listener.arrival.set()
            return wire.ends[0]

        return connect

    def hold(self, one: str, other: str) -> None:
        """Hold all bytes between two hosts back."""
        self.path(one, other).is_held = True

    def heal(self) -> None:
        """End all faults of paths and wires; what was held back arrives."""
        for path in self._paths.values():
            path.delay_s, path.is_held, path.refuses, path.is_silent = 0.0, False, False, False
        for wire in list(self.live):
            for side, flow in enumerate(wire.flows):
                flow.fault = None
                wire.carry(side)

    def saw(self, passage: Passage) -> None:
        """Tell the observer."""
        if self.observer is not None:
            self.observer(passage)

    def forget(self, wire: Wire) -> None:
        """The wire has ended."""
        if wire in self.live:
            self.live.remove(wire)

    def ended(self, listener: MemoryListener) -> None:
        """The listener was closed."""
        del self._listeners[listener.address]
