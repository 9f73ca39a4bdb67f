"""Neighbours flood a real node with headers: others get through, and the flood waits at its senders."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress

import pytest

from bench.node_group import NodeGroup
from tests.support.network import PATIENCE_S
from tests.support.raw_peer import RawPeer
from tunnel import ErrorCode, Limits, Node, Profile, Route
from tunnel.directory import StaticDirectory
from tunnel.geometry import INTERACTIVE
from tunnel.link.cells import CELL_HEAD, CellType, pack_open
from tunnel.link.turns import HeaderTurns
from tunnel.onion.header import Command, Slot, build_header

pytestmark = pytest.mark.full

PROFILE = Profile(INTERACTIVE)
NEIGHBOURS, HEADERS = 16, 200
# At this rate the whole flood would take more than a minute.
PER_S = 50


@pytest.fixture
def group() -> Iterator[NodeGroup]:
    with NodeGroup() as nodes:
        yield nodes


def start(group: NodeGroup, directory: StaticDirectory) -> Node:
    node = group.add(directory, limits=Limits(linger_s=1.0))
    directory.publish(node.descriptor)
    group.start(node)
    return node


def valid_header(target: Node) -> bytes:
    now = int(time.time())
    slot = Slot(Command.DROP, now + 3600, os.urandom(16))
    hop = target.descriptor.hop(now)
    return build_header(PROFILE, [(hop, slot)], engine=target.context.engine, random_bytes=os.urandom)


def send_flood(peer: RawPeer, make: Callable[[], bytes]) -> None:
    """Send 32 headers in a record, as fast as the node takes them, until the link is closed."""
    with suppress(OSError):
        for first in range(0, HEADERS, 32):
            cells = []
            for number in range(first, min(first + 32, HEADERS)):
                header, stream = make(), 2 * number + 1
                cells.append(pack_open(stream, PROFILE, 0))
                cells.append(CELL_HEAD.pack(CellType.DATA, 0, len(header), stream) + header)
            peer.send_cells(*cells)


@pytest.mark.parametrize("kind", ["garbage", "valid", "replayed"])
def test_a_flood_of_headers_does_not_hold_up_others(group: NodeGroup, kind: str) -> None:
    directory = StaticDirectory()
    alice, bob = start(group, directory), start(group, directory)
    bob.context.turns = HeaderTurns(per_s=PER_S)
    recorded = valid_header(bob)
    make: dict[str, Callable[[], bytes]] = {
        "garbage": lambda: os.urandom(INTERACTIVE.header_bytes),
        "valid": lambda: valid_header(bob),
        "replayed": lambda: recorded,
    }
    with ExitStack() as stack:
        crowd = [
            stack.enter_context(RawPeer(bob.descriptor, group.engine)).handshake() for _ in range(NEIGHBOURS)
        ]
        senders = [threading.Thread(target=send_flood, args=(peer, make[kind])) for peer in crowd]
        for sender in senders:
            sender.start()
        group.wait_until(lambda: len(bob.context.turns) == NEIGHBOURS)
        opened = bob.counters.streams_accepted
        for _ in range(3):
            query = alice.query(bob.id, b"here", route=Route((), bob.id))
            assert query.result(PATIENCE_S).read() == b"here"
        # A few of the flood for each header of Alice, not the whole flood before her.
        assert bob.counters.streams_accepted - opened < NEIGHBOURS * HEADERS / 4
        assert len(bob.context.turns) == NEIGHBOURS, "the flood waits still"
    for sender in senders:
        sender.join(PATIENCE_S)


def test_delayed_headers_are_not_released_all_at_once(group: NodeGroup) -> None:
    """OPENs that the budget allows, and later all of their headers."""
    bob = start(group, StaticDirectory())
    bob.context.turns = HeaderTurns(per_s=1_000_000)
    streams = range(1, 2 * HEADERS, 2)
    with RawPeer(bob.descriptor, group.engine).handshake() as peer:
        for stream in streams:
            peer.send_cells(pack_open(stream, PROFILE, 0))
        group.wait_until(lambda: bob.counters.streams_accepted == HEADERS)
        bob.context.turns = HeaderTurns(per_s=0.001)
        for stream in streams:
            peer.send_content(os.urandom(INTERACTIVE.header_bytes), stream=stream)
        group.wait_until(lambda: len(bob.context.turns) == HEADERS - 1)
        assert bob.counters.headers_unreadable == 1
        group.stop(bob)
    assert not len(bob.context.turns)


def test_refused_headers_are_charged_to_the_neighbour_that_sent_them(group: NodeGroup) -> None:
    bob = start(group, StaticDirectory())
    charged = []
    turns = bob.context.turns
    charge = turns.charge

    def note(source: bytes, neighbour: bytes, *, weight: float = 1.0) -> None:
        charged.append((source, neighbour))
        charge(source, neighbour, weight=weight)

    turns.charge = note  # type: ignore[method-assign]
    with RawPeer(bob.descriptor, group.engine).handshake() as peer:
        peer.open(PROFILE, os.urandom(INTERACTIVE.header_bytes))
        assert peer.reset_code() is ErrorCode.BAD_HEADER
        assert charged == [(link.source, peer.id) for link in bob.links]


def test_a_link_that_ends_while_it_waits_leaves_nothing(group: NodeGroup) -> None:
    bob = start(group, StaticDirectory())
    bob.context.turns = HeaderTurns(per_s=0.001)
    with ExitStack() as stack:
        for _ in range(4):  # the first one takes the only turn with its first header
            peer = stack.enter_context(RawPeer(bob.descriptor, group.engine)).handshake()
            peer.open(PROFILE, os.urandom(INTERACTIVE.header_bytes))
        group.wait_until(lambda: len(bob.context.turns) == 3)
        group.stop(bob)
    assert not len(bob.context.turns)
