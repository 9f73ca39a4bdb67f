"""Links that end at any byte: hypothesis picks the byte and the direction, a proxy between two nodes cuts
there.

Streams on the link must end with an error, other streams must live, and the pool must dial again. No resource
may leak: descriptors, services, streams, buffers and the budget are counted before and after.
"""

from __future__ import annotations

import contextlib
import gc
import os
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from bench.node_group import NodeGroup
from bench.tcp_proxy import TcpProxy
from tests.support.held import Held
from tests.support.network import PATIENCE_S
from tunnel import ErrorCode, InnerService, Limits, Node, QueryFailed, ReplyMode, Route
from tunnel.directory import StaticDirectory
from tunnel.link.records import BUFFERS
from tunnel.node import QueryResult

LIMITS = Limits(dial_s=5.0, idle_s=5.0, linger_s=1.0, link_tick_s=0.05, redial_s=0.02)
CONTENT = os.urandom(40_000)
# The handshake, OPEN and header, and some way into the content and its answer.
MOST_BYTES = 90_000


class Knife:
    """Cuts the connection that passes byte number `at` in its direction, counted from `arm` on. Once."""

    def __init__(self) -> None:
        self.is_outward = False
        self.left: int | None = None

    def arm(self, at: int, *, outward: bool) -> None:
        self.is_outward, self.left = outward, at

    def passes(self, data: memoryview, *, outward: bool) -> int:
        if self.left is None or outward is not self.is_outward:
            return len(data)
        passed = min(self.left, len(data))
        self.left = self.left - passed if passed == len(data) else None
        return passed

    def ended(self) -> None:
        pass


class Square:
    """Alice, two relays, Bob; who dials relay 1 comes by the knife."""

    def __init__(self, group: NodeGroup, service: InnerService | None = None) -> None:
        self.group = group
        self.knife = Knife()
        self.directory = StaticDirectory()
        self.proxy = TcpProxy(lambda: self.knife)
        group.submit(self.proxy.serve())
        self.alice = self._add()
        self.bob = self._add(service=service)
        self.relays = [self._add(addresses=(self.proxy.address,)), self._add()]
        self.proxy.target = self.relays[0].listens_at
        self.nodes = [self.alice, self.bob, *self.relays]

    def _add(self, **options: Any) -> Node:
        node = self.group.add(self.directory, limits=LIMITS, **options)
        self.directory.publish(node.descriptor)
        self.group.start(node)
        return node

    def ask(self, relay: int, mode: ReplyMode) -> Future[QueryResult]:
        route = Route((self.relays[relay].id,), self.bob.id)
        return self.alice.query(self.bob.id, CONTENT, route=route, mode=mode)

    def assert_works(self) -> None:
        """Over both relays; over the first as soon as the pool dials again."""
        assert self._works(1)
        assert any(self._works(0) for _ in range(200)), "the first relay is not reached any more"

    def _works(self, relay: int) -> bool:
        route = Route((self.relays[relay].id,), self.bob.id)
        try:
            return self.alice.query(self.bob.id, b"on", route=route).result(PATIENCE_S).read() == b"on"
        except QueryFailed:
            return False

    def wait_quiet(self) -> None:
        self.group.wait_until(lambda: all(node.is_idle for node in self.nodes))

    def counts(self) -> dict[str, int]:
        """To be called in the reactor's thread."""
        contexts = [node.context for node in self.nodes]
        return {
            "descriptors": len(list(Path("/proc/self/fd").iterdir())),
            "services": len(self.group.reactor.tasks),
            "links": sum(node.open_links for node in self.nodes),
            "streams": sum(node.open_streams for node in self.nodes),
            "budget": sum(context.budget.used_bytes for context in contexts),
            "holders": sum(len(context.budget.holders) for context in contexts),
            "buffers": BUFFERS.borrowed,
            "dialling": sum(len(node.links.dials) for node in self.nodes),
            "half open": sum(context.half_open for context in contexts),
            "pending": sum(len(context.pending) + len(context.own) for context in contexts),
        }

    def wait_for_counts(self, expected: dict[str, int]) -> dict[str, int]:
        """Wait until they are as expected; returns what they are, in any case."""
        seen: list[dict[str, int]] = []

        def is_expected() -> bool:
            seen[:] = [self.counts()]
            return not expected or seen[0] == expected

        with contextlib.suppress(TimeoutError):
            self.group.wait_until(is_expected)
        return seen[0]


@pytest.fixture(scope="module")
def square() -> Iterator[Square]:
    with NodeGroup() as group:
        yield Square(group)


def test_streams_on_a_cut_link_end_and_others_live() -> None:
    with NodeGroup() as group:
        held = Held()
        square = Square(group, service=held)
        cut, other = square.ask(0, ReplyMode.CACHED), square.ask(1, ReplyMode.CACHED)
        group.wait_until(lambda: held.asked == 2)
        square.knife.arm(0, outward=False)
        group.call(held.let)  # the answer is what is cut
        with pytest.raises(QueryFailed) as caught:
            cut.result(PATIENCE_S)
        assert caught.value.code is ErrorCode.DISCONNECTED
        assert other.result(PATIENCE_S).read() == CONTENT
        square.assert_works()
        square.wait_quiet()


@pytest.mark.full
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    at=st.one_of(st.integers(0, 800), st.integers(0, MOST_BYTES)),
    outward=st.booleans(),
    fresh=st.booleans(),
    mode=st.sampled_from([ReplyMode.ROUTE, ReplyMode.CACHED]),
)
def test_link_that_is_cut_at_any_byte(
    square: Square, at: int, outward: bool, fresh: bool, mode: ReplyMode
) -> None:
    square.assert_works()
    square.wait_quiet()
    gc.collect()
    before = square.wait_for_counts({})
    if fresh:  # the handshake is cut, too
        square.knife.arm(0, outward=True)
        with pytest.raises(QueryFailed):
            square.ask(0, mode).result(PATIENCE_S)
        square.wait_quiet()
    square.knife.arm(at, outward=outward)
    other = square.ask(1, mode)
    cut = square.ask(0, mode)
    try:
        with cut.result(PATIENCE_S) as result:
            assert result.read() == CONTENT
    except QueryFailed as error:
        event(f"failed with {error.code and error.code.name}")
    assert other.result(PATIENCE_S).read() == CONTENT
    square.knife.left = None
    square.assert_works()
    square.wait_quiet()
    assert square.wait_for_counts(before) == before
