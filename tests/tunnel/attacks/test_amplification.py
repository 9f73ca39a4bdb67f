"""Threat: a short query whose reply block makes Bob send gigabytes over a loop of many links to nobody.

The attacker is a node that builds headers by hand. Its reply blocks lead over three nodes in a circle, as
often as the header has slots for, and end at a node that discards the reply, that does not want it, or that
takes it and gives no receipts. Measured: the bytes of all links of the network.

The rule: beyond the first 4 MiB, at most 64 bytes on all links for each byte that the asker sent or received.
"""

from __future__ import annotations

import os
import time
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from itertools import cycle, islice
from typing import Any

import pytest

from reactor import Service
from readwrite_comp import WideBlockW
from tests.support.network import PATIENCE_S, wait_until, wait_until_idle
from tunnel import InnerService, Limits, LocalNetwork, Node, Profile, QueryFailed, ReplyMode, Route
from tunnel.geometry import BULK, DEFAULT, INTERACTIVE, STREAM, UNPROVEN_BYTES
from tunnel.node.query.frame_io import send_whole, start_frame
from tunnel.onion.header import Command, Slot, build_header, draw_expiry
from tunnel.onion.header_builder import OutgoingFrame
from tunnel.onion.key_schedule import Direction, end_to_end_key, permutation
from tunnel.onion.message import FrameW, MessageW
from tunnel.onion.message_head import MessageHead
from tunnel.onion.reply_block import ReplyBlock
from tunnel.routing.cover import CoverPlan
from tunnel.services import Query, Reply

pytestmark = pytest.mark.full

MIB = 1024 * 1024
REPLY_BYTES = 3 * MIB
MOST_FACTOR = 64


class Generous(InnerService):
    """Sends as many bytes as the query states, in each reply that the query allows."""

    def handle(self, query: Query, reply: Reply) -> Generator[Any, Any, None]:
        content = bytearray()
        while piece := (yield from query.read()):
            content += piece
        while True:
            for _ in range(64):
                yield from reply.write(bytes(int(content) // 64))
            if not reply.remaining:
                return
            yield from reply.next()


@pytest.fixture
def net() -> Iterator[LocalNetwork]:
    with LocalNetwork(peers=6, service=Generous(), limits=Limits(answer_s=0.3)) as network:
        yield network


def link_bytes(net: LocalNetwork) -> int:
    return sum(node.counters.link_bytes_out for node in net)


@dataclass(frozen=True)
class Loop:
    """A header by hand, and its seeds in the order of the path."""

    profile: Profile
    first_id: bytes
    header: bytes
    seeds: list[bytes]

    @property
    def block(self) -> ReplyBlock:
        """A reply block. Where it ends at a destination, the reply is a message to the service there."""
        expiry = int(time.time()) + 7_200
        return ReplyBlock(self.profile, expiry, self.first_id, bytes(18), self.seeds[-1], self.header)


def looped(net: LocalNetwork, profile: Profile, hops: int, last: Node, command: Command) -> Loop:
    """A header of `hops` slots: around nodes 2, 3 and 4, then to `last`."""
    now_s = net[0].context.wall_clock()
    path = [*islice(cycle([net[2], net[3], net[4]]), hops - 1), last]
    following = [*(node.id for node in path[1:]), bytes(32)]
    seeds = [os.urandom(16) for _ in path]
    slots = [
        (
            node.context.descriptor.hop(now_s),
            Slot(
                command if node is last and number == hops - 1 else Command.RELAY,
                draw_expiry(now_s, os.urandom),
                seeds[number],
                next_id=following[number],
            ),
        )
        for number, node in enumerate(path)
    ]
    header = build_header(profile, slots, engine=net.engine, random_bytes=os.urandom)
    return Loop(profile, path[0].id, header, seeds)


def attack(net: LocalNetwork, profile: Profile, blocks: tuple[ReplyBlock, ...], content: bytes = b"") -> int:
    """Send a query to node 1 that is to be answered along these blocks; returns what that cost its sender."""
    attacker, bob = net[0].context, net[1]
    route = attacker.routes.route(bob.id, 0, profile)
    circuit = attacker.codec.circuit(route, profile, now_s=attacker.wall_clock())
    key = end_to_end_key(circuit.end_to_end_seed, Direction.FORWARD)
    message = MessageW(profile, key, engine=net.engine, head=MessageHead(blocks))
    before = net[0].counters.link_bytes_out

    def send() -> Service[None]:
        frame = OutgoingFrame(circuit.first_id, profile, FrameW(circuit.header, [], message))
        writer = yield from start_frame(attacker, frame, is_own=True)
        yield from writer.write(content + b"%d" % REPLY_BYTES)
        yield from writer.finish()
        writer.stream.finish()

    net.submit(send()).result(PATIENCE_S)
    wait_until(net, lambda: bob.counters.answers_failed + bob.counters.queries_answered)
    wait_until_idle(net)
    return net[0].counters.link_bytes_out - before


@pytest.mark.parametrize("geometry", [DEFAULT, BULK, STREAM, INTERACTIVE], ids=lambda each: each.name)
def test_a_looped_reply_that_ends_in_drop(net: LocalNetwork, geometry: Any) -> None:
    profile = Profile(geometry)
    block = looped(net, profile, geometry.max_proxies, net[5], Command.DROP)
    before = link_bytes(net)
    sent = attack(net, profile, (block.block,))
    assert link_bytes(net) - before <= UNPROVEN_BYTES + MOST_FACTOR * sent


def test_a_looped_reply_that_ends_at_a_service(net: LocalNetwork) -> None:
    """The reply is a query to the service of its last node, which reads it all."""
    profile = Profile(DEFAULT)
    block = looped(net, profile, 30, net[5], Command.DEST)
    before = link_bytes(net)
    sent = attack(net, profile, (block.block,))
    assert link_bytes(net) - before <= UNPROVEN_BYTES + MOST_FACTOR * sent


def test_a_long_query_allows_as_much_of_the_reply(net: LocalNetwork) -> None:
    profile = Profile(DEFAULT)
    block = looped(net, profile, 30, net[5], Command.DROP)
    before = link_bytes(net)
    sent = attack(net, profile, (block.block,), bytes(200_000).replace(b"\0", b" "))
    assert sent > 200_000
    assert link_bytes(net) - before <= UNPROVEN_BYTES + MOST_FACTOR * sent


def test_a_receipt_that_nobody_asked_for(net: LocalNetwork) -> None:
    attacker, bob, profile = net[0].context, net[1], Profile(DEFAULT)
    route = attacker.routes.route(bob.id, 1, profile)
    first_id, frame = attacker.codec.receipt(route, profile, bytes(16), now_s=attacker.wall_clock())
    net.submit(send_whole(attacker, first_id, profile, frame)).result(PATIENCE_S)
    wait_until(net, lambda: bob.counters.frames_failed)
    wait_until_idle(net)


@pytest.mark.parametrize("geometry", [DEFAULT, BULK, STREAM, INTERACTIVE], ids=lambda each: each.name)
def test_a_cached_reply_over_a_loop_that_is_not_read(net: LocalNetwork, geometry: Any) -> None:
    """Each hop holds a window of it. The bytes on the first link have cost 29 hops as much."""
    profile, bob = Profile(geometry), net[1]
    query = looped(net, profile, geometry.max_proxies, bob, Command.DEST)
    layers = [
        WideBlockW(permutation(profile, seed, Direction.FORWARD, net.engine)) for seed in query.seeds[:-1]
    ]
    key = end_to_end_key(query.seeds[-1], Direction.FORWARD)
    message = MessageW(profile, key, engine=net.engine, head=MessageHead(backward=True))
    frame = OutgoingFrame(query.first_id, profile, FrameW(query.header, layers, message))
    before = link_bytes(net)
    kept = []

    def send() -> Service[None]:
        writer = yield from start_frame(net[0].context, frame, is_own=True)
        kept.append(writer)
        yield from writer.write(b"%d" % REPLY_BYTES)
        yield from writer.finish()
        writer.stream.finish()

    net.submit(send()).result(PATIENCE_S)
    wait_until(net, lambda: bob.counters.answers_failed + bob.counters.queries_answered)
    counters = net[0].counters
    asker = counters.link_bytes_out + counters.link_bytes_in
    assert link_bytes(net) - before <= UNPROVEN_BYTES + MOST_FACTOR * asker


@pytest.mark.parametrize("geometry", [DEFAULT, BULK], ids=lambda each: each.name)
def test_many_reply_blocks_share_the_limit(net: LocalNetwork, geometry: Any) -> None:
    profile = Profile(geometry)
    blocks = tuple(looped(net, profile, 30, net[5], Command.DROP).block for _ in range(8))
    before = link_bytes(net)
    sent = attack(net, profile, blocks)
    assert link_bytes(net) - before <= UNPROVEN_BYTES + MOST_FACTOR * sent


@pytest.mark.parametrize("mode", [ReplyMode.ROUTE, ReplyMode.REPLY_ON_REPLY, ReplyMode.CACHED])
@pytest.mark.parametrize(
    ("geometry", "reply_bytes"), [(DEFAULT, 3 * MIB), (BULK, 4 * MIB), (INTERACTIVE, MIB)]
)
def test_an_honest_asker_gets_it_all(geometry: Any, reply_bytes: int, mode: ReplyMode) -> None:
    with LocalNetwork(peers=6, service=Generous()) as net:
        content, count = b"%d" % reply_bytes, 1 if mode is ReplyMode.CACHED else 2
        query = net[0].query(net[1].id, content, hops=2, mode=mode, profile=Profile(geometry), replies=count)
        with query.result(PATIENCE_S) as result:
            assert result.reply_bytes == count * reply_bytes
        wait_until_idle(net)
        assert not any(node.context.receipts for node in net)
        assert link_bytes(net) < 5 * count * reply_bytes, "three links; records, padding and receipts"


def test_a_node_takes_a_few_windows_of_cover(net: LocalNetwork) -> None:
    """The nodes before the last one have windows of their own; the sender stops when the frame fails."""
    profile = Profile(DEFAULT)
    plan = CoverPlan(Route((net[1].id,), net[2].id), profile, 8 * MIB, is_loop=False)
    with pytest.raises(QueryFailed, match="BAD_CONTENT"):
        net[0].send_cover(plan).result(PATIENCE_S)
    wait_until_idle(net)
    assert net[2].counters.link_bytes_in < profile.geometry.most_cover_bytes + MIB
