"""Traffic between nodes as an observer of all wires sees it: connections, times and sizes of records.

The claims of docs/protocol.md about link policies and padding, by counts and order; how well an observer
guesses from times is measured by `python -m bench.observer`.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from bench.observer import Settings, Watched, limits_of
from bench.wire_records import Connection, Event, connections_as_events, guess_routes, records_as_events
from tunnel.link.handshake import PaddingMode
from tunnel.link.records import MAX_UNITS, UNIT_BYTES

SETTINGS = Settings(nodes=5, hops=2, padding_gap_s=0.05)
LIMITS = limits_of(SETTINGS)
ROUTES = [(0, 1, 2, 3), (3, 2, 1, 0), (4, 0, 2, 1), (1, 4, 3, 2)]
ALLOWED = {units * UNIT_BYTES for units in range(1, MAX_UNITS + 1)}
EVER_S = 1e9


def ask(watched: Watched, route: tuple[int, ...], content_bytes: int = 2_000) -> None:
    watched.group.run(watched.ask(route, content_bytes))
    watched.group.wait_until(lambda: all(node.is_idle for node in watched.nodes))


def sizes(connections: list[Connection]) -> set[int]:
    assert not any(connection.has_strange_bytes for connection in connections)
    return {record.size for connection in connections for record in connection.records}


def pairs(connections: list[Connection]) -> set[frozenset[int]]:
    return {frozenset((connection.source, connection.target)) for connection in connections}


def test_under_once_connections_draw_the_route() -> None:
    with Watched(5, LIMITS["once"]) as watched:
        for route in ROUTES:
            before = len(watched.connections)
            ask(watched, route)
            watched.group.wait_until(lambda: not any(node.open_links for node in watched.nodes))
            seen = watched.connections[before:]
            assert len(seen) == len(route) - 1
            assert guess_routes(connections_as_events(seen), EVER_S) == [route]
        assert sizes(watched.connections) <= ALLOWED


def test_under_pooled_connections_do_not_depend_on_messages() -> None:
    with Watched(5, LIMITS["pooled"]) as silent:
        without = list(silent.connections)
    with Watched(5, LIMITS["pooled"]) as watched:
        before = list(watched.connections)
        for route in ROUTES:
            ask(watched, route)
        assert watched.connections == before  # no new connection
        assert sizes(watched.connections) <= ALLOWED
        # The links are not silent: records show that content moves, and how much.
        assert any(connection.records for connection in before)
    assert pairs(before) == pairs(without) == {frozenset((a, b)) for a in range(5) for b in range(a)}


@pytest.mark.full
def test_at_a_constant_rate_records_do_not_depend_on_content() -> None:
    limits = LIMITS["pooled, constant rate"]
    with Watched(4, replace(limits, links_ahead=3)) as watched:
        ask(watched, (0, 1, 2, 3), 30_000)
        ask(watched, (3, 1, 0), 10)
        found = list(watched.connections)
    assert sizes(found) == {limits.padding_units * UNIT_BYTES}
    for connection in found:
        for is_outward in (True, False):
            times_s = [record.time_s for record in connection.records if record.is_outward is is_outward]
            for count, time_s in enumerate(times_s, start=1):
                # Content adds no record: the nth record is n gaps after the first, and never early.
                assert time_s >= connection.began_s + count * limits.padding_gap_s


def test_padding_at_random_times_needs_no_message() -> None:
    limits = replace(LIMITS["pooled"], padding=PaddingMode.POISSON, padding_gap_s=0.01, padding_units=16)
    with Watched(3, replace(limits, links_ahead=2)) as watched:

        def are_busy() -> bool:
            # Two nodes that dial each other at the same time keep one of the two connections.
            kept = [found for found in watched.connections if found.ended_s is None]
            return all(len(found.records) > 10 for found in kept) and len(pairs(kept)) == 3

        watched.group.wait_until(are_busy)
        assert sizes(watched.connections) == {16 * UNIT_BYTES}
        ask(watched, (0, 1, 2))
        assert sizes(watched.connections) <= ALLOWED


def test_records_are_counted_however_the_bytes_come() -> None:
    record = b"\x00\x02\x00\x00" + bytes(2044)
    wire = bytes(64 + 576) + record * 3
    for step in (1, 7, 1000, len(wire)):
        connection = Connection(0, 1, lambda: 0.0)
        for start in range(0, len(wire), step):
            piece = memoryview(wire)[start : start + step]
            assert connection.passes(piece, outward=True) == len(piece)
        assert [found.size for found in connection.records] == [2048] * 3
        assert not connection.has_strange_bytes
    connection.passes(memoryview(b"\x00\x40\x00\x00"), outward=True)
    assert connection.has_strange_bytes


def test_guesses() -> None:
    events = [Event(0.00, 0, 1), Event(0.01, 5, 6), Event(0.02, 1, 2), Event(0.03, 6, 7), Event(0.5, 2, 3)]
    assert guess_routes(events, 0.1) == [(0, 1, 2), (5, 6, 7), (2, 3)]
    assert guess_routes(events, 1.0) == [(0, 1, 2, 3), (5, 6, 7)]
    assert guess_routes([Event(0, 0, 1), Event(1, 1, 0)], 9) == [(0, 1), (1, 0)]


def test_only_activity_after_silence_is_an_event() -> None:
    times = iter([0.0, 1.0, 2.0, 2.01])
    connection = Connection(0, 1, lambda: next(times))
    connection.passes(memoryview(bytes(640)), outward=True)
    record = memoryview(b"\x00\x01\x00\x00" + bytes(1020))
    for _ in range(2):
        connection.passes(record, outward=True)
    assert records_as_events([connection], 0.1) == [Event(2.0, 0, 1)]
