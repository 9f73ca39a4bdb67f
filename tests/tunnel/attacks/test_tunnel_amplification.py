"""Threat: a tunnel over a loop of many links whose asker stops reading leaves a full window at each hop.

The attacker is a node that builds the tunnel's header by hand. It leads over three nodes in a circle, as
often as the header has slots for. The attacker asks for much, grants any amount of credit, and then reads no
more. Measured: the bytes of all links of the network, as in `test_amplification`, whose rule holds here too.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator, Iterator
from typing import Any

import pytest

from reactor import ReadYield, Service, Signal, WriteYield
from tests.support.network import PATIENCE_S, wait_until, wait_until_idle
from tests.tunnel.attacks.test_amplification import MIB, MOST_FACTOR, Loop, link_bytes, looped
from tunnel import InnerService, Limits, LocalNetwork, Profile, Route
from tunnel.established import End, EstablishedTunnel, Target, TargetKind, TunnelLimits
from tunnel.geometry import BULK, DEFAULT, INTERACTIVE, STREAM, UNPROVEN_BYTES
from tunnel.node.context import Stream
from tunnel.node.tunnels.tunnel import NodeTunnel
from tunnel.onion.header import Command
from tunnel.onion.key_schedule import Direction, permutation
from tunnel.services import Query, Reply

pytestmark = pytest.mark.full

ASKED_BYTES = 3 * MIB
SILENT_S = 1.0
CREDIT = TunnelLimits(window_chunks=1024)  # granted before anything has come

Core = EstablishedTunnel[Signal]


class Source(InnerService):
    """Sends as many bytes as the message or sub-stream begins with."""

    def handle(self, query: Query, reply: Reply) -> Generator[Any, Any, None]:
        count = int((yield from query.read()) or b"0")
        for _ in range(64):
            yield from reply.write(bytes(count // 64))

    def find(self, name: bytes) -> InnerService:
        return Stuck() if name == b"stuck" else self


class Stuck(InnerService):
    """Accepts, and never reads."""

    def handle(self, query: Query, reply: Reply) -> Generator[Any, Any, None]:
        yield Signal()


@pytest.fixture
def net() -> Iterator[LocalNetwork]:
    limits = Limits(tunnel=TunnelLimits(silent_s=SILENT_S))
    with LocalNetwork(peers=6, service=Source(), limits=limits) as network:
        yield network


class Attacker:
    """Alice's end of a tunnel by hand, at node 0. It reads only what `take` takes."""

    def __init__(self, net: LocalNetwork, loop: Loop) -> None:
        self._net, self._loop = net, loop
        profile, engine, seeds = loop.profile, net.engine, loop.seeds[:-1]
        self.core: Core = EstablishedTunnel(
            loop.seeds[-1], profile.geometry, End.ALICE, engine=engine, make_notifier=Signal, limits=CREDIT
        )
        self._outward = [permutation(profile, seed, Direction.FORWARD, engine) for seed in reversed(seeds)]
        self._homeward = [permutation(profile, seed, Direction.BACKWARD, engine) for seed in seeds]
        self._stream: Stream
        self._sent = self._received = 0

    def open(self) -> Service[None]:
        """Send the header and HELLO, take Bob's HELLO, and send REKEY."""
        node, loop = self._net[0].context, self._loop
        self._stream = yield from node.links.open_stream(loop.first_id, loop.profile, is_own=True)
        yield from WriteYield(self._stream).write_all(loop.header)
        yield from self.send_all()
        yield from self.take(1)
        yield from self.send_all()

    def send_all(self) -> Service[None]:
        """Send what is due."""
        chunk = memoryview(bytearray(self._loop.profile.geometry.chunk_bytes))
        while self.core.next_chunk(chunk, self._net[0].context.now_s()):
            for layer in self._outward:
                layer.encrypt(chunk, self._sent)
            self._sent += 1
            yield from WriteYield(self._stream).write_all(chunk)

    def take(self, count: int) -> Service[None]:
        """Receive chunks."""
        for _ in range(count):
            chunk = memoryview(bytearray(self._loop.profile.geometry.chunk_bytes))
            yield from ReadYield(self._stream).read_exactly(chunk)
            for layer in self._homeward:
                layer.encrypt(chunk, self._received)
            self._received += 1
            self.core.received(chunk)


def ask_in_messages(core: Core) -> None:
    core.outgoing.write(b"%d" % ASKED_BYTES)
    core.outgoing.end()


def ask_in_sub_streams(core: Core) -> None:
    """Four of them, as many as any end allows."""
    for _ in range(4):
        stream = core.open(Target(TargetKind.SERVICE, b"source"))
        stream.write(b"%d" % ASKED_BYTES)
        stream.close()


def assert_bounded(net: LocalNetwork, attack: Callable[[], Service[None]]) -> None:
    """Run an attack, wait until Bob has ended its tunnel, and compare the bytes of all links with its own."""
    before, counters, bob = link_bytes(net), net[0].counters, net[1].counters
    own = counters.link_bytes_out + counters.link_bytes_in
    net.submit(attack()).result(PATIENCE_S)
    wait_until(net, lambda: bob.tunnels_failed)
    wait_until_idle(net)
    own = counters.link_bytes_out + counters.link_bytes_in - own
    assert link_bytes(net) - before <= UNPROVEN_BYTES + MOST_FACTOR * own


@pytest.mark.parametrize("ask", [ask_in_messages, ask_in_sub_streams])
@pytest.mark.parametrize("geometry", [DEFAULT, BULK, STREAM, INTERACTIVE], ids=lambda each: each.name)
def test_a_reader_that_stops_immediately(
    net: LocalNetwork, geometry: Any, ask: Callable[[Core], None]
) -> None:
    attacker = Attacker(net, looped(net, Profile(geometry), geometry.max_proxies, net[1], Command.DEST))

    def attack() -> Service[None]:
        yield from attacker.open()
        ask(attacker.core)
        yield from attacker.send_all()

    assert_bounded(net, attack)


@pytest.mark.parametrize(("geometry", "count"), [(DEFAULT, 60), (BULK, 30), (STREAM, 150)])
def test_a_reader_that_stops_after_receipts(net: LocalNetwork, geometry: Any, count: int) -> None:
    """Half of what it has received may be under way."""
    attacker = Attacker(net, looped(net, Profile(geometry), geometry.max_proxies, net[1], Command.DEST))

    def attack() -> Service[None]:
        yield from attacker.open()
        ask_in_messages(attacker.core)
        yield from attacker.send_all()
        for _ in range(count):
            yield from attacker.take(1)
            yield from attacker.send_all()

    assert_bounded(net, attack)


def test_a_receipt_that_was_not_received(net: LocalNetwork) -> None:
    attacker = Attacker(net, looped(net, Profile(DEFAULT), 30, net[1], Command.DEST))

    def attack() -> Service[None]:
        yield from attacker.open()
        ask_in_messages(attacker.core)
        attacker.core.proofs.arrived(bytes(16))  # as if this had been a challenge
        yield from attacker.send_all()

    assert_bounded(net, attack)


def test_content_for_a_service_that_does_not_read(net: LocalNetwork) -> None:
    """It fills the windows of all hops too, and costs its sender a thirtieth of it."""
    attacker = Attacker(net, looped(net, Profile(DEFAULT), 30, net[1], Command.DEST))

    def attack() -> Service[None]:
        yield from attacker.open()
        stream = attacker.core.open(Target(TargetKind.SERVICE, b"stuck"))
        with contextlib.suppress(BlockingIOError):
            while True:
                stream.write(bytes(stream.chunk_data_bytes))
                yield from attacker.send_all()

    assert_bounded(net, attack)


def test_many_sub_streams_that_are_refused(net: LocalNetwork) -> None:
    """Each costs its opener a chunk, and Bob one."""
    attacker = Attacker(net, looped(net, Profile(DEFAULT), 30, net[1], Command.DEST))

    def attack() -> Service[None]:
        yield from attacker.open()
        for _ in range(60):
            attacker.core.open(Target(TargetKind.IPV4, bytes(4), 9))
            yield from attacker.send_all()

    assert_bounded(net, attack)


@pytest.mark.parametrize("geometry", [DEFAULT, BULK, INTERACTIVE], ids=lambda each: each.name)
def test_an_honest_reader_gets_it_all(net: LocalNetwork, geometry: Any) -> None:
    def ask(tunnel: NodeTunnel) -> Service[None]:
        yield from tunnel.send(b"%d" % ASKED_BYTES)
        assert (yield from tunnel.next_message())
        length = 0
        while piece := (yield from tunnel.read()):
            length += len(piece)
        assert length == ASKED_BYTES

    route = Route((net[2].id, net[3].id), net[1].id)
    net[0].tunnel(net[1].id, ask, route=route, profile=Profile(geometry)).result(PATIENCE_S)
    wait_until_idle(net)
    assert link_bytes(net) < 5 * ASKED_BYTES, "three links; records, padding and receipts"
