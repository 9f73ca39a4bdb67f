"""An observer of the wire between two nodes, and the routes that it guesses.

The observer sees when a connection begins and ends, and the time, direction and size of each record. Sizes
are in the clear, because a record begins with its length. The end of the handshake is visible too, because
its three messages have fixed lengths. Source: docs/protocol.md, "Link record".
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from tunnel.errors import LinkError
from tunnel.link.handshake import M1_BYTES, M2_BYTES, M3_BYTES
from tunnel.link.records import HEAD_BYTES, record_bytes_of

__all__ = ["Connection", "Event", "Record", "connections_as_events", "guess_routes", "records_as_events"]


@dataclass(frozen=True, slots=True)
class Record:
    """One record that passed.

    Attributes:
        time_s: on the observer's clock, when its last byte came.
        is_outward: from the side that dialled.
        size: in bytes, head included.
    """

    time_s: float
    is_outward: bool
    size: int


class _Sizes:
    """The records of one direction, from its bytes."""

    def __init__(self, handshake_bytes: int) -> None:
        self._skip = handshake_bytes
        self._head = b""

    def feed(self, data: memoryview) -> Iterator[int]:
        """The sizes of the records that end in these bytes. Raises LinkError: no record begins so."""
        while data:
            if self._skip:
                taken = min(self._skip, len(data))
                self._skip -= taken
                data = data[taken:]
                if not self._skip and self._head:
                    yield record_bytes_of(self._head)
                    self._head = b""
                continue
            taken = HEAD_BYTES - len(self._head)
            self._head += bytes(data[:taken])
            data = data[taken:]
            if len(self._head) == HEAD_BYTES:
                self._skip = record_bytes_of(self._head) - HEAD_BYTES


@dataclass(slots=True)
class Connection:
    """One connection, as a `bench.tcp_proxy.Watcher` sees it.

    Attributes:
        source, target: the dialling and the accepting node: an observer knows addresses.
        began_s, ended_s: ended_s is None while it lives.
        has_strange_bytes: some bytes were not a record of an allowed size.
    """

    source: int
    target: int
    now_s: Callable[[], float]
    began_s: float = 0.0
    ended_s: float | None = None
    records: list[Record] = field(default_factory=list)
    has_strange_bytes: bool = False
    _outward: _Sizes = field(default_factory=lambda: _Sizes(M1_BYTES + M3_BYTES))
    _inward: _Sizes = field(default_factory=lambda: _Sizes(M2_BYTES))

    def __post_init__(self) -> None:
        self.began_s = self.now_s()

    def passes(self, data: memoryview, *, outward: bool) -> int:
        """Record the bytes and pass all of them on."""
        now_s = self.now_s()
        try:
            for size in (self._outward if outward else self._inward).feed(data):
                self.records.append(Record(now_s, outward, size))
        except LinkError:
            self.has_strange_bytes = True
        return len(data)

    def ended(self) -> None:
        """The connection is over."""
        self.ended_s = self.now_s()


# Guessing routes by time alone. The observer sees every wire and knows no key. An event goes from one node to
# another: a connection is opened, or a first record follows a silence. An event that leaves a node soon after
# another one arrived there counts as its continuation, unless that one has a continuation already.


@dataclass(frozen=True, slots=True)
class Event:
    """Bytes or a connection from node `source` to node `target`."""

    time_s: float
    source: int
    target: int


def connections_as_events(connections: Iterable[Connection]) -> list[Event]:
    """The opening of each connection."""
    return [Event(found.began_s, found.source, found.target) for found in connections]


def records_as_events(connections: Iterable[Connection], silence_s: float) -> list[Event]:
    """Each record that breaks a silence of its direction."""
    events = []
    for found in connections:
        for is_outward in (True, False):
            last_s = float("-inf")
            ends = (found.source, found.target) if is_outward else (found.target, found.source)
            for record in found.records:
                if record.is_outward is is_outward:
                    if record.time_s - last_s >= silence_s:
                        events.append(Event(record.time_s, *ends))
                    last_s = record.time_s
    return events


def guess_routes(events: Sequence[Event], within_s: float) -> list[tuple[int, ...]]:
    """Chain events.

    Args:
        within_s: the longest time that a node is assumed to hold a message.
    Returns:
        A route for each chain: the node where it began and all that follow.
    """
    chains: list[list[Event]] = []
    ends: list[list[Event]] = []  # chains that may continue, latest last
    for event in sorted(events, key=lambda event: event.time_s):
        for chain in reversed(ends):
            last = chain[-1]
            if event.time_s - last.time_s > within_s:
                continue
            # No node sends a message back, or to a node that had it before.
            if last.target == event.source and event.target not in {seen.source for seen in chain}:
                chain.append(event)
                ends.remove(chain)
                ends.append(chain)
                break
        else:
            chains.append([event])
            ends.append(chains[-1])
        ends = [chain for chain in ends if event.time_s - chain[-1].time_s <= within_s]
    return [(chain[0].source, *(event.target for event in chain)) for chain in chains]
