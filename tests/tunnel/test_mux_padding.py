"""Padding, constant rates, and the cells of the link itself."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.tunnel.helpers import OPENSSL, PROFILES, SMALL, seeded_bytes
from tests.tunnel.mux_helpers import (
    Link,
    Side,
    joined,
    pump,
    read_all,
    record_sizes,
    write_all,
)
from tunnel.errors import LocalTunnelError, TableFull
from tunnel.geometry import DEFAULT, Profile
from tunnel.link.cells import MAX_EXCHANGE_BYTES, CellType
from tunnel.link.mux import MuxLimits
from tunnel.link.records import BUFFER_BYTES
from tunnel.link.scheduler import MIN_FIXED_UNITS

T = CellType
MIDDLE = Profile(DEFAULT)


def test_padding_looks_like_any_record_and_has_no_effect() -> None:
    link = Link.make()
    stream, twin = joined(link)
    for units in (1, 16, 63):
        assert link.a.pad(units)
        assert record_sizes(link.a.pending) == [units]
        link.settle()
    write_all(stream, b"content")
    link.settle()
    assert read_all(twin) == b"content"


def test_padding_stops_where_there_is_no_room() -> None:
    link = Link.make()
    count = 0
    while link.a.pad(16):
        count += 1
    assert count == BUFFER_BYTES // 16_384
    link.settle()


def constant_rate_trace(work: Callable[[Link, int], None], ticks: int = 60) -> tuple[list[int], Link]:
    link = Link.make(record_units=16)
    trace: list[int] = []
    for number in range(ticks):
        work(link, number)
        for source, sink in ((link.a, link.b), (link.b, link.a)):
            assert not source.pending
            source.tick()
            pump(source, sink, trace=trace)
    return trace, link


def test_at_a_constant_rate_the_trace_is_the_same_whatever_is_sent() -> None:
    got = bytearray()

    def busy(link: Link, number: int) -> None:
        if number == 0:
            for profile in PROFILES:
                link.a.open(profile)
        link.a.ping()
        for stream in list(link.a.table.streams.values()):
            write_all(stream, bytes(100_000))
        while (twin := link.b.accept_nowait()) is not None:
            assert not twin.is_opener
        for twin in list(link.b.table.streams.values()):
            got.extend(read_all(twin))
            write_all(twin, b"some answer")
        if number == 40:
            link.b.go_away()

    quiet, _ = constant_rate_trace(lambda link, number: None)
    loud, link = constant_rate_trace(busy)
    assert quiet == loud == [16] * 120
    assert len(got) > 40 * 12_000  # records of 16 KiB; whole pieces of some profiles do not fill them
    assert link.a.peer_leaves


def test_at_a_constant_rate_partial_sends_lose_nothing() -> None:
    link = Link.make(record_units=16)
    stream, twin = link.a.open(MIDDLE), None
    content, sent, got = seeded_bytes(5)(400_000), 0, bytearray()
    for _ in range(5_000):
        sent += write_all(stream, content[sent:])
        link.a.tick()
        assert len(link.a.pending) <= 2 * 16_384
        pump(link.a, link.b, at_most=9_999)
        twin = twin or link.b.accept_nowait()
        if twin is not None:
            got += read_all(twin)
        link.b.tick()
        pump(link.b, link.a)
        if len(got) == len(content):
            break
    assert got == content


@pytest.mark.parametrize("units", [1, MIN_FIXED_UNITS - 1, 64])
def test_fixed_sizes_that_cannot_be(units: int) -> None:
    with pytest.raises(LocalTunnelError):
        Link.make(record_units=units)


def test_the_smallest_fixed_size_carries_every_cell() -> None:
    link = Link.make(record_units=MIN_FIXED_UNITS)

    def move() -> None:
        for _ in range(20):
            link.a.tick()
            link.b.tick()
            pump(link.a, link.b)
            pump(link.b, link.a)

    assert link.a.send_exchange(bytes(MAX_EXCHANGE_BYTES))
    stream = link.a.open(MIDDLE)
    move()
    twin = link.b.accept_nowait()
    assert twin is not None
    twin.finish()
    move()
    twin.send_status(bytes(2_496))
    move()
    assert stream.status == bytes(2_496)
    assert link.b.take_exchange() == bytes(MAX_EXCHANGE_BYTES)
    with pytest.raises(LocalTunnelError):
        Link.make().a.tick()


def test_one_ping_and_its_answer() -> None:
    link = Link.make()
    assert link.a.ping()
    assert not link.a.ping()
    assert link.a.ping_sent_s == 1000.0
    link.clock.now_s += 0.25
    link.settle()
    assert link.a.ping_sent_s is None
    assert link.a.last_received_s == link.clock.now_s
    assert link.a.ping()


def test_one_peer_exchange_is_sent_at_a_time() -> None:
    link = Link.make()
    assert link.a.send_exchange(b"one")
    assert not link.a.send_exchange(b"two")
    link.settle()
    assert link.b.exchange.take()
    assert link.a.send_exchange(b"two")
    link.settle()
    assert link.b.take_exchange() == b"two"
    for payload in (b"", bytes(MAX_EXCHANGE_BYTES + 1)):
        with pytest.raises(LocalTunnelError):
            link.a.send_exchange(payload)


def test_running_out_of_stream_numbers_is_refused_like_running_out_of_streams() -> None:
    link = Link.make(limits=MuxLimits(peer_max_streams=2))
    assert link.a.can_open
    for _ in range(2):
        link.a.open(SMALL)
    assert not link.a.can_open
    with pytest.raises(TableFull):
        link.a.open(SMALL)
    other = Link.make()
    other.a.table.unused_id = (1 << 32) - 1
    assert other.a.open(SMALL).id == (1 << 32) - 1
    assert not other.a.can_open


def test_the_neighbours_name_is_on_every_stream() -> None:
    link = Link.make()
    side: Side = link.b
    side.table.peer_id = b"alice"
    _, twin = joined(link)
    assert twin.peer_id == b"alice"
    assert OPENSSL is not None
