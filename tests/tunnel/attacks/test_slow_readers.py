"""Threat: many frames, or sub-streams, whose reader takes a byte now and then, fill the memory of others.

The attacker is a node with patience and memory of its own. The victims are a relay, and the node that sends
or receives for a service that reads as slowly. Their limits are lower than by default, so that the attack
exceeds them: what they hold stays within, and honest queries and tunnels over the same nodes go on.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from bench.node_group import NodeGroup
from reactor import Service, Signal
from tests.support.network import PATIENCE_S
from tunnel import InnerService, Limits, Node, ReplyMode, Route
from tunnel.directory import StaticDirectory
from tunnel.errors import QueryFailed, SubStreamReset
from tunnel.link.records import Budget, Evictable
from tunnel.node.limits import BudgetedTunnel, TunnelBudget
from tunnel.node.query.incoming_replies import IncomingReply
from tunnel.node.tunnels.tunnel import NodeTunnel, TunnelStream
from tunnel.services import Query, Reply

pytestmark = pytest.mark.full

MIB = 1 << 20
BUFFER_BYTES, TUNNEL_BYTES = 2 * MIB, 1 * MIB
FRAMES, TUNNELS, SUB_STREAMS = 250, 4, 60  # the figures of docs/security.md are for 1,000 of each
PATIENT = Limits(buffer_bytes=1 << 30, tunnel_bytes=1 << 30)
VICTIM = Limits(buffer_bytes=BUFFER_BYTES, tunnel_bytes=TUNNEL_BYTES)


class Source(InnerService):
    """Answers with as many bytes as the query says; the service "stuck" reads nothing."""

    def handle(self, query: Query, reply: Reply) -> Generator[Any, Any, None]:
        count = int((yield from query.read()))
        for _ in range(16):
            yield from reply.write(bytes(count // 16))

    def find(self, name: bytes) -> InnerService:
        return Stuck() if name == b"stuck" else self


class Stuck(InnerService):
    def handle(self, query: Query, reply: Reply) -> Generator[Any, Any, None]:
        yield Signal()


class Town:
    """The attacker, an honest node, and two victims: a relay and Bob.

    Attributes:
        peaks: the most that each budget has held, of links and of tunnels.
    """

    def __init__(self, group: NodeGroup) -> None:
        self.group = group
        directory = StaticDirectory()
        limits = (PATIENT, Limits(), VICTIM, VICTIM)
        nodes = [group.add(directory, service=Source(), limits=each) for each in limits]
        for node in nodes:
            directory.publish(node.descriptor)
            group.start(node)
        self.attacker, self.honest, self.relay, self.bob = nodes
        self.route = Route((self.relay.id,), self.bob.id)
        self.peaks: dict[object, int] = {}

    def watch(self, monkeypatch: pytest.MonkeyPatch) -> None:
        add: Callable[[Budget, Evictable, int], None] = Budget.add
        received: Callable[[TunnelBudget, BudgetedTunnel, int], None] = TunnelBudget.received

        def watched_add(budget: Budget, holder: Evictable, count: int) -> None:
            add(budget, holder, count)
            self.peaks[budget] = max(self.peaks.get(budget, 0), budget.used_bytes)

        def watched_received(budget: TunnelBudget, tunnel: BudgetedTunnel, most_bytes: int) -> None:
            received(budget, tunnel, most_bytes)
            self.peaks[budget] = max(self.peaks.get(budget, 0), budget.total)

        monkeypatch.setattr(Budget, "add", watched_add)
        monkeypatch.setattr(TunnelBudget, "received", watched_received)

    def assert_honest_works(self) -> None:
        """Replies of 200 kB over the victims, and messages in a tunnel."""
        bob = self.bob
        for _ in range(5):
            query = self.honest.query(bob.id, b"200000", route=self.route, mode=ReplyMode.CACHED)
            with query.result(PATIENCE_S) as result:
                assert result.reply_bytes == 200_000

        def ask(tunnel: NodeTunnel) -> Service[None]:
            for _ in range(5):
                assert len((yield from tunnel.ask(b"20000")) or b"") == 20_000

        self.honest.tunnel(bob.id, ask, route=self.route).result(PATIENCE_S)

    def assert_bounded(self, node: Node) -> None:
        assert self.peaks[node.context.budget] <= BUFFER_BYTES
        assert self.peaks.get(node.context.tunnels, 0) <= TUNNEL_BYTES


@pytest.fixture
def town(monkeypatch: pytest.MonkeyPatch) -> Iterator[Town]:
    with NodeGroup() as group:
        town = Town(group)
        town.watch(monkeypatch)
        town.assert_honest_works()
        yield town


def test_frames(town: Town) -> None:
    replies: list[IncomingReply] = []

    def attack() -> Service[None]:
        for _ in range(FRAMES):
            request = town.attacker.call(
                town.bob.id, b"%d" % MIB, route=town.route, mode=ReplyMode.CACHED, idle_s=600.0
            )
            replies.append((yield from town.attacker.ask(request)))

    def take_a_byte() -> Service[None]:
        for reply in replies:
            with contextlib.suppress(QueryFailed):  # its stream was reset
                assert len((yield from reply.read(1))) == 1

    with ExitStack() as stack:
        town.group.run(attack())
        for reply in replies:
            stack.enter_context(reply)
        town.group.wait_until(lambda: town.relay.context.budget.evicted >= FRAMES // 10)
        town.group.run(take_a_byte())
        town.assert_honest_works()
    town.assert_bounded(town.relay)
    town.assert_bounded(town.bob)


@pytest.mark.parametrize("name", ["source", "stuck"])
def test_sub_streams(town: Town, name: str) -> None:
    """Bob's service writes to all, or reads none of what comes on all."""
    tunnels: list[NodeTunnel] = []
    streams: list[TunnelStream] = []

    def attack() -> Service[None]:
        for _ in range(TUNNELS):
            tunnel = yield from town.attacker.open_tunnel(town.bob.id, route=town.route)
            tunnels.append(tunnel)
            for _ in range(SUB_STREAMS):
                with contextlib.suppress(QueryFailed, SubStreamReset):  # Bob has ended the tunnel
                    stream = yield from tunnel.open(name)
                    streams.append(stream)
                    yield from stream.write(b"%d" % MIB if name == "source" else bytes(50_000))

    def take_a_byte() -> Service[None]:
        for stream in streams if name == "source" else ():
            with contextlib.suppress(QueryFailed):
                assert len((yield from stream.read(1))) == 1

    town.group.run(attack())
    town.group.run(take_a_byte())
    town.assert_honest_works()
    town.assert_bounded(town.relay)
    town.assert_bounded(town.bob)
    for stream in streams:
        town.group.call(stream.give_up)
    for tunnel in tunnels:
        town.group.call(tunnel.give_up)
