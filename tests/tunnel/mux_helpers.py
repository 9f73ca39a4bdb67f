"""Helpers of the tests of the multiplexer: two of them joined in memory, and a peer that sends any bytes."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field

from tests.tunnel.helpers import OPENSSL, SMALL
from tunnel.crypto.primitives import TunnelEngine
from tunnel.geometry import Profile
from tunnel.link.cells import split_cells
from tunnel.link.mux import Multiplexer, MuxLimits, MuxStream
from tunnel.link.noise import LinkKeys
from tunnel.link.records import (
    Budget,
    BufferPool,
    RecordOpener,
    RecordSealer,
    record_bytes_for,
    record_bytes_of,
)

__all__ = [
    "Clock",
    "Flag",
    "Link",
    "Pair",
    "RawPeer",
    "Side",
    "cell",
    "complete",
    "joined",
    "pump",
    "read_all",
    "record_sizes",
    "write_all",
]

KEY_1, KEY_2 = bytes(range(32)), bytes(range(32, 64))


class Flag:
    """A notifier that records whether it was set."""

    __slots__ = ("is_set",)

    def __init__(self) -> None:
        self.is_set = False

    def set(self) -> None:
        self.is_set = True

    def take(self) -> bool:
        was, self.is_set = self.is_set, False
        return was


class Clock:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


Side = Multiplexer[Flag]


@dataclass
class Link:
    """Two multiplexers; `a` dialled. `sizes` records the units of all records, by direction."""

    a: Side
    b: Side
    clock: Clock
    buffers: BufferPool

    @classmethod
    def make(
        cls,
        *,
        limits: MuxLimits | None = None,
        b_limits: MuxLimits | None = None,
        budget: Budget | None = None,
        record_units: int = 0,
        engine: TunnelEngine = OPENSSL,
        clock: Clock | None = None,
    ) -> Link:
        clock = clock or Clock()
        buffers = BufferPool()
        limits = limits or MuxLimits()

        def side(keys: LinkKeys, limits: MuxLimits, *, is_dialler: bool, budget: Budget | None) -> Side:
            return Multiplexer(
                keys,
                is_dialler=is_dialler,
                engine=engine,
                limits=limits,
                make_notifier=Flag,
                budget=budget,
                now_s=clock,
                record_units=record_units,
                buffers=buffers,
            )

        return cls(
            side(LinkKeys(KEY_1, KEY_2, b""), limits, is_dialler=True, budget=None),
            side(LinkKeys(KEY_2, KEY_1, b""), b_limits or limits, is_dialler=False, budget=budget),
            clock,
            buffers,
        )

    def settle(self) -> None:
        """Move bytes both ways until nothing is pending; at a constant rate, until nothing waits."""
        while True:
            for side in (self.a, self.b):
                if side.sender.fixed_bytes and not side.sender.is_idle:
                    side.tick()
            if not pump(self.a, self.b) + pump(self.b, self.a):
                return


def pump(source: Side, sink: Side, *, at_most: int = 1 << 30, trace: list[int] | None = None) -> int:
    """Move pending bytes, `at_most` of them. Returns their number. `trace` gets the sizes of records."""
    moved = 0
    while moved < at_most and (pending := source.pending):
        space = sink.space()
        count = min(len(space), len(pending), at_most - moved)
        if trace is not None:
            trace += record_sizes(pending[:count])
        space[:count] = pending[:count]
        source.sent(count)
        moved += count
        sink.received(count)
    return moved


def record_sizes(wire: bytes | memoryview) -> list[int]:
    """The units of the whole records that `wire` begins with."""
    sizes, at = [], 0
    while at < len(wire):
        size = record_bytes_of(wire[at : at + 4])
        sizes.append(size // 1024)
        at += size
    return sizes


def cell(kind: int, stream: int, payload: bytes = b"", *, flags: int = 0, length: int | None = None) -> bytes:
    """Any cell, legal or not."""
    return struct.pack(">BBHI", kind, flags, len(payload) if length is None else length, stream) + payload


@dataclass
class RawPeer:
    """A peer with the keys of a link that seals any bytes and reads the answers."""

    mux: Side
    clock: Clock = field(default_factory=Clock)

    @classmethod
    def make(
        cls, *, is_dialler: bool = False, limits: MuxLimits | None = None, budget: Budget | None = None
    ) -> RawPeer:
        """`is_dialler`: whether the multiplexer dialled; the peer's streams are even then."""
        clock = Clock()
        mux = Multiplexer(
            LinkKeys(KEY_1, KEY_2, b""),
            is_dialler=is_dialler,
            engine=OPENSSL,
            limits=limits or MuxLimits(),
            make_notifier=Flag,
            budget=budget,
            now_s=clock,
            buffers=BufferPool(),
        )
        return cls(mux, clock)

    def __post_init__(self) -> None:
        self._sealer = RecordSealer(KEY_2, OPENSSL)
        self._opener = RecordOpener(KEY_1, OPENSSL)

    def say(self, *cells: bytes, size: int = 0, padding: bytes = b"") -> None:
        """One record with these cells."""
        plain = b"".join(cells) + padding
        record = bytearray(size or record_bytes_for(len(plain)))
        record[4 : 4 + len(plain)] = plain
        self._sealer.seal(memoryview(record))
        self.say_bytes(bytes(record))

    def say_bytes(self, wire: bytes) -> None:
        """Send raw bytes."""
        while wire:
            space = self.mux.space()
            count = min(len(space), len(wire))
            space[:count] = wire[:count]
            wire = wire[count:]
            self.mux.received(count)

    def hear(self) -> Iterator[tuple[int, int, bytes]]:
        """All cells that the multiplexer has to send."""
        while wire := bytearray(self.mux.pending):
            self.mux.sent(len(wire))
            view = memoryview(wire)
            while view:
                size = record_bytes_of(view[:4])
                for kind, stream, payload in split_cells(self._opener.open(view[:size])):
                    yield kind, stream, bytes(payload)
                view = view[size:]

    def heard(self) -> list[tuple[int, int, bytes]]:
        return list(self.hear())


def read_all(stream: MuxStream[Flag], limit: int = 1 << 30) -> bytes:
    """Read all that is available."""
    got = bytearray()
    buffer = memoryview(bytearray(65_536))
    while len(got) < limit:
        try:
            count = stream.readinto(buffer[: limit - len(got)])
        except BlockingIOError:
            break
        if not count:
            break
        got += buffer[:count]
    return bytes(got)


def write_all(stream: MuxStream[Flag], data: bytes) -> int:
    """Write until refused. Returns the number of bytes taken."""
    done = 0
    while done < len(data):
        try:
            done += stream.write(memoryview(data)[done:])
        except BlockingIOError:
            break
    return done


Pair = tuple[MuxStream[Flag], MuxStream[Flag]]


def joined(link: Link, profile: Profile = SMALL, *, extra: int = 0) -> Pair:
    """A stream that `a` opened, at both ends."""
    stream = link.a.open(profile, extra_window=extra)
    link.settle()
    twin = link.b.accept_nowait()
    assert twin is not None
    return stream, twin


def complete(stream: MuxStream[Flag], twin: MuxStream[Flag]) -> None:
    """End both halves in order."""
    stream.finish()
    twin.finish()
    twin.send_status(b"s")
